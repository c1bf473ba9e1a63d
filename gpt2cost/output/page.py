"""Text for people: lines and tables that fit a page, and numbers that fit a cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import Any, TypeAlias, TypeVar

from gpt2cost.output.field import Field
from gpt2cost.units import format_quantity, scale_for

COLUMN_GAP = 2
"""Blanks between two columns."""
FIRST_COLUMN = 20
"""A table's first column is never cut shorter than this."""
NOTHING = "-"
"""A cell without a number."""
SHOWN = 0.005
"""A number below it is written as 0.00, without a sign."""

T = TypeVar("T")


def cut(text: str, width: int) -> str:
    """A text of at most `width` characters."""
    return text if len(text) <= width else text[: width - 3] + "..."


def cut_middle(text: str, width: int) -> str:
    """A text of at most `width` characters, with its beginning and its end."""
    if len(text) <= width:
        return text
    kept = width - 3
    return f"{text[: kept // 2]}...{text[len(text) - (kept - kept // 2) :]}"


def short_number(value: float) -> str:
    """At most four characters of digits, a thousand with a comma: 0.12, 1.23, 12.3, 123, 1,234."""
    size = abs(value)
    if size < SHOWN:
        return "0" if value == 0 else "0.00"
    return f"{value:,.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


Pieces: TypeAlias = list[tuple[str, str]]
"""A line as texts with their styles, which show on a terminal alone."""


@dataclass(frozen=True)
class Table:
    """The text of a table: headers, and a line per row. Numbers stand on the right of their columns.

    `styles`: one per row, of the cells of the columns that are `styled`.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]
    styles: Sequence[str] = ()
    styled: Sequence[bool] = ()

    @property
    def widths(self) -> list[int]:
        return [max(map(len, cells)) for cells in zip(self.headers, *self.rows, strict=True)]

    @property
    def width(self) -> int:
        return sum(self.widths) + COLUMN_GAP * (len(self.headers) - 1)

    def lines(self, width: int) -> list[Pieces]:
        """Header, rule and rows, never wrapped. The first column is cut, in its middle, where the page is too narrow:
        what tells names apart is often their end."""
        first, *others = self.widths
        widths = [min(first, max(FIRST_COLUMN, width - (self.width - first))), *others]
        rule = "-" * (sum(widths) + COLUMN_GAP * (len(widths) - 1))
        head = "".join(text for text, _ in self._line(self.headers, widths))
        styles = self.styles or [""] * len(self.rows)
        rows = (self._line(cells, widths, style) for cells, style in zip(self.rows, styles, strict=True))
        return [[(head, "bold")], [(rule, "")], *rows]

    def _line(self, cells: Sequence[str], widths: Sequence[int], style: str = "") -> Pieces:
        columns = zip(map(cut_middle, cells, widths), widths, self.numeric, strict=True)
        texts = [text.rjust(width) if numeric else text.ljust(width) for text, width, numeric in columns]
        apart = [f"{text}{' ' * COLUMN_GAP}" for text in texts]
        styled = self.styled or [False] * len(cells)
        return _without_trailing([(text, style * own) for text, own in zip(apart, styled, strict=True)])

    def html(self) -> str:
        """The same as an HTML table."""

        def row(tag: str, cells: Sequence[str]) -> str:
            styles = (f"text-align: {'right' if numeric else 'left'}" for numeric in self.numeric)
            return "".join(
                f'<{tag} style="{style}{"; white-space: pre" if cell.startswith(" ") else ""}">{escape(cell)}</{tag}>'
                for cell, style in zip(cells, styles, strict=True)
            )

        body = "\n".join(f"<tr>{row('td', cells)}</tr>" for cells in self.rows)
        return f"<table>\n<thead><tr>{row('th', self.headers)}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def table_of(fields: Sequence[Field[T]], items: Sequence[T], largest: Sequence[T] | None = None) -> Table:
    """A table with a column per field and a row per item. A column's prefix is that of the largest of all items, or of
    the `largest` that are given."""
    scaled_by = items if largest is None else largest
    headers, columns, numeric = zip(*(_column(shown, items, scaled_by) for shown in fields), strict=True)
    return Table(headers, list(zip(*columns, strict=True)), numeric)


def _column(shown: Field[T], items: Sequence[T], scaled_by: Sequence[T]) -> tuple[str, list[str], bool]:
    """A column's header, its cells, and whether they are numbers."""
    values = [shown.get(item) for item in items]
    header, unit = shown.header, shown.unit
    if unit == "" and any(isinstance(value, str) for value in values):
        return header, ["" if value is None else str(value) for value in values], False
    write: Callable[[Any], str] = _FORMATS.get(unit, str)
    if unit.startswith("own "):
        write = partial(format_quantity, unit=unit.removeprefix("own "))
    elif unit not in _FORMATS:
        sizes = map(shown.get, scaled_by)
        divisor, label = scale_for([float(value) for value in sizes if value is not None], unit)
        header = f"{header} {label}".strip()
        write = partial(_scaled, divisor=divisor)
    return header, [NOTHING if value is None else write(value) for value in values], True


def _without_trailing(pieces: Pieces) -> Pieces:
    """A line without blanks at its end."""
    while pieces and not pieces[-1][0].rstrip(" "):
        pieces.pop()
    return [*pieces[:-1], (pieces[-1][0].rstrip(" "), pieces[-1][1])] if pieces else [("", "")]


def _scaled(value: float, divisor: float) -> str:
    return short_number(float(value) / divisor)


def _signed(value: float) -> str:
    return f"{'+' if value >= SHOWN else ''}{short_number(value)}"


_FORMATS: dict[str, Callable[[Any], str]] = {
    "": str, "right": str, "%": "{:z.1%}".format, "+%": "{:+z.1%}".format, "x": "{:.2f}x".format, ",": "{:,.0f}".format,
    ".": short_number, "+.": _signed,
}  # fmt: skip
"""How a number is written whose unit is the same in all cells and has no prefix; `right`: a word below numbers."""


@dataclass
class Page:
    """Text for people, part by part. `width` is that of the terminal; a style shows on a terminal alone."""

    width: int
    terminal: bool = False
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

    def beside(self, items: Iterable[T], name: Field[T], columns: Sequence[Field[T]]) -> None:
        """Add a table with `columns` beside `name`; those that do not fit the page follow in tables below it."""
        rows, left = list(items), list(columns)
        while left:
            tables = [table_of([name, *left[:count]], rows) for count in range(len(left), 0, -1)]
            fitting = self.first_fit(*tables)
            self.parts.append((tables[fitting], ""))
            left = left[len(left) - fitting :]
            if left:
                self.line()

    @property
    def lines(self) -> list[Pieces]:
        """The lines with their styles: headers of tables are bold."""
        lines: list[Pieces] = []
        for part, style in self.parts:
            lines += part.lines(self.width) if isinstance(part, Table) else [[(part, style)]]
        return lines

    def plain(self) -> str:
        """The text without styles."""
        return "".join(f"{''.join(text for text, _ in line)}\n" for line in self.lines)

    def html(self) -> str:
        """Tables as HTML tables, lines as paragraphs."""
        texts = (part.html() if isinstance(part, Table) else _paragraph(part.strip()) for part, _ in self.parts)
        return "\n".join(filter(None, texts))


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""
