"""A sweep as text in pieces, and as a table for people. Its fields are the columns of `prediction.sweep`, or of
`prediction.train_sweep`."""

from __future__ import annotations

import csv
import io
import json
import math
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
Each: TypeAlias = Callable[[Callable[[Block], Iterable[Any]]], Iterable[Any]]
"""Applies a function that makes pieces of a block to every block, in order, and gives the pieces."""


def show_sweep(sink: Sink, sweep: Rows, each: Each) -> None:
    """Write the rows of a sweep in the order of its blocks as `each` gives them, as they come."""
    if sink.format in COLUMNAR:
        room = import_module("gpt2cost.output.arrow")
        sink.stream_bytes(
            room.block_chunks(each(lambda block: [room.with_places(block)]), sweep.names, _head(sweep), sink.format)
        )
    elif sink.format == "json":
        sink.stream(json_chunks(each, sweep.names, _head(sweep)))
    elif sink.format in LINES:
        head, lines = LINES[sink.format]
        first = [head(sweep.names)] if sweep.shard.number == 1 else []
        sink.stream(chain(filter(None, first), each(lines)))
    else:
        rows = list(islice(each(block_rows), TABLE_ROWS + 1))
        sink.page(lambda page: _table(page, rows[:TABLE_ROWS], sweep))
        if len(rows) > TABLE_ROWS:
            print_warnings([f"the table ends after {TABLE_ROWS:,} rows; --format csv gives all"])


# ---------------------------------------------------------------------------------------------- text in pieces

ROWS_AT_ONCE = 1 << 13
"""Rows of a piece."""


def csv_lines(block: Block) -> Iterator[str]:
    """A line per row. Floats are written so that they read back as they are."""
    commas = ["", *[","] * (len(block.columns) - 1)]
    return _pieces(block, commas, "\n", _csv_text, repr)


def jsonl_lines(block: Block) -> Iterator[str]:
    """An object per line."""
    return _pieces(block, _keys(block, ""), "}\n", json.dumps, repr)


def json_chunks(each: Each, columns: Sequence[str], head: Record) -> Iterator[str]:
    """One document: `head`, and the objects under `rows`, one per line."""
    yield json.dumps(head, indent=2, allow_nan=False)[:-2] + ',\n  "rows": ['
    pieces = iter(each(lambda block: _pieces(block, _keys(block, ",\n    "), "}", json.dumps, repr)))
    yield next(pieces, "").removeprefix(",")
    yield from pieces
    yield "\n  ]\n}\n"


def markdown_head(columns: Sequence[str]) -> str:
    """The head of a pipe table; numbers are aligned right."""
    return f"| {' | '.join(columns)} |\n| {' | '.join('---:' if is_number(name) else '---' for name in columns)} |\n"


def markdown_lines(block: Block) -> Iterator[str]:
    """The rows of a pipe table."""
    bars = ["| ", *[" | "] * (len(block.columns) - 1)]
    return _pieces(block, bars, " |\n", markdown_cell, markdown_cell)


LINES: dict[str, tuple[Callable[[Sequence[str]], str], Callable[[Block], Iterator[str]]]] = {
    "csv": (lambda columns: ",".join(columns) + "\n", csv_lines),
    "jsonl": (lambda columns: "", jsonl_lines),
    "markdown": (markdown_head, markdown_lines),
}
"""A format of a line per row -> what it begins with, and the lines of a block."""


def _keys(block: Block, before: str) -> list[str]:
    """What stands before each value of an object."""
    return [f'{", " if number else before + "{"}"{name}": ' for number, name in enumerate(block.columns)]


def _pieces(block: Block, before: Sequence[str], end: str, quote: Text, number: Text) -> Iterator[str]:
    """The rows as text. `before`: what stands before each of their values; `end`: after the last.

    Neighbours that depend on few sizes are joined in the shape that they depend on, and written once. Numbers that
    differ from row to row are written piece by piece.
    """
    parts: list[Any] = []
    texts: Any = ""

    def write_alone(part: Any) -> None:
        nonlocal texts
        parts.extend((block.spread(np.asarray(texts, object)), part))
        texts = ""

    for literal, values in zip(before, block.columns.values(), strict=True):
        texts = texts + literal
        array = np.asarray(values)
        if _is_large(array.shape, block):
            write_alone((block.spread(array), _writer(array, quote, number)))
            continue
        written = _written(array, quote, number)
        if _is_large(np.broadcast_shapes(np.shape(texts), array.shape), block):
            write_alone(block.spread(written))
        else:
            texts = texts + written
    parts.append(block.spread(np.asarray(texts + end, object)))
    for start in range(0, block.rows, ROWS_AT_ONCE):
        piece = slice(start, start + ROWS_AT_ONCE)
        rows = min(ROWS_AT_ONCE, block.rows - start)
        cells: list[str] = [""] * (rows * len(parts))
        for place, part in enumerate(parts):
            if isinstance(part, tuple):
                array, write = part
                cells[place :: len(parts)] = _each_once(array[piece], write)
            else:
                cells[place :: len(parts)] = part[piece].tolist()
        yield "".join(cells)


def _each_once(values: Any, write: Text) -> list[str]:
    """Values as text; floats of which many are equal are written once, which takes longer than to find them."""
    if values.dtype.kind == "f":
        different, places = np.unique(values, return_inverse=True)
        if 2 * different.size < values.size:
            texts: list[str] = np.array(list(map(write, different.tolist())), object)[places].tolist()
            return texts
    return list(map(write, values.tolist()))


def _is_large(shape: tuple[int, ...], block: Block) -> bool:
    """Whether a column of a shape has so many values that each is written where it stands."""
    return math.prod(shape) > max(1, math.prod(block.shape) // 8)


def _written(values: Any, quote: Text, number: Text) -> Any:
    """A column's values as text, in an array of its shape."""
    cells = np.empty(values.size, object)
    cells[:] = list(map(_writer(values, quote, number), values.ravel().tolist()))
    return cells.reshape(values.shape)


def _writer(values: Any, quote: Text, number: Text) -> Text:
    """How the values of a column are written; each word is quoted once."""
    by_kind: dict[str, Text] = {"b": lambda value: "true" if value else "false", "f": number, "i": str}
    return by_kind.get(values.dtype.kind) or cache(quote)


def _csv_text(value: str) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([csv_cell(value)])
    return out.getvalue()[:-1]


# ---------------------------------------------------------------------------------------------- a table for people

_HEADERS = {"batch_size": "batch", "seq_len": "seq", "cache_len": "cache"}
MARKS: Field[Record] = Field("", "", "", lambda row: ("" if row["fits"] else "!") + ("" if row["valid"] else "*"))
KERNEL: tuple[tuple[Field[Record], ...], ...] = (
    (NAME, COUNT, FLOPS, MOVED, INTENSITY, DEVICE_S, SHARE, BOUND),
    (NAME, COUNT, FLOPS, MOVED, DEVICE_S, BOUND),
    (NAME, COUNT, DEVICE_S, BOUND),
    (NAME, DEVICE_S),
)
"""What the table shows of a kernel, the fullest layout first."""


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
    of_passes = _train_layouts if isinstance(sweep, TrainSweep) else _layouts
    layouts = KERNEL if sweep.kernels else of_passes(rows)
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
    """What is left on a narrow page."""
    return [(time, rate, *energy, BOUND), (time, *energy, BOUND), (time, *energy)]


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
