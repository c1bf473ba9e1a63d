"""A sweep as text in pieces, and as a table for people. Its fields are the columns of `prediction.sweep`, or of
`prediction.train_sweep`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.output.columns import is_number
from gpt2cost.output.field import Field, Record, column
from gpt2cost.output.formats import COLUMNAR, csv_cell, markdown_cell
from gpt2cost.output.messages import print_warnings
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.output.shared import BOUND, COUNT, DEVICE_S, FLOPS, INTENSITY, MOVED, NAME, SHARE
from gpt2cost.output.sink import Sink
from gpt2cost.prediction.blocks import Block, Rows, block_rows
from gpt2cost.prediction.energy import ENERGY_TEXT
from gpt2cost.prediction.train_sweep import TrainSweep
from gpt2cost.units import scale_for

TABLE_ROWS = 10_000
"""A table for people ends here."""
NOTEBOOK_ROWS = 60
"""And in a notebook here."""

Text: TypeAlias = Callable[[Any], str]
"""How a value is written."""


def show_sweep(sink: Sink, sweep: Rows, blocks: Iterable[Block]) -> None:
    """Write the rows of `blocks`, which are those of `sweep` in the order that is wanted, as they come."""
    chunks = {"csv": csv_chunks, "jsonl": jsonl_chunks, "markdown": markdown_chunks}
    if sink.format in COLUMNAR:
        room = import_module("gpt2cost.output.arrow")
        sink.stream_bytes(room.block_chunks(blocks, sweep.names, _head(sweep), sink.format))
    elif sink.format == "json":
        sink.stream(json_chunks(blocks, sweep.names, _head(sweep)))
    elif sink.format in chunks:
        pieces = chunks[sink.format](blocks, sweep.names)
        sink.stream(pieces if sweep.shard.number == 1 or sink.format == "jsonl" else islice(pieces, 1, None))
    else:
        rows = list(islice(chain.from_iterable(map(block_rows, blocks)), TABLE_ROWS + 1))
        sink.page(lambda page: _table(page, rows[:TABLE_ROWS], sweep))
        if len(rows) > TABLE_ROWS:
            print_warnings([f"the table ends after {TABLE_ROWS:,} rows; --format csv gives all"])


# ---------------------------------------------------------------------------------------------- text in pieces


def csv_chunks(blocks: Iterable[Block], columns: Sequence[str]) -> Iterator[str]:
    """A header line, then a line per row. Floats are written so that they read back as they are."""
    yield ",".join(columns) + "\n"
    for block in blocks:
        yield _lines(map(",".join, _cells(block, _csv_text, repr)))


def jsonl_chunks(blocks: Iterable[Block], columns: Sequence[str]) -> Iterator[str]:
    """An object per line."""
    for block in blocks:
        yield _lines(_objects(block, columns))


def json_chunks(blocks: Iterable[Block], columns: Sequence[str], head: Record) -> Iterator[str]:
    """One document: `head`, and the objects under `rows`, one per line."""
    yield json.dumps(head, indent=2, allow_nan=False)[:-2] + ',\n  "rows": ['
    separator = "\n    "
    for block in blocks:
        if rows := ",\n    ".join(_objects(block, columns)):
            yield separator + rows
            separator = ",\n    "
    yield "\n  ]\n}\n"


def markdown_chunks(blocks: Iterable[Block], columns: Sequence[str]) -> Iterator[str]:
    """A pipe table; numbers are aligned right."""
    yield f"| {' | '.join(columns)} |\n| {' | '.join('---:' if is_number(name) else '---' for name in columns)} |\n"
    for block in blocks:
        yield _lines(f"| {' | '.join(row)} |" for row in _cells(block, markdown_cell, markdown_cell))


def _lines(rows: Iterable[str]) -> str:
    text = "\n".join(rows)
    return text + "\n" if text else ""


def _objects(block: Block, columns: Sequence[str]) -> Iterator[str]:
    template = "{" + ", ".join(f'"{name}": %s' for name in columns) + "}"
    return (template % row for row in _cells(block, json.dumps, repr))


def _cells(block: Block, quote: Text, number: Text) -> Iterator[tuple[str, ...]]:
    """The rows as text. A column is written in the shape that it depends on, then spread."""
    columns = (block.spread(_written(values, quote, number)) for values in block.columns.values())
    return zip(*(cells.tolist() for cells in columns), strict=True)


def _written(values: Any, quote: Text, number: Text) -> Any:
    """A column's values as text, in an array of its shape."""
    array = np.asarray(values)
    by_kind: dict[str, Text] = {"b": lambda value: "true" if value else "false", "f": number, "i": str}
    write = by_kind.get(array.dtype.kind, cache(quote))  # each word is quoted once
    cells = np.empty(array.size, object)
    cells[:] = list(map(write, array.ravel().tolist()))
    return cells.reshape(array.shape)


def _csv_text(value: str) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([csv_cell(value)])
    return out.getvalue()[:-1]


# ---------------------------------------------------------------------------------------------- a table for people

_HEADERS = {"batch_size": "batch", "seq_len": "seq", "cache_len": "cache"}
MARKS: Field[Record] = Field("", "", "", lambda row: ("" if row["fits"] else "!") + ("" if row["valid"] else "*"))
KERNEL = (NAME, COUNT, FLOPS, MOVED, INTENSITY, DEVICE_S, SHARE, BOUND)
"""What the table shows of a kernel."""


