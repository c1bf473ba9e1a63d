"""The cost table as rows, as a document, and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from gpt2cost.output.field import Field, Record, attribute, attributes, record_of
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.output.shapes import tensors_of
from gpt2cost.output.shared import source_text
from gpt2cost.table.citations import transformers_version
from gpt2cost.table.formula import Formula
from gpt2cost.table.kernel import Kernel, Row


@dataclass(frozen=True)
class CostTable:
    """The rows of the table for one way of running a model, by phase: a pass has one, without a name. `symbols` have
    values where a model is named."""

    attn: str
    impl: str
    rows: Mapping[str, tuple[Row, ...]]
    symbols: Mapping[str, int] | None

    @property
    def kernels(self) -> Iterator[tuple[str, Row]]:
        """The rows that launch a kernel, and of which phase they are."""
        return ((phase, row) for phase, rows in self.rows.items() for row in rows if isinstance(row.step, Kernel))


def formulas(row: Row) -> dict[str, Formula]:
    """FLOPs and bytes of a kernel over all its launches."""
    return {name: get(row.step) * row.count for name, get in FIGURES.items()}


def _formula(name: str) -> Field[Row]:
    get = FIGURES[name]
    return Field(f"{name.removesuffix('_bytes')}_formula", "", "", lambda row: str(get(row.step) * row.count))


FIGURES = {"flops": attrgetter("flops"), "read_bytes": attrgetter("reads"), "write_bytes": attrgetter("writes")}
LABELS = {"flops": "FLOPs", "read_bytes": "reads", "write_bytes": "writes"}
SOURCE: Field[Any] = Field("source", "", "", lambda row: str(row.step.source))
FORMULAS = (*map(_formula, LABELS), SOURCE)
"""What the table says of a kernel, and where it has it from."""
FIELDS: tuple[Field[Row], ...] = (
    attribute("module"), attribute("name", path="path"), *attributes("op", "kind", of="step"),
    Field("count_formula", "", "", lambda row: str(row.count)), Field("when", "", "", lambda row: str(row.step.when)),
    *FORMULAS, Field("transformers_version", "", "", lambda row: transformers_version()),
)  # fmt: skip
"""The fields of every row."""


def _figures(row: Row, symbols: Mapping[str, int] | None) -> dict[str, int]:
    """How often a kernel is launched, and its figures over all launches, where the symbols have values."""
    if symbols is None:
        return {}
    count = int(row.count.evaluate(symbols) * row.step.when.evaluate(symbols))
    return {"count": count, **{name: int(f.evaluate(symbols)) if count else 0 for name, f in formulas(row).items()}}


def _records(table: CostTable, flat: bool = True) -> list[Record]:
    return [
        {
            **({"phase": phase} if phase else {}),
            **record_of(FIELDS, row),
            **_figures(row, table.symbols),
            **tensors_of(row.step, table.symbols, flat=flat),
        }
        for phase, row in table.kernels
    ]


def _document(table: CostTable) -> Record:
    symbols = None if table.symbols is None else dict(table.symbols)
    kernels = _records(table, flat=False)
    return {**envelope(), "attn": table.attn, "impl": table.impl, "symbols": symbols, "kernels": kernels}


def _text(page: Page, table: CostTable) -> None:
    """A block per kernel, with formulas that can be copied, and what it takes and gives."""
    nanogpt = f"sources: {source_text(table.impl)}\n"
    page.line(nanogpt if table.impl == "nanogpt" else f"source lines: transformers {transformers_version()}\n")
    before = ""
    for phase, row in table.kernels:
        if phase != before:
            page.line(f"\n{phase}\n" if before else f"{phase}\n", style="bold")
            before = phase
        times = "" if row.count == 1 else f" x {row.count}"
        condition = f" when {row.step.when}" if str(row.step.when) else ""
        page.line(f"{row.path}: {row.step.op}{times}{condition}  [{SOURCE.get(row)}]")
        figures = _figures(row, table.symbols)
        for name, formula in formulas(row).items():
            value = "" if not figures else f" = {figures[name]}" if figures["count"] else " (not launched)"
            if formula:
                page.line(f"    {LABELS[name]:<6} {formula}{value}")
        tensors = tensors_of(row.step, table.symbols, flat=True)
        page.line(f"    shapes {tensors['inputs']} -> {tensors['outputs']}".replace("  ->", " ->"))


TABLE: View[CostTable] = View(_records, _document, _text)
