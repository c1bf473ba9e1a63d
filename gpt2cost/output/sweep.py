"""A sweep as text in pieces, and as a table for people."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.output.formats import markdown_cell
from gpt2cost.output.page import Column, Page, first_fit, grid, scaled_column, short_number, text_column
from gpt2cost.output.record import Record
from gpt2cost.prediction.sweep import INPUTS, Block
from gpt2cost.units import scale_for

WORDS = frozenset(("model", "gpu", "dtype", "attn", "runtime", "phase", "bound", "fits", "valid", "name", "op", "kind"))
"""Columns that are no numbers."""


Quote: TypeAlias = Callable[[str], str]


def csv_chunks(blocks: Iterable[Block], columns: tuple[str, ...]) -> Iterator[str]:
    """A header line, then a line a row. Floats are written so that they read back as they are."""
    yield ",".join(columns) + "\n"
    for block in blocks:
        yield _lines(map(",".join, _cells(block, _csv_text, repr)))


def jsonl_chunks(blocks: Iterable[Block], columns: tuple[str, ...]) -> Iterator[str]:
    """An object a line."""
    for block in blocks:
        yield _lines(_objects(block, columns))


def json_chunks(blocks: Iterable[Block], columns: tuple[str, ...], head: Record) -> Iterator[str]:
    """One document: `head`, and the objects under `rows`, a line each."""
    yield json.dumps(head, indent=2, allow_nan=False)[:-2] + ',\n  "rows": ['
    separator = "\n    "
    for block in blocks:
        if rows := ",\n    ".join(_objects(block, columns)):
            yield separator + rows
            separator = ",\n    "
    yield "\n  ]\n}\n"


def markdown_chunks(blocks: Iterable[Block], columns: tuple[str, ...]) -> Iterator[str]:
    """A pipe table; numbers are aligned right."""
    yield f"| {' | '.join(columns)} |\n| {' | '.join('---' if name in WORDS else '---:' for name in columns)} |\n"
    for block in blocks:
        yield _lines(f"| {' | '.join(row)} |" for row in _cells(block, markdown_cell, markdown_cell))


def _lines(rows: Iterable[str]) -> str:
    text = "\n".join(rows)
    return text + "\n" if text else ""


def _objects(block: Block, columns: tuple[str, ...]) -> Iterator[str]:
    template = "{" + ", ".join(f'"{name}": %s' for name in columns) + "}"
    return (template % row for row in _cells(block, json.dumps, repr))


def _cells(block: Block, text: Quote, number: Callable[[float], str]) -> Iterator[tuple[str, ...]]:
    """The rows as text. A column is written in the shape that it depends on, then spread."""
    columns = (block.spread(_written(values, text, number)) for values in block.columns.values())
    return zip(*(cells.tolist() for cells in columns), strict=True)


def _written(values: Any, text: Quote, number: Callable[[float], str]) -> Any:
    array = np.asarray(values)
    write: Callable[[Any], str]
    match array.dtype.kind:
        case "b":
            return np.where(array, "true", "false").astype(object)
        case "f":
            write = number
        case "i":
            write = str
        case _:  # text, or what is too large for int64
            known: dict[Any, str] = {}
            write = lambda value: known.get(value) or known.setdefault(value, _any(value, text))  # noqa: E731
    cells = np.empty(array.size, object)
    cells[:] = list(map(write, array.ravel().tolist()))
    return cells.reshape(array.shape)


def _any(value: Any, text: Quote) -> str:
    return text(value) if isinstance(value, str) else str(value)


def _csv_text(value: str) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([value])
    return out.getvalue()


_HEADERS = {"batch_size": "batch", "seq_len": "seq", "cache_len": "cache"}


def render_sweep(page: Page, rows: Sequence[Record], kernels: bool) -> None:
    """The rows of a sweep. Marks: `!` does not fit the memory, `*` passes the model's positions."""
    if not rows:
        page.line("no rows")
        return
    varying = [name for name in (*INPUTS, "phase") if any(row[name] != rows[0][name] for row in rows)]
    same = [f"{_HEADERS.get(name, name)} {rows[0][name]}" for name in (*INPUTS, "phase") if name not in varying]
    page.line(", ".join(same))
    page.line()
    inputs = [_input(name, rows) for name in varying]
    page.table(grid([*inputs, *(_kernel_columns(rows) if kernels else _columns(page, inputs, rows)), _marks()], rows))
    notes = [("fits", "! does not fit into the device's memory"), ("valid", "* beyond the model's positions")]
    if shown := [text for name, text in notes if not all(row[name] for row in rows)]:
        page.line()
        page.line("; ".join(shown))


def _input(name: str, rows: Sequence[Record]) -> Column:
    header = _HEADERS.get(name, name)
    return text_column(header, name) if isinstance(rows[0][name], str) else Column(header, lambda row: str(row[name]))


def _marks() -> Column:
    return Column("", lambda row: ("" if row["fits"] else "!") + ("" if row["valid"] else "*"), "left")


def _columns(page: Page, inputs: list[Column], rows: Sequence[Record]) -> list[Column]:
    latency = _fine_column("latency", "s", rows, "latency_s", "latency_s")
    ends = [_fine_column(end, "s", rows, f"latency_{end}_s", "latency_s") for end in ("low", "high")]
    parts = [_fine_column(name, "s", rows, f"{name}_s", "latency_s") for name in ("device", "host")]
    rate = Column("tokens/s", lambda row: f"{row['tokens_per_s']:,.0f}")
    memory = _fine_column("memory", "B", rows, "total_bytes", "total_bytes")
    bound = text_column("bound", "bound")
    work = [
        scaled_column("", "FLOP", rows, "flops"),
        scaled_column("moved", "B", rows, lambda row: row["read_bytes"] + row["write_bytes"]),
    ]
    layouts = [
        [latency, *ends, *parts, *work, rate, memory, bound],
        [latency, *ends, *parts, rate, memory, bound],
        [latency, *ends, rate, memory, bound],
        [latency, rate, memory, bound],
    ]
    return layouts[first_fit([grid([*inputs, *layout], rows) for layout in layouts], page.width - 4)]


def _fine_column(header: str, unit: str, rows: Sequence[Record], key: str, scale: str) -> Column:
    """Numbers of one unit, in which the smallest of the column `scale` can still be read: a sweep spans decades."""
    divisor, label = scale_for([min(row[scale] for row in rows)], unit)
    return Column(f"{header} {label}", lambda row: short_number(row[key] / divisor))


def _kernel_columns(rows: Sequence[Record]) -> list[Column]:
    return [
        Column("kernel", lambda row: row["name"].removeprefix("transformer."), "left"),
        Column("count", lambda row: str(row["count"])),
        scaled_column("", "FLOP", rows, "flops"),
        scaled_column("", "B", rows, lambda row: row["read_bytes"] + row["write_bytes"]),
        Column("FLOP/B", lambda row: short_number(row["arithmetic_intensity"])),
        scaled_column("", "s", rows, "device_s"),
        Column("share", lambda row: f"{100 * row['share']:.1f}%"),
        text_column("bound", "bound"),
    ]
