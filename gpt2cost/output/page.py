"""Text for people: lines and tables that fit a page, and numbers that fit a cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

from gpt2cost.units import format_quantity, scale_for

if TYPE_CHECKING:
    from gpt2cost.output.record import Field

COLUMN_GAP = 2
"""Blanks between two columns."""
FIRST_COLUMN = 20
"""A table's first column is never cut shorter than this."""
NOTHING = "-"
"""A cell without a number."""
SHOWN = 0.005
"""A number below it is written as 0.00, without a sign."""

T = TypeVar("T")


def short_number(value: float) -> str:
    """At most four characters of digits, a thousand with a comma: 0.12, 1.23, 12.3, 123, 1,234."""
    size = abs(value)
    if size < SHOWN:
        return "0" if value == 0 else "0.00"
    return f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


@dataclass(frozen=True)
class Table:
    """The text of a table: headers, and a line per row. Numbers stand on the right of their columns."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]

    @property
    def widths(self) -> list[int]:
        return [max(map(len, cells)) for cells in zip(self.headers, *self.rows, strict=True)]

    @property
    def width(self) -> int:
        return sum(self.widths) + COLUMN_GAP * (len(self.headers) - 1)

    def lines(self, width: int) -> list[str]:
        """Header, rule and rows, never wrapped. The first column is cut short where the page is too narrow."""
        first, *others = self.widths
        widths = [min(first, max(FIRST_COLUMN, width - (self.width - first))), *others]
        rule = "-" * (sum(widths) + COLUMN_GAP * (len(widths) - 1))
        head, *rows = (self._line(cells, widths) for cells in (self.headers, *self.rows))
        return [head, rule, *rows]

    def _line(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        cut = [
            text if len(text) <= width else text[: width - 3] + "..." for text, width in zip(cells, widths, strict=True)
        ]
        justified = (
            text.rjust(width) if numeric else text.ljust(width)
            for text, width, numeric in zip(cut, widths, self.numeric, strict=True)
        )
        return (" " * COLUMN_GAP).join(justified).rstrip(" ")

    def html(self) -> str:
        """The same as an HTML table."""

        def row(tag: str, cells: Sequence[str]) -> str:
            sides = ("right" if numeric else "left" for numeric in self.numeric)
            return "".join(
                f'<{tag} style="text-align: {side}">{escape(cell)}</{tag}>'
                for cell, side in zip(cells, sides, strict=True)
            )

        body = "\n".join(f"<tr>{row('td', cells)}</tr>" for cells in self.rows)
        return f"<table>\n<thead><tr>{row('th', self.headers)}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def table_of(fields: Sequence[Field[T]], items: Sequence[T]) -> Table:
    """A table with a column per field and a row per item."""
    columns = [_column(one_field, items) for one_field in fields]
    rows = list(zip(*(cells for _, cells, _ in columns), strict=True)) if items else []
    return Table([header for header, _, _ in columns], rows, [numeric for _, _, numeric in columns])


def _column(shown: Field[T], items: Sequence[T]) -> tuple[str, list[str], bool]:
    """A column's header, its cells, and whether they are numbers."""
    values = [shown.get(item) for item in items]
    own, _, unit = shown.unit.rpartition(" ")
    header = shown.header
    if own:
        return header, [NOTHING if value is None else format_quantity(value, unit) for value in values], True
    match unit:
        case "" if any(isinstance(value, str) for value in values):
            return header, ["" if value is None else str(value) for value in values], False
        case "":
            return header, [NOTHING if value is None else str(value) for value in values], True
        case "%" | "+%" | "x" | "." | "+." | ",":
            return header, [NOTHING if value is None else _number(float(value), unit) for value in values], True
        case _:
            divisor, label = scale_for([float(value) for value in values if value is not None], unit)
            cells = [NOTHING if value is None else short_number(float(value) / divisor) for value in values]
            return f"{header} {label}".strip(), cells, True


def _number(value: float, unit: str) -> str:
    match unit:
        case "%":
            return f"{100 * value:z.1f}%"
        case "+%":
            return f"{100 * value:+z.1f}%"
        case "x":
            return f"{value:.2f}x"
        case ",":
            return f"{value:,.0f}"
        case "+." if value >= SHOWN:
            return f"+{short_number(value)}"
        case _:
            return short_number(value)


@dataclass
class Page:
    """Text for people, part by part. `width` is that of the terminal; a style shows on a terminal alone."""

    width: int
    parts: list[tuple[str | Table, str]] = field(default_factory=list)  # (text or table, style)

    def line(self, *texts: str, style: str = "") -> None:
        """Add a line. Only a terminal wraps it."""
        self.parts.append(("".join(texts).rstrip(" "), style))

    def first_fit(self, *layouts: Table) -> int:
        """The index of the first of several layouts of a table that fits the page, else of the last."""
        return next((index for index, table in enumerate(layouts) if table.width <= self.width), len(layouts) - 1)

    def table(self, *layouts: Table) -> None:
        """Add the first of several layouts of a table that fits the page, else the last."""
        self.parts.append((layouts[self.first_fit(*layouts)], ""))

    def fields(self, items: Iterable[T], *layouts: Sequence[Field[T]]) -> None:
        """Add a table of `items` in the first layout that fits the page, else in the last."""
        rows = list(items)
        self.table(*(table_of(layout, rows) for layout in layouts))

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The lines with their styles: headers of tables are bold."""
        lines: list[tuple[str, str]] = []
        for part, style in self.parts:
            if isinstance(part, Table):
                head, *rows = part.lines(self.width)
                lines += [(head, "bold"), *((row, "") for row in rows)]
            else:
                lines.append((part, style))
        return lines

    def plain(self) -> str:
        """The text without styles."""
        return "".join(f"{text}\n" for text, _ in self.lines)

    def html(self) -> str:
        """Tables as HTML tables, lines as paragraphs."""
        pieces: list[Any] = []
        for part, _ in self.parts:
            if isinstance(part, Table):
                pieces.append(part.html())
            elif part.strip():
                pieces.append(f"<p>{escape(part.strip())}</p>")
        return "\n".join(pieces)
