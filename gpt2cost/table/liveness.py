"""How much memory a pass needs beyond weights and the final KV cache: the most bytes alive at any moment.

A tensor is alive from the kernel that makes it to the last step that reads it or keeps it (a Python variable that
still names it). Layers are alike, so the repeated block is looked at once, as its last copy: there the cache of every
other layer has grown, and the old keys and values of this one are still alive until they have been concatenated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.table.formula import Condition
from gpt2cost.table.kernel import Free, Kernel, Row, Tensor

FINAL_CACHE = ("key", "value", "cross_key", "cross_value")
OLD_CACHE = ("past_key", "past_value")
LAYER_CACHE = (*OLD_CACHE, *FINAL_CACHE)
"""A layer's own, under the same names in each."""
NEW_CACHE = (*FINAL_CACHE, "key_rows", "value_rows")
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
    sized = _sized(rows, values, use_cache)
    peak: Any = 0
    for moment in {life.first if life.sign > 0 else life.last + 1 for life, _ in sized}:
        total = sum(_alive(sized, moment).values())
        peak = max(peak, total) if isinstance(peak, int) and isinstance(total, int) else np.maximum(peak, total)
    return peak


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
