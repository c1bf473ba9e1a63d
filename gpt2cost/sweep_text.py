"""A sweep's blocks as CSV, JSON lines, JSON and Markdown: text in pieces, a block each, quick for millions of rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.export import markdown_cell
from gpt2cost.records import Record
from gpt2cost.sweeps import Block

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
