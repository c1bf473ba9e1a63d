"""The cost table as rows, as a document, and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt2cost.output.page import Page
from gpt2cost.output.record import Field, Record, View, attribute, envelope, record_of
from gpt2cost.table.citations import transformers_version
from gpt2cost.table.formula import Formula
from gpt2cost.table.kernel import Kernel, Row


@dataclass(frozen=True)
class CostTable:
    """The rows of the table for one way of running a model; `symbols` have values where a model is named."""

    attn: str
    rows: tuple[Row, ...]
    symbols: Mapping[str, int] | None


@dataclass(frozen=True)
class TableRow:
    """A kernel of the table, with the values of the symbols if there are any."""

    row: Row
    kernel: Kernel
    symbols: Mapping[str, int]

    def formula(self, name: str) -> Formula:
        """A figure of the kernel over all its launches."""
        formula: Formula = getattr(self.kernel, name)
        return formula * self.row.count

    @property
    def count(self) -> int:
        """How often it is launched."""
        return int(self.row.count.evaluate(self.symbols) * self.kernel.when.evaluate(self.symbols))

    def value(self, name: str) -> int:
        """A figure over all launches; 0 where there is none."""
        return int(self.formula(name).evaluate(self.symbols)) if self.count else 0


FIELDS: tuple[Field[TableRow], ...] = (
    Field("module", "", "", lambda row: row.row.module),
    Field("name", "", "", lambda row: row.row.path),
    Field("op", "", "", lambda row: row.kernel.op),
    Field("kind", "", "", lambda row: row.kernel.kind),
    Field("count_formula", "", "", lambda row: str(row.row.count)),
    Field("when", "", "", lambda row: str(row.kernel.when)),
    Field("flops_formula", "", "", lambda row: str(row.formula("flops"))),
    Field("read_formula", "", "", lambda row: str(row.formula("reads"))),
    Field("write_formula", "", "", lambda row: str(row.formula("writes"))),
    Field("source", "", "", lambda row: str(row.kernel.source)),
    Field("transformers_version", "", "", lambda row: transformers_version()),
)
"""The fields of every row."""
NUMBERS: tuple[Field[TableRow], ...] = (
    attribute("count"),
    Field("flops", "", "", lambda row: row.value("flops")),
    Field("read_bytes", "", "", lambda row: row.value("reads")),
    Field("write_bytes", "", "", lambda row: row.value("writes")),
)
"""And of one whose symbols have values."""


def _rows(table: CostTable) -> list[TableRow]:
    symbols = table.symbols or {}
    return [TableRow(row, row.step, symbols) for row in table.rows if isinstance(row.step, Kernel)]


def _records(table: CostTable) -> list[Record]:
    fields = FIELDS if table.symbols is None else (*FIELDS, *NUMBERS)
    return [record_of(fields, row) for row in _rows(table)]


def _document(table: CostTable) -> Record:
    symbols = None if table.symbols is None else dict(table.symbols)
    return {**envelope(), "attn": table.attn, "symbols": symbols, "kernels": _records(table)}


def _text(page: Page, table: CostTable) -> None:
    """A block per kernel, with formulas that can be copied."""
    page.line(f"source lines: transformers {transformers_version()}\n")
    for row in _rows(table):
        count = "" if row.row.count == 1 else f" x {row.row.count}"
        condition = f" when {row.kernel.when}" if str(row.kernel.when) else ""
        page.line(f"{row.row.path}: {row.kernel.op}{count}{condition}  [{row.kernel.source}]")
        for label, name in (("FLOPs", "flops"), ("reads", "reads"), ("writes", "writes")):
            if formula := row.formula(name):
                page.line(f"    {label:<6} {formula}{_value(table, row, name)}")


def _value(table: CostTable, row: TableRow, name: str) -> str:
    if table.symbols is None:
        return ""
    return f" = {row.value(name)}" if row.count else " (not launched)"


def _summary(table: CostTable) -> tuple[str, ...]:
    return f"<CostTable: {len(_rows(table))} kernels>", ""


TABLE: View[CostTable] = View(_records, _document, _text, _summary)
VIEWS: dict[type, View[Any]] = {CostTable: TABLE}
