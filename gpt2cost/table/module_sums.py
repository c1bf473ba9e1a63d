"""What a module costs with all that is in it: sums of the formulas of its kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt2cost.table.formula import ALWAYS, Formula, formula, sum_of
from gpt2cost.table.kernel import Kernel, Row, inside_out


@dataclass(frozen=True)
class ModuleSum:
    """One call of a module; "" is the model. Its last row has the index `last`.

    `calls`: how often it is called in the pass; `launches`: how many kernels one call launches. `open`: the rows that
    are launched at some sizes alone, which the sums leave out; none where the sizes are known.
    """

    module: str
    calls: Formula
    last: int
    launches: Formula
    flops: Formula
    reads: Formula
    writes: Formula
    open: tuple[Row, ...]


def module_sums(rows: Sequence[Row], values: Mapping[str, Any] | None = None) -> tuple[ModuleSum, ...]:
    """Of each module that launches several kernels, in the order in which they end, and of the model.

    `values`: of the symbols, which decide what is launched; without them that is what is launched at all sizes.
    """
    launched = [row for row in rows if isinstance(row.step, Kernel)]
    modules: dict[str, list[Row]] = {"": launched}
    for row in launched:
        for module in inside_out(row.module):
            modules.setdefault(module, []).append(row)
    sums = (_sum(module, own, values) for module, own in modules.items() if len(own) > 1 or not module)
    return tuple(sorted(sums, key=lambda own: (own.last, -len(own.module))))


def _sum(module: str, rows: Sequence[Row], values: Mapping[str, Any] | None) -> ModuleSum:
    counts = {row.count for row in rows}
    calls = counts.pop() if len(counts) == 1 else formula(1)
    runs = [row for row in rows if (row.step.when == ALWAYS if values is None else row.step.when.evaluate(values))]

    times = [formula(1) if row.count == calls else row.count for row in runs]

    def total(name: str) -> Formula:
        return sum_of(getattr(row.step, name) * each for row, each in zip(runs, times, strict=True))

    unsure = tuple(row for row in rows if row not in runs) if values is None else ()
    flops, reads, writes = map(total, ("flops", "reads", "writes"))
    return ModuleSum(module, calls, rows[-1].index, sum_of(times), flops, reads, writes, unsure)
