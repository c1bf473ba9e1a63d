"""The kernels of a pass as rows: one each, or those of a module, a layer or a source line together.

A row's figures are totals over its `count` launches, so rows sum to the totals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from gpt2cost.output.field import Record, record_of
from gpt2cost.output.shared import MOVED
from gpt2cost.output.table import FORMULAS
from gpt2cost.prediction.one_pass import KernelCost
from gpt2cost.prediction.predict import Phase
from gpt2cost.table.fusion import joined_names
from gpt2cost.table.kernel import Row

GROUPS = ("kernel", "module", "layer")
"""What a row of a pass may be."""
EXPLAINED = ("table", "json", "markdown")
"""The formats that have room for an explanation beside the rows."""
SUMS = ("count", "flops", "read_bytes", "write_bytes", "device_s")
"""The figures of a row that are those of its kernels, summed."""


def cost_records(phase: Phase, group: str = "kernel") -> list[Record]:
    """The rows of a pass in the order in which they run: a kernel, a module's own kernels, or a whole layer each."""
    return kernel_records(phase.kernels, phase.totals.device_s, group)


def kernel_records(kernels: Sequence[KernelCost], device_s: Any, group: str = "kernel") -> list[Record]:
    """The same of the kernels of any pass, whose shares are of `device_s`."""
    if group == "kernel":
        return [{**_record(cost.row.path, [cost], device_s), **record_of(FORMULAS, cost.row)} for cost in kernels]
    if group == "module":
        return _grouped(kernels, device_s, lambda row: row.module)
    return _grouped(kernels, device_s, lambda row: ".".join(row.module.split(".")[:2]))


def module_records(kernels: Sequence[KernelCost], device_s: Any) -> list[Record]:
    """A row per module of a layer, and per module beside the layers, each with all that is in it."""
    return _grouped(kernels, device_s, lambda row: ".".join(row.module.split(".")[:3]))


def modules_beside(phases: Sequence[Phase]) -> dict[str, list[Record | None]]:
    """The modules of several passes, each with its row in every pass; None where it launches nothing in one."""
    rows = [{row["name"]: row for row in module_records(own.kernels, own.totals.device_s)} for own in phases]
    names = dict.fromkeys(name for modules in rows for name in modules)
    return {name: [modules.get(name) for modules in rows] for name in names}


def _grouped(kernels: Sequence[KernelCost], device_s: Any, name_of: Callable[[Row], str]) -> list[Record]:
    groups: dict[str, list[KernelCost]] = {}
    for cost in kernels:
        groups.setdefault(name_of(cost.row) or "model", []).append(cost)
    return [_record(_group_name(name, groups), costs, device_s) for name, costs in groups.items()]


def _record(name: str, costs: Sequence[KernelCost], device_s: Any) -> Record:
    """A kernel, or several together: their sums, their kind if they are all of one, the bound of the slowest."""
    kinds = {cost.kernel.kind for cost in costs}
    sums = {key: sum(getattr(cost, key) for cost in costs) for key in SUMS}
    return {
        "name": name,
        "op": costs[0].kernel.op if len(costs) == 1 else None,
        "kind": kinds.pop() if len(kinds) == 1 else "mixed",
        "attention_kernel": next((cost.attention_kernel for cost in costs if cost.attention_kernel), None),
        **sums,
        "share": sums["device_s"] / device_s,
        "bound": max(costs, key=lambda cost: float(cost.device_s)).bound,
        "arithmetic_intensity": sums["flops"] / (MOVED.get(sums) or 1),
    }


def _group_name(name: str, names: Iterable[str]) -> str:
    """A group's name; that of a module beside whose row there are rows of its parts says that it holds the rest."""
    return f"{name} (own)" if any(other.startswith(f"{name}.") for other in names) else name


# ---------------------------------------------------------------------------------------------- folded

LEAST_SHARE = 0.001
"""Kernels that take less of a pass are one row together."""


def folded_records(kernels: Sequence[KernelCost], of_s: Any) -> list[Record]:
    """Rows of which no two neighbours are of one source line, products and attention apart. Where several take less
    than `LEAST_SHARE` of `of_s`, the last row stands for them."""
    lines = [list(line) for _, line in groupby(kernels, _line_of)]
    small = [line for line in lines if sum(cost.device_s for cost in line) < LEAST_SHARE * of_s]
    few = [cost for line in small for cost in line]
    if len(few) < 2:
        small, few = [], []
    records = [_line_record(line, kernels, of_s) for line in lines if line not in small]
    return [*records, *([_record(f"{len(few)} kernels below {LEAST_SHARE:.1%}", few, of_s)] if few else [])]


def _line_of(cost: KernelCost) -> tuple[Any, ...]:
    """What kernels that are folded together have in common."""
    alone = cost.row.index if cost.kernel.shape is not None else None
    return cost.row.module, cost.kernel.source, cost.row.count, alone


def _line_record(line: list[KernelCost], kernels: Sequence[KernelCost], of_s: Any) -> Record:
    source = record_of(FORMULAS[-1:], line[0].row)
    return {**_record(line_name(line, kernels), line, of_s), **source}


def line_name(line: Sequence[KernelCost], kernels: Sequence[KernelCost]) -> str:
    """The name of some of a pass's kernels of one module: the module's where they are all that it has, else theirs, of
    more than two that of the last, which has what the others are for."""
    first, last = line[0].row, line[-1].row
    if len(line) == 1:
        return first.path
    if first.module and len(line) == sum(cost.row.module == first.module for cost in kernels):
        return f"{first.module} ({len(line)} kernels)"
    if len(line) > 2:
        return f"{last.path} ({len(line)} kernels)"
    return ".".join(filter(None, (first.module, joined_names([first.step.name, last.step.name]))))
