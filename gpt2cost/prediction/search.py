"""Search over a size on a model that takes arrays: powers of two, then bisection of every interval at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gpt2cost.prediction.grid import Axis

ROUNDING = 1 + 1e-9
"""More than what rounding can make of a rate."""


def powers_of_two(least: int, most: int) -> Axis:
    """`least`, the powers of two between, and `most`."""
    powers = [1 << power for power in range(most.bit_length())]
    return _sorted([least, *(power for power in powers if least < power < most), most])


def _sorted(sizes: Iterable[int]) -> Axis:
    """Each size once, in order; what `np.unique` does, which imports masked arrays."""
    return np.array(sorted(set(sizes)))


def largest_where(holds: Callable[[Axis], Any], least: int, most: int) -> int:
    """The largest size from `least` to `most` at which `holds`; `least - 1` if there is none.

    It need not hold at every smaller size, but between two neighbouring powers of two it may turn false once at most.
    """
    sizes = powers_of_two(least, most)
    while True:
        holding = np.flatnonzero(holds(sizes))
        if not len(holding):
            return int(sizes[0]) - 1
        last = int(holding[-1])
        if last == len(sizes) - 1 or sizes[last + 1] - sizes[last] == 1:
            return int(sizes[last])
        sizes = _sorted(np.linspace(sizes[last], sizes[last + 1], 33).astype(np.int64).tolist())


def size_of_best_rate(of: Callable[[Axis], tuple[Any, Any]], most: int) -> int:
    """The size from 1 to `most` of the highest rate, the smallest of equals; 0 where all rates are 0.

    `of` gives the rates of some sizes, a size by its seconds or 0, and the least rate that a size of 1 in these seconds
    would have. From 2 on seconds do not fall as sizes grow. So between two sizes no rate is higher than that of the
    larger in the seconds of the smaller, and most intervals need not be looked into.
    """
    sizes = powers_of_two(1, most)
    rates, of_one = of(sizes)
    while True:
        highest = (sizes[1:] - 1) * of_one[:-1] * ROUNDING
        middle = ((sizes[1:] + sizes[:-1]) // 2)[(np.diff(sizes) > 1) & (highest >= rates.max())]
        if not len(middle):
            return int(sizes[np.argmax(rates)]) if rates.max() > 0 else 0
        found = [np.concatenate(pair) for pair in zip((sizes, rates, of_one), (middle, *of(middle)), strict=True)]
        order = np.argsort(found[0])
        sizes, rates, of_one = (values[order] for values in found)


def sign_changes(sign: Callable[[Axis], Any], least: int, most: int) -> list[tuple[int, int]]:
    """Where `sign` (of -1, 0, 1) turns from one side to the other: (size, sign from there on), in order.

    Two changes between neighbouring powers of two cancel and go unseen.
    """
    if most <= least:
        return []
    sizes = powers_of_two(least, most)
    signs = np.asarray(sign(sizes))
    sizes, signs = sizes[signs != 0], signs[signs != 0]
    turns = np.flatnonzero(signs[1:] != signs[:-1])
    low, high, before = sizes[turns], sizes[turns + 1], signs[turns]
    while len(turns) and np.any(high - low > 1):
        middle = (low + high) // 2
        unchanged = (np.asarray(sign(middle)) == before) & (high - low > 1)
        low, high = np.where(unchanged, middle, low), np.where(unchanged | (high - low <= 1), high, middle)
    return [(int(size), -int(side)) for size, side in zip(high, before, strict=True)]
