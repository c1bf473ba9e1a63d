"""How far back each operand was last touched: the distinct bytes that a pass moves between two uses of a tensor.

A cache that evicts what was not used for longest still holds a tensor if no more than the cache's size was touched
since. The table names every tensor, so that what was touched follows from the list of kernels: from the one that last
read or wrote the tensor, its own operands included, up to the one that reads it now. Layers are alike, so the repeated
block is looked at as one that follows another. What no kernel of the pass made or read before, such as a weight or the
keys of earlier steps, was last touched a whole pass ago.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, reduce
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.table.formula import ALWAYS, Condition, Formula, formula, sum_of
from gpt2cost.table.kernel import Free, Kernel, Row, Tensor
from gpt2cost.table.liveness import LAYER_CACHE

Touched: TypeAlias = tuple[tuple[Formula, tuple[Condition, ...]], ...]
"""The bytes of some tensors, and where they are touched: any of some conditions."""
Uses: TypeAlias = tuple[tuple[Condition, Touched], ...]
"""The kernels that used a tensor, the last first: where each is launched, and what was touched since."""
Fade: TypeAlias = tuple[float, float]
"""Of so many bytes touched, or fewer, a cache still holds all of a tensor; after so many, or more, nothing."""


def reuse_bytes(
    rows: tuple[Row, ...], values: Mapping[str, Any], fades: Callable[[Kernel], Fade] = lambda kernel: (0.0, np.inf)
) -> list[tuple[Any, ...]]:
    """For each row of a table, the bytes touched since each of its inputs was last used; for a free step none.

    `values` are those of the table's symbols, numbers or arrays; each distance has the shape they broadcast to, or is
    one number where all points are on one side of what a kernel `fades` between.
    """
    holds = cache(lambda when: when.evaluate(values))
    size_of = cache(lambda size: size.evaluate(values))
    ends = {
        name: (float(np.min(value)), float(np.max(value))) if np.size(value) else (0.0, 0.0)
        for name, value in values.items()
    }
    bounds_of = cache(lambda size: size.bounds(ends))

    def bytes_of(touched: Touched, fade: Fade) -> Any:
        shares = [(size, reduce(operator.or_, map(holds, conditions), False)) for size, conditions in touched]
        least = sum(bounds_of(size)[0] for size, share in shares if share is True)
        most = sum(bounds_of(size)[1] for size, share in shares if share is not False)
        if most <= fade[0] or least >= fade[1]:
            return fade[0] if most <= fade[0] else fade[1]
        parts = (
            size_of(size) if share is True else size_of(size) * share for size, share in shares if share is not False
        )
        return reduce(operator.add, parts, 0)

    def distance(uses: Uses, fade: Fade) -> Any:
        for number, (when, touched) in enumerate(uses):
            if (used := holds(when)) is True:
                return bytes_of(touched, fade)
            if used is not False:
                here, before = bytes_of(touched, fade), distance(uses[number + 1 :], fade)
                return here if here is before else np.where(used, here, before)
        return bytes_of(everything, fade)

    inputs_of_rows, everything = _uses_of_inputs(rows)
    found = []
    for row, inputs in zip(rows, inputs_of_rows, strict=True):
        fade = fades(row.step) if isinstance(row.step, Kernel) else (0.0, np.inf)
        found.append(tuple(distance(uses, fade) for uses in inputs))
    return found


@lru_cache(maxsize=128)
def _uses_of_inputs(rows: tuple[Row, ...]) -> tuple[tuple[tuple[Uses, ...], ...], Touched]:
    """For each row the uses of each of its inputs in the pass; and what a whole pass touches."""
    block = [row for row in rows if row.count != 1]
    first = block[0].index if block else len(rows)
    before, after = rows[:first], rows[first + len(block) :]
    sections: tuple[tuple[Sequence[Row], Sequence[Row]], ...] = (
        (before, ()), (block, (*before, *block)), (after, (*before, *block)),
    )  # fmt: skip
    names = [frozenset(tensor.name for tensor in _operands(row.step)) for row in rows]
    uses = tuple(
        tuple(tuple(_uses(tensor, section[:number], earlier, names)) for tensor in _inputs(row))
        for section, earlier in sections
        for number, row in enumerate(section)
    )
    return uses, _whole_pass(rows)


def _inputs(row: Row) -> tuple[Tensor, ...]:
    return row.step.inputs if isinstance(row.step, Kernel) else ()


def _uses(
    tensor: Tensor, section: Sequence[Row], earlier: Sequence[Row], names_of: Sequence[frozenset[str]]
) -> Iterator[tuple[Condition, Touched]]:
    """The uses of `tensor`, the last first, up to one that always takes place.

    `section` are the rows before it in its block, `earlier` those before the block: the last layer, where a weight or a
    cache of the same name is another. `names_of`: the operands' names of each row.
    """
    if tensor.is_weight:
        return
    names = {tensor.name, tensor.view_of} - {""}
    since: list[Kernel] = []
    for row in reversed(section if tensor.name in LAYER_CACHE else (*earlier, *section)):
        if not isinstance(row.step, Kernel):
            continue
        since.append(row.step)
        if not names.isdisjoint(names_of[row.index]):
            yield row.step.when, _touched(since)
            if row.step.when == ALWAYS:
                return


def _operands(step: Kernel | Free) -> tuple[Tensor, ...]:
    return (*step.inputs, *step.outputs) if isinstance(step, Kernel) else ()


def _touched(kernels: Sequence[Kernel]) -> Touched:
    """What some kernels touch, each tensor once; a view beside the tensor that it is of does not count."""
    made = {tensor.name for kernel in kernels for tensor in kernel.outputs}
    seen: dict[str, tuple[Formula, list[Condition]]] = {}
    for kernel in kernels:
        for tensor in _operands(kernel):
            if tensor.name in made or tensor.view_of not in made:
                if tensor.name not in seen:
                    seen[tensor.name] = tensor.bytes, []
                seen[tensor.name][1].append(kernel.when)
    together: dict[tuple[Condition, ...], list[Formula]] = {(ALWAYS,): []}
    for size, when in seen.values():
        key = (ALWAYS,) if ALWAYS in when else tuple(dict.fromkeys(when))
        together.setdefault(key, []).append(size)
    return tuple((sum_of(sizes), when) for when, sizes in together.items())


def _whole_pass(rows: Sequence[Row]) -> Touched:
    """What a whole pass touches: each tensor of a layer once a layer."""
    by_count: dict[Formula, list[Kernel]] = {formula(1): []}
    for row in rows:
        if isinstance(row.step, Kernel):
            by_count.setdefault(row.count, []).append(row.step)
    return tuple((count * size, when) for count, kernels in by_count.items() for size, when in _touched(kernels))
