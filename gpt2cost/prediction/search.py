"""Search over a size on a model that takes arrays: powers of two, then bisection of every interval at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gpt2cost.prediction.grid import Axis


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
