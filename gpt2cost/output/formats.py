"""Rows and documents to JSON, JSON lines, CSV and Markdown: plain text, never wrapped, never coloured."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpt2cost.output.field import Record
from gpt2cost.output.messages import one_line

FORMATS = ("table", "json", "jsonl", "csv", "markdown")
COLUMNAR = ("parquet", "arrow")
"""Binary formats of rows, whose columns have types."""
EVERY_FORMAT = (*FORMATS, *COLUMNAR)

_NUMBERS = re.compile(r"\[\s+(-?\d+(?:,\s+-?\d+)*)\s+\]")


def to_json(document: Any) -> str:
    """One document, indented; a list of whole numbers, as a shape is, takes one line."""
    text = json.dumps(document, indent=2, allow_nan=False)
    return _NUMBERS.sub(lambda found: f"[{', '.join(found[1].replace(',', ' ').split())}]", text) + "\n"


def to_jsonl(records: Iterable[Record]) -> str:
    """One object per line."""
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)


def to_csv(records: Iterable[Record], columns: Sequence[str] = ()) -> str:
    """A header line and one line per record; a list in a cell is joined with spaces, and nothing is an empty cell.

    Without records the header is `columns`.
    """
    rows = list(records)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=columns_of(rows) or columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def to_markdown(records: Iterable[Record], columns: Sequence[str] = ()) -> str:
    """A pipe table; numbers are aligned right. Without records the header is `columns`."""
    rows = list(records)
    columns = columns_of(rows) or columns
    numeric = [bool(rows) and all(_is_number(row.get(name)) for row in rows) for name in columns]
    rule = ["---:" if is_numeric else "---" for is_numeric in numeric]
    cells = ([markdown_cell(row.get(name)) for name in columns] for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in (columns, rule, *cells))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def figures(values: Mapping[str, Any]) -> list[Record]:
    """A record as rows, one per figure that it has."""
    return [{"figure": name, "value": value} for name, value in values.items() if value is not None]


def sections(*parts: tuple[str, Iterable[Record]]) -> str:
    """Several tables in Markdown, each below its title if it has one; without those that have no rows."""
    tables = [(f"{title}\n\n" if title else "", list(rows)) for title, rows in parts]
    return "\n".join(f"{title}{to_markdown(rows)}" for title, rows in tables if rows)


def columns_of(rows: Sequence[Record]) -> list[str]:
    """The columns of rows, of which each may leave some out."""
    return list(dict.fromkeys(name for row in rows for name in row))


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case dict() | [dict(), *_]:
            return json.dumps(value)
        case list() | tuple():
            return " ".join(map(str, value))
        case str():
            return value.replace("\r", "\n")  # csv quotes the one and not the other
        case _:
            return value


def markdown_cell(value: Any) -> str:
    """A cell of a pipe table."""
    text = f"{value:.6g}" if isinstance(value, float) else str(csv_cell(value))
    line = text if text.isprintable() else one_line(text)
    return line.replace("|", "\\|").replace("*", "\\*")
