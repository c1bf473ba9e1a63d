"""Text for people: lines and tables that fit a page, and numbers that fit a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gpt2cost.output.record import Record
from gpt2cost.units import scale_for

COLUMN_GAP = 2
"""Blanks between two columns."""


FIRST_COLUMN = 20
"""A table's first column is never cut shorter than this."""


Cell = Callable[[Record], str]


@dataclass(frozen=True)
class Column:
    """A column of a table: its header, how a record's cell is written, and its justification."""

    header: str
    cell: Cell
    justify: Literal["left", "right"] = "right"


def text_column(header: str, key: str) -> Column:
    return Column(header, lambda record: "" if record[key] is None else str(record[key]), "left")


def scaled_column(header: str, unit: str, records: Sequence[Record], key: str | Callable[[Record], float]) -> Column:
    """Numbers of one unit, chosen by the largest and named in the header: `FLOP` becomes `GFLOP`."""
    value: Callable[[Record], float] = key if callable(key) else lambda record: record[key]
    divisor, label = scale_for([float(value(record)) for record in records], unit)
    return Column(f"{header} {label}".strip(), lambda record: short_number(float(value(record)) / divisor))


def short_number(value: float) -> str:
    """At most four characters of digits, a thousand with a comma: 0.12, 1.23, 12.3, 123, 1,234."""
    size = abs(value)
    if value == 0:
        return "0"
    return f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


@dataclass(frozen=True)
class Grid:
    """The text of a table, and how wide each column is."""

    columns: Sequence[Column]
    rows: list[list[str]]
    widths: list[int]

    @property
    def width(self) -> int:
        return sum(self.widths) + COLUMN_GAP * (len(self.widths) - 1)


def grid(columns: Sequence[Column], records: Iterable[Record]) -> Grid:
    """The cells of a table: one line a record."""
    rows = [[column.cell(record) for column in columns] for record in records]
    texts = zip([column.header for column in columns], *rows, strict=True)
    return Grid(columns, rows, [max(map(len, cells)) for cells in texts])


@dataclass
class Page:
    """Text for people, line by line. `width` is that of the terminal; a style shows on a terminal alone."""

    width: int
    lines: list[tuple[str, str]] = field(default_factory=list)  # (text, style)

    def line(self, *parts: str, style: str = "") -> None:
        """Add a line. Only a terminal wraps it."""
        self.lines.append(("".join(parts).rstrip(" "), style))

    def table(self, cells: Grid) -> None:
        """Add a table, never wrapped. The first column is cut short where the page is too narrow."""
        first, *others = cells.widths
        widths = [min(first, max(FIRST_COLUMN, self.width - (cells.width - first))), *others]
        for index, row in enumerate([[column.header for column in cells.columns], *cells.rows]):
            texts = zip(cells.columns, row, widths, strict=True)
            self.line((" " * COLUMN_GAP).join(_fitted(*cell) for cell in texts), style="" if index else "bold")
            if index == 0:
                self.line("-" * (sum(widths) + COLUMN_GAP * (len(widths) - 1)))

    def plain(self) -> str:
        """The text without styles."""
        return "".join(f"{text}\n" for text, _ in self.lines)


def _fitted(column: Column, text: str, width: int) -> str:
    cut = text if len(text) <= width else text[: width - 3] + "..."
    return cut.ljust(width) if column.justify == "left" else cut.rjust(width)


def first_fit(layouts: Sequence[Grid], width: int) -> int:
    """The index of the first of the layouts that fits into `width`, else of the last."""
    return next((index for index, cells in enumerate(layouts) if cells.width <= width), len(layouts) - 1)
