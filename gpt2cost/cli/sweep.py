"""`gpt2cost sweep`: many points at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2cost.cli.flags import (
    AttnsFlag,
    DtypesFlag,
    FormatFlag,
    GpusFlag,
    HwSetFlag,
    ModelsFlag,
    OutputFlag,
    RuntimesFlag,
    SetFlag,
    among,
    assignments,
    required,
)
from gpt2cost.errors import InputError
from gpt2cost.output.sink import Sink, print_warnings

MANY_POINTS = 10_000_000
"""A grid above this size needs --yes: a CSV file of it passes 2 GB."""


LONG = 500_000
"""From this many points on, a terminal sees a progress bar."""


TABLE_ROWS = 10_000
"""A table for people ends here."""


def sweep(
    model: ModelsFlag = None,
    gpu: GpusFlag = None,
    batch: Annotated[
        str | None, typer.Option("--batch", "--batch-size", help="Sequences: 1,2,8, 1-64*2.", show_default="1")
    ] = None,
    seq: Annotated[
        str | None, typer.Option("--seq", "--seq-len", help="New tokens: 64, 128-1024+128.", show_default="128")
    ] = None,
    cache: Annotated[
        str | None, typer.Option("--cache", "--cache-len", help="Tokens in the KV cache: 0,512.", show_default="0")
    ] = None,
    dtype: DtypesFlag = None,
    attn: AttnsFlag = None,
    runtime: RuntimesFlag = None,
    phase: Annotated[
        str | None,
        typer.Option(
            "--phase",
            help="prefill (the pass itself), decode (the next token) or both: two rows a point.",
            show_default="prefill",
            autocompletion=among("prefill", "decode", "both"),
        ),
    ] = None,
    logits: Annotated[
        str | None,
        typer.Option("--logits", help="lm_head on all positions or the last.", autocompletion=among("all", "last")),
    ] = None,
    no_use_cache: Annotated[bool, typer.Option("--no-use-cache", help="Without a KV cache; --cache is 0.")] = False,
    grid: Annotated[
        Path | None, typer.Option("--grid", help="A saved study in YAML; flags override it.", show_default=False)
    ] = None,
    set_: SetFlag = None,
    hw_set: HwSetFlag = None,
    kernels: Annotated[bool, typer.Option("--kernels", help="A row a kernel.")] = False,
    only_fitting: Annotated[bool, typer.Option("--only-fitting", help="Only what fits into memory.")] = False,
    only_valid: Annotated[bool, typer.Option("--only-valid", help="Only within the model's positions.")] = False,
    sort: Annotated[
        str | None, typer.Option("--sort", help="Sort by a column; -COLUMN: largest first.", show_default=False)
    ] = None,
    top: Annotated[int | None, typer.Option("--top", help="Only the first rows.", show_default=False)] = None,
    yes: Annotated[bool, typer.Option("--yes", help=f"Also a grid of more than {MANY_POINTS:,} points.")] = False,
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Predict every point of a grid: a row a point, for spreadsheets and scripts.

    Any size may be a list (1,2,8) or a range (1-64*2, 128-1024+128), any name a list.
    """
    from gpt2cost.output import sweep as sweep_text
    from gpt2cost.output.record import envelope
    from gpt2cost.output.sweep import render_sweep
    from gpt2cost.prediction import grid as grids
    from gpt2cost.prediction.sweep import COLUMNS, KERNEL_COLUMNS, Block, block_rows, blocks, plan
    from gpt2cost.prediction.sweep_order import check_column, ordered

    sink = Sink(format, output)
    study = grids.read_study(grid) if grid else {}
    flags = {
        "model": model, "gpu": gpu, "batch": batch, "seq": seq, "cache": cache, "dtype": dtype, "attn": attn,
        "runtime": runtime, "phase": phase, "logits": logits, "use_cache": False if no_use_cache else None,
    }  # fmt: skip
    what_ifs = [
        {**study.pop(key, {}), **assignments(flag, given, separator)}
        for key, flag, given, separator in (("set", "--set", set_, ","), ("hw_set", "--hw-set", hw_set, None))
    ]
    given = {**study, **{key: value for key, value in flags.items() if value is not None}}
    for key in ("model", "gpu"):
        required(f"--{key}", given.get(key))
    if sort is not None:
        check_column(sort, kernels)
    if top is not None and top < 1:
        raise InputError(f"top: expected at least 1, got {top}")
    chosen = grids.make_grid(**given)
    if chosen.points > MANY_POINTS and not yes:
        raise InputError(f"the grid has {chosen.points:,} points; --yes evaluates more than {MANY_POINTS:,}")
    combinations, warnings = plan(chosen, *what_ifs)
    print_warnings(warnings)

    columns = KERNEL_COLUMNS if kernels else COLUMNS
    total = chosen.points * len(combinations) // chosen.combinations
    with _progress(total, sink) as seen:
        found = map(seen, blocks(chosen, combinations, kernels, only_fitting, only_valid))
        rows: Iterator[Block] = ordered(found, sort, top)
        match format:
            case "csv":
                sink.stream(sweep_text.csv_chunks(rows, columns))
            case "jsonl":
                sink.stream(sweep_text.jsonl_chunks(rows, columns))
            case "json":
                head = {
                    **envelope(),
                    "what_if": {"model": dict(combinations[0].model.changes), "hardware": what_ifs[1]},
                }
                sink.stream(sweep_text.json_chunks(rows, columns, head))
            case "markdown":
                sink.stream(sweep_text.markdown_chunks(rows, columns))
            case _:
                shown = [row for block in ordered(rows, None, TABLE_ROWS + 1) for row in block_rows(block)]
                sink.page(lambda page: render_sweep(page, shown[:TABLE_ROWS], kernels))
                if len(shown) > TABLE_ROWS:
                    print_warnings([f"the table ends after {TABLE_ROWS:,} rows; --format csv gives all"])


@contextmanager
def _progress(total: int, sink: Sink) -> Iterator[Callable[[Any], Any]]:
    """A progress bar over `total` points on stderr, if that is a terminal with nothing else on it, for long work.

    Gives a function that passes a block through and counts its points.
    """
    alone = sys.stderr.isatty() and (sink.output is not None or not sys.stdout.isatty())
    if total < LONG or not alone:
        yield lambda block: block
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("points", total=total)

        def seen(block: Any) -> Any:
            bar.advance(task, block.points)
            return block

        yield seen
