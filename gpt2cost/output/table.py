"""The cost table as rows and as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gpt2cost.output.page import Page
from gpt2cost.output.record import Record
from gpt2cost.table.formula import Formula, formula
from gpt2cost.table.kernel import Kernel, Row

# ---------------------------------------------------------------------------------------------- the table


def table_records(rows: Iterable[Row], symbols: dict[str, int] | None = None) -> Iterator[Record]:
    """One record a kernel of the cost table: its formulas and, where the symbols have values, its numbers."""
    for row in rows:
        if not isinstance(row.step, Kernel):
            continue
        kernel = row.step
        costs: dict[str, Formula] = {"flops": kernel.flops, "read": kernel.reads, "write": kernel.writes}
        record = {
            "module": row.module,
            "name": row.path,
            "op": kernel.op,
            "kind": kernel.kind,
            "count_formula": str(row.count),
            "when": str(kernel.when),
            **{f"{name}_formula": str(cost * row.count) for name, cost in costs.items()},
            "source": str(kernel.source),
        }
        if symbols:
            launched = int(kernel.when.evaluate(symbols)) * row.count
            names = {
                "count": formula(1),
                "flops": kernel.flops,
                "read_bytes": kernel.reads,
                "write_bytes": kernel.writes,
            }
            record |= {name: (cost * launched).evaluate(symbols) for name, cost in names.items()}
        yield record


# ---------------------------------------------------------------------------------------------- the other commands


def render_cost_table(page: Page, records: Iterable[Record]) -> None:
    """The cost table, a block a kernel, with formulas that can be copied."""
    for record in records:
        count = "" if record["count_formula"] == "1" else f" x {record['count_formula']}"
        condition = f" when {record['when']}" if record["when"] else ""
        page.line(f"{record['name']}: {record['op']}{count}{condition}  [{record['source']}]")
        for label, key in (("FLOPs", "flops"), ("reads", "read"), ("writes", "write")):
            number = record.get(key if key == "flops" else f"{key}_bytes")
            value = "" if number is None else f" = {number}" if record["count"] else " (not launched)"
            if record[f"{key}_formula"] != "0":
                page.line(f"    {label:<6} {record[f'{key}_formula']}{value}")