def _table(page: Page, rows: Sequence[Record], sweep: Rows) -> None:
    """What all rows share in a line, what varies in a table. Marks: `!` does not fit, `*` passes the positions."""
    if not rows:
        page.line("no rows")
        return
    inputs = tuple(dict.fromkeys((*sweep.inputs, "impl", "phase", "trust")))
    varying = [name for name in inputs if any(row[name] != rows[0][name] for row in rows)]
    shared = [name for name in inputs if name not in varying and rows[0][name] != USUAL.get(name, "")]
    page.line(", ".join(_shared(name, rows[0][name]) for name in shared), "\n")
    columns = [column(name, _HEADERS.get(name, name)) for name in varying]
    layouts = [KERNEL] if sweep.kernels else _train_layouts(rows) if isinstance(sweep, TrainSweep) else _layouts(rows)
    page.fields(rows, *((*columns, *layout, MARKS) for layout in layouts))
    if "energy_bound_j" in sweep.names:
        page.line(f"\n{ENERGY_TEXT}")
    notes = [("fits", "! does not fit into the device's memory"), ("valid", "* beyond the model's positions")]
    if shown := [text for name, text in notes if not all(row[name] for row in rows)]:
        page.line("\n", "; ".join(shown))


USUAL = {"impl": "hf", "compile_inside_ddp": False, "nodes": 1, "checkpointing": "none", "zero": 0}
"""What goes without saying."""


def _shared(name: str, value: Any) -> str:
    if name == "use_cache":
        return "with KV cache" if value else "no KV cache"
    if name == "cache_type":
        return f"{value} cache"
    return f"{_HEADERS.get(name, name)} {value}"


def _fine(rows: Sequence[Record], shown: Field[Record], scale: Field[Record]) -> Field[Record]:
    """Numbers of one unit, in which the smallest of the column `scale` can still be read: a sweep spans decades."""
    divisor, label = scale_for([min(float(scale.get(row)) for row in rows)], shown.unit)
    header = f"{shown.header} {label}".strip()
    return replace(shown, header=header, unit=".", get=lambda row: shown.get(row) / divisor)


def _layouts(rows: Sequence[Record]) -> list[tuple[Field[Record], ...]]:
    """The columns of a pass, the fullest layout first."""
    headers = {
        "latency_s": "latency", "latency_low_s": "low", "latency_high_s": "high", "device_s": "device",
        "host_s": "host",
    }  # fmt: skip
    seconds = [column(key, header, "s") for key, header in headers.items()]
    times = [_fine(rows, shown, seconds[0]) for shown in seconds]
    memory, flops, moved = (_fine(rows, shown, shown) for shown in (column("total_bytes", "memory", "B"), FLOPS, MOVED))
    rate, energy = column("tokens_per_s", "tokens/s", ","), _energy(rows)
    rest = (rate, memory, *energy, BOUND)
    full = (*times, flops, moved, *rest)
    return [full, *((*times[:shown], *rest) for shown in (5, 3, 1)), *_shorter(times[0], rate, energy)]


def _energy(rows: Sequence[Record]) -> list[Field[Record]]:
    """What a token may take at most, where that was asked for."""
    energy = column("energy_bound_j_per_token", "energy/token <=", "own J")
    return [energy] * (energy.key in rows[0])


def _shorter(
    time: Field[Record], rate: Field[Record], energy: Sequence[Field[Record]]
) -> list[tuple[Field[Record], ...]]:
    """What is left on a narrow page where energy was asked for."""
    return [(time, rate, *energy, BOUND), (time, *energy, BOUND)] if energy else []


def _train_layouts(rows: Sequence[Record]) -> list[tuple[Field[Record], ...]]:
    """The columns of a training step, the fullest layout first."""
    headers = {
        "step_s": "step", "step_low_s": "low", "step_high_s": "high", "forward_s": "forward", "backward_s": "backward",
        "optimizer_s": "optimizer", "exposed_communication_s": "exposed",
    }  # fmt: skip
    seconds = [column(key, header, "s") for key, header in headers.items()]
    times = [_fine(rows, shown, seconds[0]) for shown in seconds]
    memory = column("total_bytes", "memory", "B")
    rate, energy = column("tokens_per_s", "tokens/s", ","), _energy(rows)
    rest = (rate, column("mfu", "MFU", "%"), _fine(rows, memory, memory), *energy, BOUND)
    return [*((*times[:shown], *rest) for shown in (7, 3, 1)), *_shorter(times[0], rate, energy)]


# ---------------------------------------------------------------------------------------------- the view


def _head(sweep: Rows) -> Record:
    return envelope(sweep.choices[0].model, sweep.choices[0].hardware)


def _text(page: Page, sweep: Rows) -> None:
    """The first rows."""
    rows = list(islice(sweep, NOTEBOOK_ROWS + 1))
    _table(page, rows[:NOTEBOOK_ROWS], sweep)
    if len(rows) > NOTEBOOK_ROWS:
        page.line(f"\nthe first {NOTEBOOK_ROWS} rows; columns() has all")


def _summary(sweep: Rows) -> tuple[str, str]:
    row = "kernel" if sweep.kernels else "step" if isinstance(sweep, TrainSweep) else "pass"
    choices = f"{len(sweep.choices):,}; sizes: {sweep.sizes:,}"
    first = f"<Sweep of {sweep.points:,} points, a row per {row}:"
    return first, f" choices of model, device and settings: {choices}>"


SWEEP: View[Rows] = View(iter, lambda sweep: {**_head(sweep), "rows": list(sweep)}, _text, _summary)
VIEWS: dict[type, View[Any]] = {Rows: SWEEP}
