"""Many training steps at once: a row per point of a grid, as in `sweep`, evaluated by broadcasting.

The sizes of a step are axes of their own, those that are not given among `BATCH_FIELDS` follow from the others point by
point. Where they do not divide, or where a node has not so many GPUs, a row is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from gpt2cost.checks import check_choice
from gpt2cost.device.dtypes import PRECISIONS
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, nearest
from gpt2cost.prediction.blocks import Block, Column, Rows, Task, whole
from gpt2cost.prediction.energy import ENERGY_COLUMNS, check_board_power
from gpt2cost.prediction.grid import Axis, name_axis, size_axis, split_list
from gpt2cost.prediction.shard import WHOLE, Shard, parse_shard, within
from gpt2cost.prediction.sweep import loaded_axes
from gpt2cost.prediction.train import check_gpus, train_run
from gpt2cost.prediction.train_settings import (
    TRAIN_RUNTIMES,
    ZERO_STAGES,
    Batch,
    TrainHow,
    check_batch,
    check_train_how,
    check_training,
    one_dropout,
    solve_batch,
    stage_name,
    with_dropout,
)
from gpt2cost.table.config import Model
from gpt2cost.table.optimizer import OPTIMIZERS
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS, CHECKPOINTING, IMPLEMENTATIONS
from gpt2cost.units import parse_count

TRAIN_CHOICES: dict[str, tuple[str, ...]] = {
    "precision": tuple(PRECISIONS), "attn": ATTENTION_IMPLEMENTATIONS, "runtime": TRAIN_RUNTIMES,
    "impl": IMPLEMENTATIONS, "optimizer": OPTIMIZERS, "checkpointing": CHECKPOINTING, "zero": ZERO_STAGES,
}  # fmt: skip
"""Axes that take one or more names."""
SIZE_AXES = ("gpus", "nodes", "micro_batch", "seq", "grad_accum", "global_batch", "global_tokens")
"""Axes of sizes, in the order of the rows."""
TRAIN_DEFAULTS: dict[str, Any] = {
    "model": (), "gpu": (), "gpus": 1, "nodes": 1, "micro_batch": None, "seq": None, "grad_accum": None,
    "global_batch": None, "global_tokens": None, "precision": "bf16-mixed", "attn": None, "runtime": "eager",
    "impl": None, "compile_inside_ddp": False, "optimizer": "adamw", "clip_grad_norm": 1.0, "dropout": None,
    "checkpointing": "none", "zero": "0",
}  # fmt: skip
"""Every key of a study of training, with its default. None: it follows from the model, or from the other sizes."""
TRAIN_INPUTS = (
    "model", "gpu", "gpus", "nodes", "micro_batch", "seq_len", "grad_accum", "global_batch", "global_tokens",
    "precision", "attn", "runtime", "impl", "compile_inside_ddp", "optimizer", "clip_grad_norm", "dropout",
    "checkpointing", "zero",
)  # fmt: skip
STEP_COLUMNS = (
    "step_s", "step_low_s", "step_high_s", "forward_s", "backward_s", "optimizer_s", "clip_s", "communication_s",
    "exposed_communication_s", "device_s", "host_s", "bound", "tokens_per_s", "tokens_per_s_per_gpu", "flops", "mfu",
    "hfu",
)  # fmt: skip
TRAIN_COLUMNS = (*TRAIN_INPUTS, "phase", *STEP_COLUMNS, "trust", "trust_from", "total_bytes", "fits", "valid")

POINTS, MICRO_STEPS = 1 << 17, 1 << 14
"""What is evaluated together at most: rows, and different micro-steps, each of which holds some 1,500 numbers."""


@dataclass(frozen=True)
class TrainGrid:
    """The axes of a sweep of training; a size that is None follows from the others."""

    names: Mapping[str, tuple[Any, ...]]
    axes: Mapping[str, Axis | None]
    compile_inside_ddp: bool
    clip_grad_norm: float | None
    dropout: float | None
    notes: tuple[str, ...] = ()

    @property
    def combinations(self) -> int:
        """How many choices there are of everything but sizes."""
        return math.prod(map(len, self.names.values()))

    @property
    def sizes(self) -> int:
        """How many combinations of sizes there are."""
        return math.prod(len(axis) for axis in self.axes.values() if axis is not None)

    @property
    def points(self) -> int:
        return self.combinations * self.sizes


@dataclass(frozen=True)
class TrainChoice:
    """One choice of everything but sizes."""

    model: Model
    hardware: Hardware
    train: TrainHow


@dataclass(frozen=True, eq=False, repr=False)
class TrainSweep(Rows):
    """What `sweep` returns of training."""

    inputs = TRAIN_INPUTS

    grid: TrainGrid
    choices: tuple[TrainChoice, ...]
    only_fitting: bool
    only_valid: bool
    warnings: tuple[str, ...]
    kernels: bool = False
    shard: Shard = WHOLE
    energy: bool = False

    def __post_init__(self) -> None:
        if self.energy:
            check_board_power(choice.hardware for choice in self.choices)

    def tasks(self) -> Iterator[Task]:
        first, (low, end) = 0, self.bounds
        for choice in self.choices:
            for part in _parts(_axes(self.grid, choice.model)):
                points = math.prod(1 if axis is None else len(axis) for axis in part)
                if first < end and first + points > low:
                    yield choice, part, first
                first += points

    def block(self, task: Task) -> Block:
        choice, part, first = task
        return within(_block(choice, self, part), first, self.bounds, of_points=len(SIZE_AXES))

    @property
    def names(self) -> tuple[str, ...]:
        """The keys of the rows."""
        return (*TRAIN_COLUMNS, *ENERGY_COLUMNS) if self.energy else TRAIN_COLUMNS


def make_train_grid(**axes: Any) -> TrainGrid:
    """The grid of `axes`; what is left out or None has its default, but for `clip_grad_norm`: None is no clipping.

    An axis is one value, a list of values, or text as in `make_grid`. Raises `InputError` for a key or a value that is
    wrong, and for an axis without values.
    """
    for key in axes:
        if key not in TRAIN_DEFAULTS:
            hint = nearest(key, TRAIN_DEFAULTS) or "known: " + ", ".join(TRAIN_DEFAULTS)
            raise InputError(f"{key}: unknown in a sweep of training; {hint}")
    own = {key: value for key, value in axes.items() if value is not None or key == "clip_grad_norm"}
    given = {**TRAIN_DEFAULTS, **own}
    notes: list[str] = []
    names: dict[str, tuple[Any, ...]] = {}
    for key in ("model", "gpu", *TRAIN_CHOICES):
        if given[key] is None:
            names[key] = (None,)
            continue
        value = tuple(map(stage_name, split_list(key, given[key]))) if key == "zero" else given[key]
        names[key] = name_axis(key, value, notes)
        for name in names[key] if key in TRAIN_CHOICES else ():
            check_choice(key, name, TRAIN_CHOICES[key])
    given["global_tokens"] = _whole(given["global_tokens"])
    sizes = {key: None if given[key] is None else size_axis(key, given[key], 1, notes) for key in SIZE_AXES}
    clip = given["clip_grad_norm"]
    return TrainGrid(
        names, sizes, given["compile_inside_ddp"], None if clip == "none" else clip, given["dropout"], tuple(notes)
    )


def _whole(tokens: object) -> object:
    """Counts of tokens such as 0.5Mi as whole numbers; what is none stays as it is."""
    if isinstance(tokens, str) and "," in tokens:
        return ",".join(map(str, map(_whole, tokens.split(","))))
    if isinstance(tokens, list | tuple):
        return list(map(_whole, tokens))
    with suppress(InputError):
        return parse_count(tokens) if isinstance(tokens, str) else tokens
    return tokens


def sweep_training(
    model: object,
    gpu: object,
    *,
    only_fitting: bool = False,
    only_valid: bool = False,
    model_changes: Mapping[str, Any] | None = None,
    hw_changes: Mapping[str, Any] | None = None,
    shard: str = "1/1",
    energy: bool = False,
    **axes: Any,
) -> TrainSweep:
    """Predict a training step at every point of a grid: rows with the keys of `TRAIN_COLUMNS`, and with `energy` of
    `ENERGY_COLUMNS`.

    `axes` are those of `TRAIN_DEFAULTS`, each one value, a list, or text as in `sweep`. The order is that of nested
    loops over model, gpu, precision, attn, runtime, impl, optimizer, checkpointing and zero, then over the sizes in the
    order of `SIZE_AXES`. A choice that the device cannot run is left out, with a warning, and so is a point whose sizes
    do not divide. Raises `InputError` for what is wrong, and where nothing runs.
    """
    grid = make_train_grid(model=model, gpu=gpu, **axes)
    choices, warnings = plan_training(grid, model_changes, hw_changes)
    part = parse_shard(shard)
    return TrainSweep(grid, tuple(choices), only_fitting, only_valid, tuple(warnings), shard=part, energy=energy)


def plan_training(
    grid: TrainGrid, model_changes: Mapping[str, Any] | None = None, hw_changes: Mapping[str, Any] | None = None
) -> tuple[list[TrainChoice], list[str]]:
    """The choices that run, and warnings. Raises `InputError` for what cannot be loaded, and where none runs."""
    notes = list(grid.notes)
    models, devices = loaded_axes(grid.names["model"], grid.names["gpu"], model_changes, hw_changes, notes)
    running: list[TrainChoice] = []
    reasons: list[str] = []
    partly: list[str] = []
    names = [grid.names[key] for key in TRAIN_CHOICES]
    for model, hardware, *own in itertools.product(models, devices, *names):
        settings = dict(zip(TRAIN_CHOICES, own, strict=True))
        try:
            train = check_train_how(
                **settings, clip_grad_norm=grid.clip_grad_norm, compile_inside_ddp=grid.compile_inside_ddp
            ).on(model)
            check_training(hardware, train, model)
            choice = TrainChoice(with_dropout(model, grid.dropout, settings["impl"]), hardware, train)
            partly += _points_left_out(grid, choice)
        except InputError as error:
            reasons.append(str(error))
        else:
            running.append(choice)
    if not running:
        raise InputError("; ".join(dict.fromkeys(reasons)))
    if reasons:
        notes.append(f"skipped {len(reasons)} of {len(reasons) + len(running)}: {'; '.join(dict.fromkeys(reasons))}")
    notes += [f"rows are left out: {why}" for why in dict.fromkeys(partly)]
    return running, [note for model in models for note in model.notes] + notes


# ---------------------------------------------------------------------------------------------- points

Axes = tuple[Axis | None, ...]
"""The values of each of `SIZE_AXES`, of shape (values,); None where a size follows from the others."""


def _axes(grid: TrainGrid, model: Model) -> Axes:
    return tuple(
        np.array([model.n_positions]) if key == "seq" and axis is None else axis for key, axis in grid.axes.items()
    )


def _parts(axes: Axes) -> Iterator[Axes]:
    """The axes in parts of some points, in order: whole inner axes as long as they fit."""
    points = micro_steps = 1
    steps = []
    is_whole = True
    for key, axis in reversed(list(zip(SIZE_AXES, axes, strict=True))):
        length = 1 if axis is None else len(axis)
        changes = key in ("micro_batch", "seq") or axes[SIZE_AXES.index("micro_batch")] is None
        step = min(length, POINTS // points, MICRO_STEPS // micro_steps if changes else length) if is_whole else 1
        steps.append(max(1, step))
        points, micro_steps = points * length, micro_steps * (length if changes else 1)
        is_whole = is_whole and step == length

    def slices(axis: Axis | None, step: int) -> Sequence[Axis | None]:
        return [None] if axis is None else [axis[start : start + step] for start in range(0, len(axis), step)]

    return itertools.product(*map(slices, axes, reversed(steps)))


def _solved(axes: Axes, hardware: Hardware, train: TrainHow) -> tuple[Batch, Any]:
    """The sizes of all points as arrays that broadcast, and where they are possible: elsewhere they mean nothing."""
    spread = {
        key: None if axis is None else np.reshape(axis, (-1, *[1] * (len(axes) - 1 - place)))
        for place, (key, axis) in enumerate(zip(SIZE_AXES, axes, strict=True))
    }
    given: dict[str, Any] = {key: value for key, value in spread.items() if value is not None}
    gpus, nodes, seq = (given.pop(key) for key in ("gpus", "nodes", "seq"))
    possible = _joined(hardware, train, gpus, nodes)
    if not np.all(possible):
        gpus, nodes = np.where(possible, gpus, 1), np.where(possible, nodes, 1)
    batch, checks = solve_batch(given, seq, gpus, nodes)
    for holds, _ in checks:
        possible = possible & holds
    micro, accum = (np.maximum(size, 1).astype(float) for size in (batch.micro_batch, batch.grad_accum))
    return Batch(micro, seq.astype(float), accum, gpus.astype(float), nodes.astype(float)), possible


def _joined(hardware: Hardware, train: TrainHow, gpus: Any, nodes: Any) -> Any:
    """Where so many GPUs on so many nodes can train together."""
    links = hardware.interconnect
    alone = gpus * nodes == 1
    if train.zero:
        alone = alone & False
    if links is None:
        return alone
    fits = (gpus % nodes == 0) & (gpus // nodes <= links.links.gpus) & ((nodes == 1) | (links.network is not None))
    return alone | (fits & (gpus > 1))


def possible_batches(grid: TrainGrid, choice: TrainChoice) -> Iterator[Batch]:
    """The sizes of the points of a grid that can run, one by one."""
    axes = _axes(grid, choice.model)
    batch, possible = _solved(axes, choice.hardware, choice.train)
    sizes = [getattr(batch, field.name) for field in fields(Batch)]
    for runs, *own in zip(*(array.ravel() for array in np.broadcast_arrays(possible, *sizes)), strict=True):
        if runs:
            yield Batch(*map(int, own))


def _points_left_out(grid: TrainGrid, choice: TrainChoice) -> Iterator[str]:
    """Why some points cannot run, by the first of them. Raises `InputError` if none can."""
    axes = _axes(grid, choice.model)
    _, possible = _solved(axes, choice.hardware, choice.train)
    runs = np.broadcast_to(possible, tuple(1 if axis is None else len(axis) for axis in axes))
    if np.all(runs):
        return
    first = np.unravel_index(int(np.argmin(runs)), runs.shape)
    sizes = {
        key: None if axis is None else int(axis[place]) for key, axis, place in zip(SIZE_AXES, axes, first, strict=True)
    }
    fixed = [sizes.pop(key) for key in ("seq", "gpus", "nodes")]
    try:
        check_gpus(choice.hardware, choice.train, check_batch(sizes, *fixed))
    except InputError as error:
        if not np.any(runs):
            raise
        yield f"{np.sum(~runs)} of {runs.size}, such as one where {error}"


def _block(choice: TrainChoice, sweep: TrainSweep, axes: Axes) -> Block:
    batch, keep = _solved(axes, choice.hardware, choice.train)
    training = train_run(choice.model, choice.hardware, choice.train, batch)
    step, memory, how = training.step, training.memory, choice.train
    valid = np.asarray(batch.seq_len) <= choice.model.n_positions
    sizes = ("gpus", "nodes", "micro_batch", "seq_len", "grad_accum", "global_batch", "global_tokens")
    columns: dict[str, Column] = {
        "model": choice.model.name, "gpu": choice.hardware.name,
        **{name: whole(getattr(batch, name)) for name in sizes},
        "precision": how.precision, "attn": how.how.attn, "runtime": how.how.runtime, "impl": how.how.impl,
        "compile_inside_ddp": how.compile_inside_ddp, "optimizer": how.optimizer,
        "clip_grad_norm": how.clip_grad_norm, "dropout": one_dropout(choice.model), "checkpointing": how.checkpointing,
        "zero": how.zero, "phase": "train",
        **{name: getattr(step, name) for name in STEP_COLUMNS if name != "flops"},
        "flops": whole(step.flops), "trust": training.trust, "trust_from": training.trust_from,
        "total_bytes": whole(memory.total_bytes), "fits": memory.fits, "valid": valid,
    }  # fmt: skip
    if sweep.energy:
        columns |= {name: getattr(training.energy_bounds()[0], name) for name in ENERGY_COLUMNS}
    if sweep.only_fitting:
        keep = keep & memory.fits
    if sweep.only_valid:
        keep = keep & valid
    shape = tuple(1 if axis is None else len(axis) for axis in axes)
    everything = bool(np.all(keep))
    return Block({name: columns[name] for name in sweep.names}, shape, everything or keep, math.prod(shape))
