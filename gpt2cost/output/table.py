"""The cost table as rows and as a document; `table_text` has its text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from gpt2cost.output.field import Field, Record, attribute, record_of
from gpt2cost.output.launch import flops_text, product_of
from gpt2cost.output.record import envelope
from gpt2cost.output.shapes import tensors_of
from gpt2cost.table.citations import transformers_version
from gpt2cost.table.formula import Formula, formula
from gpt2cost.table.kernel import Kernel, Row
from gpt2cost.table.module_sums import ModuleSum, module_sums
from gpt2cost.table.why.reasons import why


@dataclass(frozen=True)
class CostTable:
    """The rows of the table for one way of running a model, by phase: a pass has one, without a name.

    `asked`: what was asked for. `symbols` have values where a model is named. `per_launch`: formulas and figures are of
    one launch, those of modules of one call, and not of all in the pass. `free`: steps that launch no kernel are shown
    too.
    """

    attn: str
    impl: str
    rows: Mapping[str, tuple[Row, ...]]
    symbols: Mapping[str, int] | None
    asked: Mapping[str, Any]
    per_launch: bool = False
    free: bool = False

    @property
    def shown(self) -> Iterator[tuple[str, Row]]:
        """The rows that are shown, and of which phase they are."""
        return ((phase, row) for phase, rows in self.rows.items() for row in rows if self._is_shown(row))

    def _is_shown(self, row: Row) -> bool:
        return isinstance(row.step, Kernel) or (self.free and row.does_something)

    def formulas(self, row: Row) -> dict[str, Formula]:
        """FLOPs and bytes of a step, of one launch or over all."""
        if not isinstance(row.step, Kernel):
            return {}
        return {name: get(row.step) * (1 if self.per_launch else row.count) for name, get in FIGURES.items()}

    def figures(self, row: Row) -> dict[str, int]:
        """How often a step runs, and the values of its formulas, where the symbols have values."""
        if self.symbols is None:
            return {}
        count = row.times(self.symbols)
        values = {name: int(own.evaluate(self.symbols)) for name, own in self.formulas(row).items()}
        return {"count": count, **{name: value if count else 0 for name, value in values.items()}}

    def sums(self, phase: str) -> tuple[ModuleSum, ...]:
        """What each module costs with all that is in it, in the order in which they end."""
        return module_sums(self.rows[phase], self.symbols)


def _formula(name: str) -> Field[Row]:
    get = FIGURES[name]
    return Field(f"{name.removesuffix('_bytes')}_formula", "", "", lambda row: str(get(row.step) * row.count))


FIGURES = {"flops": attrgetter("flops"), "read_bytes": attrgetter("reads"), "write_bytes": attrgetter("writes")}
LABELS = {"flops": "FLOPs", "read_bytes": "reads", "write_bytes": "writes"}
SOURCE: Field[Any] = Field("source", "", "", lambda row: str(row.step.source))
FORMULAS = (*map(_formula, LABELS), SOURCE)
"""What the table says of a kernel, and where it has it from."""
FIELDS: tuple[Field[Row], ...] = (
    attribute("module"), attribute("name", path="path"), attribute("op", of="step"),
    Field("kind", "", "", lambda row: getattr(row.step, "kind", None)),
    Field("count_formula", "", "", lambda row: str(row.count)), Field("when", "", "", lambda row: str(row.step.when)),
)  # fmt: skip
"""The first fields of every row."""


def records(table: CostTable, flat: bool = True) -> list[Record]:
    """A row per step that is shown. `flat`: with every input, and its tensors as texts."""
    asked = table.asked if flat else {}
    return [{**asked, **_record(table, phase, row, flat)} for phase, row in table.shown]


def _record(table: CostTable, phase: str, row: Row, flat: bool) -> Record:
    formulas = {f"{name.removesuffix('_bytes')}_formula": str(own) for name, own in table.formulas(row).items()}
    reason = why(row)
    return {
        **({"phase": phase} if phase else {}),
        **record_of(FIELDS, row),
        **(formulas or {f"{name.removesuffix('_bytes')}_formula": None for name in FIGURES}),
        **(_product(row) if table.per_launch else {}),
        "source": SOURCE.get(row) if isinstance(row.step, Kernel) else None,
        "transformers_version": transformers_version(),
        **table.figures(row),
        **tensors_of(row.step, table.symbols, flat=flat),
        "why": reason.does,
        "removed_by": reason.removed_by,
    }


def _product(row: Row) -> Record:
    """The sizes of a matrix product, and its FLOPs by their names."""
    sizes = product_of(row.step) if isinstance(row.step, Kernel) else {}
    named = flops_text(row.step) if sizes and isinstance(row.step, Kernel) else None
    return {
        "product": named,
        **{f"{name}_formula": str(sizes[name]) if name in sizes else None for name in ("batch", "m", "n", "k")},
    }


def of_module(table: CostTable, own: ModuleSum) -> dict[str, Formula]:
    """FLOPs and bytes of a module: of one call, or of all in the pass."""
    calls = formula(1) if table.per_launch else own.calls
    return {
        name: getattr(own, get) * calls
        for name, get in (("flops", "flops"), ("read_bytes", "reads"), ("write_bytes", "writes"))
    }


def _module_record(table: CostTable, phase: str, own: ModuleSum) -> Record:
    formulas = of_module(table, own)
    values = {} if table.symbols is None else {name: int(one.evaluate(table.symbols)) for name, one in formulas.items()}
    return {
        **({"phase": phase} if phase else {}),
        "module": own.module,
        "count_formula": str(own.calls),
        "launches_formula": str(own.launches),
        **{f"{name.removesuffix('_bytes')}_formula": str(one) for name, one in formulas.items()},
        **values,
        "left_out": [row.path for row in own.open],
    }


def document(table: CostTable) -> Record:
    """The whole table; `modules` are sums over what is in each."""
    modules = [_module_record(table, phase, own) for phase in table.rows for own in table.sums(phase)]
    return {
        **envelope(),
        "attn": table.attn,
        "impl": table.impl,
        "per_launch": table.per_launch,
        "settings": dict(table.asked),
        "symbols": None if table.symbols is None else dict(table.symbols),
        "kernels": records(table, flat=False),
        "modules": modules,
    }
