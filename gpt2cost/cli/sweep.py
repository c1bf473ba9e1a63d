"""`gpt2cost sweep`: many points at once."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.choices import among, choice
from gpt2cost.cli.exits import ExitFlags
from gpt2cost.cli.flags import CACHE_TYPE_OPTION, LOGITS_OPTION, PHASE_HELP, NoCacheFlag, OutputFlags, takes
from gpt2cost.cli.given import named_as_given, refuse, required
from gpt2cost.cli.many import EnergyFlag, ManyFlags, ShardFlag, SizeListFlags
from gpt2cost.cli.train_many import NOT_OF_TRAINING, ONLY_TRAINING, TrainListFlags
from gpt2cost.errors import InputError
from gpt2cost.output.messages import print_warnings
from gpt2cost.output.sink import Sink
from gpt2cost.output.sweep import show_sweep
from gpt2cost.prediction.blocks import Block, Rows
from gpt2cost.prediction.energy import ENERGY_COLUMNS
from gpt2cost.prediction.grid import DEFAULTS, Grid, make_grid, read_study
from gpt2cost.prediction.parallel import made_of_each
from gpt2cost.prediction.settings import PHASES, TRAIN
from gpt2cost.prediction.shard import WHOLE, parse_shard
from gpt2cost.prediction.sweep import COLUMNS, KERNEL_COLUMNS, Sweep, plan
from gpt2cost.prediction.sweep_order import check_column, ordered
from gpt2cost.prediction.train_sweep import (
    TRAIN_COLUMNS,
    TRAIN_DEFAULTS,
    TrainGrid,
    TrainSweep,
    make_train_grid,
    plan_training,
)
from gpt2cost.prediction.what_ifs import points_of

MANY_POINTS = 10_000_000
"""A grid above this size needs --yes: a CSV file of it passes 2 GB."""
LONG = 500_000
"""From this many points on, a terminal sees a progress bar."""

T = TypeVar("T")


@takes
def sweep(
    *,
    many: ManyFlags,
    sizes: SizeListFlags,
    phase: Annotated[
        str | None,
        choice(
            "--phase", (*PHASES, TRAIN), f"{PHASE_HELP}: two rows per point; train: a step.", show_default="prefill"
        ),
    ] = None,
    logits: Annotated[str | None, LOGITS_OPTION] = None,
    no_use_cache: NoCacheFlag = False,
    cache_type: Annotated[str | None, CACHE_TYPE_OPTION] = None,
    grid: Annotated[
        Path | None, typer.Option("--grid", help="A saved study in YAML (- is stdin); flags override it.")
    ] = None,
    kernels: Annotated[bool, typer.Option("--kernels", help="A row per kernel.")] = False,
    energy: EnergyFlag = False,
    only_fitting: Annotated[bool, typer.Option("--only-fitting", help="Only what fits into memory.")] = False,
    only_valid: Annotated[bool, typer.Option("--only-valid", help="Only within the model's positions.")] = False,
    sort: Annotated[
        str | None,
        typer.Option("--sort", help="Sort by a column; -COLUMN: largest first.", autocompletion=among(*COLUMNS)),
    ] = None,
    top: Annotated[int | None, typer.Option("--top", help="Only the first rows.")] = None,
    shard: ShardFlag = None,
    yes: Annotated[bool, typer.Option("--yes", help=f"Also a grid of more than {MANY_POINTS:,} points.")] = False,
    training: TrainListFlags,
    exits: ExitFlags,
    out: OutputFlags,
) -> None:
    """Predict every point of a grid: a row per point, for spreadsheets and scripts.

    Any size may be a list (1,2,8) or a range (1-64*2, 128-1024+128), any name a list.
    """
    sink = out.sink()
    study = read_study(grid, (*DEFAULTS, *TRAIN_DEFAULTS)) if grid else {}
    changes = {**study.pop("set", {}), **many.model_changes()}, {**study.pop("hw_set", {}), **many.hw_changes()}
    inference: dict[str, Any] = {"batch": sizes.batch, "cache": sizes.cache, "dtype": many.dtype, "logits": logits}
    inference |= {"use_cache": False if no_use_cache else None, "cache_type": cache_type}
    shared = {name: value for name, value in many.axes().items() if name != "dtype"} | {"seq": sizes.seq}
    if phase is not None:
        check_choice("phase", phase, (*PHASES, TRAIN))
    trains = (phase or study.get("phase")) == TRAIN
    if trains:
        refuse({**inference, "no_use_cache": no_use_cache, "kernels": kernels}, NOT_OF_TRAINING)
        study.pop("phase", None)
        flags = {**shared, **training.given()}
    else:
        refuse(vars(training), ONLY_TRAINING)
        flags = {**shared, **inference, "phase": phase}
    axes = study | {name: value for name, value in flags.items() if value is not None}
    for name in ("model", "gpu"):
        required(f"--{name}", axes.get(name))
    if sort is not None:
        columns = TRAIN_COLUMNS if trains else KERNEL_COLUMNS if kernels else COLUMNS
        if not energy and sort.removeprefix("-") in ENERGY_COLUMNS:
            raise InputError(f"--sort {sort}: goes with --energy")
        check_column(sort, (*columns, *ENERGY_COLUMNS) if energy else columns)
    if top is not None and top < 1:
        raise InputError(f"top: expected at least 1, got {top}")
    points = make_train_grid(**axes) if trains else make_grid(**axes)
    part = WHOLE if shard is None else parse_shard(shard)
    if part is not WHOLE and (sort is not None or top is not None):
        raise InputError("--shard: a part in another order is no part of the whole; leave out --sort and --top")
    first, end = part.bounds(points.points * math.prod(map(points_of, changes)))
    if end - first > MANY_POINTS and not yes:
        raise InputError(f"the grid has {end - first:,} points; --yes evaluates more than {MANY_POINTS:,}")
    with named_as_given(encoder_len=many.encoder_len):
        planned = replace(_planned(points, changes, kernels, only_fitting, only_valid), shard=part, energy=energy)
    print_warnings(planned.warnings)
    seen: dict[str, set[bool]] = {"fits": set(), "valid": set()}
    with _progress(planned.points, sink) as advance:

        def each(make: Callable[[Block], Iterable[T]]) -> Iterator[T]:
            if sort is None and top is None:
                return _pieces(planned, make, advance, seen)
            blocks = _pieces(planned, lambda block: [block], advance, seen)
            return chain.from_iterable(map(make, ordered(blocks, sort, top)))

        show_sweep(sink, planned, each)
    exits.leave(
        oom=all(seen["fits"]) and (bool(seen["fits"]) or not only_fitting),
        positions=all(seen["valid"]) and (bool(seen["valid"]) or not only_valid),
    )


def _planned(
    points: Grid | TrainGrid, changes: tuple[dict[str, Any], dict[str, Any]], kernels: bool, only_fitting: bool,
    only_valid: bool,
) -> Sweep | TrainSweep:  # fmt: skip
    """The sweep over a grid, of what runs."""
    if isinstance(points, TrainGrid):
        trained, warnings = plan_training(points, *changes)
        return TrainSweep(points, tuple(trained), only_fitting, only_valid, tuple(warnings))
    choices, warnings = plan(points, *changes)
    return Sweep(points, tuple(choices), kernels, only_fitting, only_valid, tuple(warnings))


def _progress(total: int, sink: Sink) -> AbstractContextManager[Callable[[int], Any]]:
    """A progress bar over `total` points on stderr, if that is a terminal with nothing else on it, for long work."""
    alone = sys.stderr.isatty() and (sink.output is not None or not sys.stdout.isatty())
    if total < LONG or not alone:
        return nullcontext(lambda points: None)
    bar: AbstractContextManager[Callable[[int], Any]] = import_module("gpt2cost.output.terminal").progress_bar(
        total, "points"
    )
    return bar


def _pieces(
    sweep: Rows, make: Callable[[Block], Iterable[T]], advance: Callable[[int], Any], seen: dict[str, set[bool]]
) -> Iterator[T]:
    """What `make` makes of each block of a sweep. `advance` is told the points of each, and `seen` what stands in some
    of its columns."""

    def made(block: Block) -> Iterator[Any]:
        yield block.points, {name: set(np.unique(block.flat(name)).tolist()) for name in seen}
        yield from make(block)

    for pieces in made_of_each(sweep, made):
        points, found = next(pieces)
        advance(points)
        for name, values in found.items():
            seen[name] |= values
        yield from pieces
