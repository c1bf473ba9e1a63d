"""How much memory a pass needs beyond weights and the final KV cache: the most bytes alive at any moment.

A tensor is alive from the kernel that makes it to the last step that reads it or keeps it (a Python variable that
still names it). Layers are alike, so the repeated block is looked at once, as its last copy: there the cache of every
other layer has grown, and the old keys and values of this one are still alive until they have been concatenated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.table.formula import Condition, Formula, Monomial, Values, sum_of
from gpt2cost.table.kernel import Free, Kernel, Row, Tensor

FINAL_CACHE = ("key", "value", "cross_key", "cross_value")
OLD_CACHE = ("past_key", "past_value")
LAYER_CACHE = (*OLD_CACHE, *FINAL_CACHE)
"""A layer's own, under the same names in each."""
NEW_CACHE = (*FINAL_CACHE, *(f"{name}_rows" for name in FINAL_CACHE))
"""What a pass writes into the cache: all of a dynamic one, the new rows of a static one."""


@dataclass(frozen=True)
class _Life:
    """A tensor's span of steps, both ends included, and the condition under which it exists."""

    tensor: Tensor
    first: int
    last: int
    when: Condition
    sign: int = 1  # -1: counted in the final cache, and not there yet


def _tensors(step: Kernel | Free) -> tuple[Tensor, ...]:
    return step.inputs if isinstance(step, Kernel) else step.keeps


@lru_cache(maxsize=64)
def _lives(steps: tuple[Kernel | Free, ...], has_cache: bool) -> tuple[_Life, ...]:
    last_use = {tensor.name: index for index, step in enumerate(steps) for tensor in _tensors(step)}
    lives: dict[str, _Life] = {}
    for index, step in enumerate(steps):
        made = step.outputs if isinstance(step, Kernel) else ()
        old = [tensor for tensor in _tensors(step) if tensor.name in OLD_CACHE]
        for tensor in (*made, *old):
            if has_cache and tensor.name in FINAL_CACHE:
                lives[tensor.name] = _Life(tensor, 0, index - 1, step.when, sign=-1)
                continue
            first = 0 if tensor in old else index
            when = lives[tensor.name].when | step.when if tensor.name in lives else step.when
            lives[tensor.name] = _Life(tensor, first, max(index, last_use.get(tensor.name, index)), when)
    return tuple(lives.values())


def peak_bytes(rows: Sequence[Row], values: Mapping[str, Any], use_cache: bool) -> Any:
    """The peak of live activations in bytes, at the sizes in `values` (integers, or arrays that broadcast)."""
    at = values if isinstance(values, Values) else Values(values)
    moments: list[dict[tuple[Any, Monomial], Any]] = []
    for moment in _moments(tuple(row.step for row in rows), use_cache):
        alive: dict[tuple[Any, Monomial], Any] = defaultdict(int)
        for when, size in moment:
            if (holds := when.evaluate(at)) is not False:
                for arrays, number in at.factors(size).items():
                    alive[True if holds is True else when, arrays] += number
        if not any(_never_more(alive, other) for other in moments):
            moments = [other for other in moments if not _never_more(other, alive)] + [alive]
    totals = [_total(at, alive) for alive in moments]
    return max(totals) if all(isinstance(total, int) for total in totals) else reduce(np.maximum, totals)


def _total(at: Values, alive: Mapping[tuple[Any, Monomial], Any]) -> Any:
    """Bytes whose factors are given by condition and arrays."""
    total: Any = at.summed({arrays: number for (when, arrays), number in alive.items() if when is True})
    for condition in dict.fromkeys(when for when, _ in alive if when is not True):
        own = at.summed({arrays: number for (when, arrays), number in alive.items() if when is condition})
        total = total + own * condition.evaluate(at)
    return total


def _never_more(less: Mapping[Any, Any], more: Mapping[Any, Any]) -> bool:
    """Whether one sum of bytes is nowhere larger than another, as their factors tell."""
    return all(less.get(key, 0) <= more.get(key, 0) for key in {*less, *more})


@lru_cache(maxsize=64)
def _moments(steps: tuple[Kernel | Free, ...], has_cache: bool) -> tuple[tuple[tuple[Condition, Formula], ...], ...]:
    """What is alive at each moment at which something has come to life: bytes, by the condition of their tensors."""
    lives = _lives(steps, has_cache)
    moments: set[tuple[tuple[Condition, Formula], ...]] = set()
    for moment in {life.first if life.sign > 0 else life.last + 1 for life in lives}:
        alive: dict[Condition, list[Formula]] = defaultdict(list)
        for life in lives:
            if life.first <= moment <= life.last:
                alive[life.when].append(life.tensor.bytes if life.sign > 0 else -life.tensor.bytes)
        moments.add(tuple((when, sum_of(sizes)) for when, sizes in alive.items()))
    return tuple(moments)


def live_tensors(rows: Sequence[Row], values: Mapping[str, Any], use_cache: bool) -> list[dict[str, Any]]:
    """For each row, the bytes of each tensor that is alive there, in the last layer's copy of the block.

    The peak of their sums over the steps that run is `peak_bytes`. The final cache is not among them; what of it is not
    there yet counts below zero.
    """
    sized = _sized(rows, values, use_cache)
    return [_alive(sized, moment) for moment in range(len(rows))]


_Sized: TypeAlias = list[tuple[_Life, Any]]


def _sized(rows: Sequence[Row], values: Mapping[str, Any], use_cache: bool) -> _Sized:
    """Each tensor's life, with its bytes."""
    return [
        (life, life.sign * life.tensor.bytes.evaluate(values) * _as_number(life.when.evaluate(values)))
        for life in _lives(tuple(row.step for row in rows), use_cache)
    ]


def _alive(sized: _Sized, moment: int) -> dict[str, Any]:
    """The bytes of what is alive at a step, by name."""
    return {life.tensor.name: size for life, size in sized if life.first <= moment <= life.last}


def _as_number(truth: Any) -> Any:
    return int(truth) if isinstance(truth, bool) else truth
