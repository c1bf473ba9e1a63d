"""The constants of a GPU that a fit may move, within which limits, and the search for where they fit best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any, TypeVar

import numpy as np
from scipy.optimize import least_squares

from gpt2cost.calibration.forms import Group
from gpt2cost.device.hardware import Hardware
from gpt2cost.schema import fields_of
from gpt2cost.timing.terms import Array

T = TypeVar("T")

_F_SCALE = 0.1
"""Log error from which a record counts as an outlier."""
_PRIOR = 0.05
"""Weight of the prior: a constant that has moved by 1, in its logarithm or scale, counts like a record with this log
error."""
_REACH = 8.0
"""A constant stays within this factor of the base device's."""
_MOST_SCALES = 100.0
"""And one that is 0 there below this many of its scale."""
_STARTS = 3
"""From how many points each fit starts, the base device being one."""
_MOST_STEPS = 50
"""Of a fit from one start."""
_KEPT = 1e-3
"""A constant that moved by less has not moved."""

_LIMITS = {"efficiency": (0.05, 1.2), "wave_power": (0.01, 1.0), "overlap": (1.0, 16.0), "write_weight": (0.5, 2.5)}
"""Narrower limits than `_REACH` and the schema set."""
_ZERO_SCALES = {"latency_s": 1e-6, "column_s": 1e-9, "prologue_k": 16.0, "multi_token_s": 1e-6, "multi_block_s": 1e-6}
"""Constants that may leave 0, with the scale on which they do."""


@dataclass(frozen=True)
class FreeConstant:
    """A constant that a fit may move: `base * exp(x)`, or `scale * x` where it is 0 on the base device."""

    path: tuple[str, ...]
    base: float
    scale: float
    low: float
    high: float

    def value(self, x: float) -> float:
        return float(self.base * np.exp(x) if self.base else self.scale * x)


def free_constants(
    hw: Hardware, path: tuple[str, ...], names: Iterable[str], low: float = 0.0, high: float = np.inf
) -> list[FreeConstant]:
    """The constants at `path` that can move: those that are set, or may leave 0."""
    section = value_at(hw, path)
    kind: type = type(section)
    rules = {field.name: field.rules for field in fields_of(kind).values()}
    free = []
    for name in names:
        base = getattr(section, name)
        if base is None or (base == 0 and name not in _ZERO_SCALES):
            continue
        least, most = _LIMITS.get(name, (0.0, 1.0 if rules[name].get("bound") == "fraction" else np.inf))
        if base == 0:
            free.append(FreeConstant((*path, name), 0.0, _ZERO_SCALES[name], 0.0, _MOST_SCALES))
            continue
        bottom, top = max(least, low, base / _REACH), min(most, high, base * _REACH)
        free.append(FreeConstant((*path, name), base, 1.0, min(0.0, log(bottom / base)), max(0.0, log(top / base))))
    return free


def fitted_to(groups: Sequence[Group], hw: Hardware, free: Sequence[FreeConstant]) -> Hardware:
    """`hw` with the free constants moved to where they fit the groups best."""

    def device(xs: Array) -> Hardware:
        moved = hw
        for constant, x in zip(free, xs, strict=True):
            moved = with_value(moved, constant.path, constant.value(x))
        return moved

    def errors(xs: Array) -> Array:
        moved = device(xs)
        return np.concatenate([*(group.errors(moved) for group in groups), _PRIOR * xs])

    low, high = np.array([(constant.low, constant.high + 1e-9) for constant in free]).T
    jitter = np.random.default_rng(0).normal(0.0, 0.3, (_STARTS, len(free)))
    jitter[0] = 0.0  # the first start is the base device
    tries = [
        least_soft_l1(errors, np.clip(start, low, high), (low, high), method="dogbox", max_nfev=_MOST_STEPS)
        for start in jitter
    ]
    best = np.minimum(min(tries, key=lambda attempt: float(attempt.cost)).x, [constant.high for constant in free])
    return device(np.where(np.abs(best) < _KEPT, 0.0, best))


def least_soft_l1(errors: Callable[[Array], Array], start: Array, bounds: tuple[Array, Array], **how: Any) -> Any:
    """scipy's result for the least soft_l1 of errors in logarithms. `how`: what else `least_squares` takes."""
    return least_squares(errors, start, bounds=bounds, loss="soft_l1", f_scale=_F_SCALE, **how)


def value_at(node: Any, path: Sequence[str]) -> Any:
    """What lies at `path`, names of fields and keys, in nested dataclasses and mappings."""
    for name in path:
        node = node[name] if isinstance(node, Mapping) else getattr(node, name)
    return node


def with_value(node: T, path: Sequence[str], value: Any) -> T:
    """`node`, nested dataclasses and mappings, with `value` at `path`."""
    if not path:
        return value  # type: ignore[no-any-return]
    name, *rest = path
    inner = with_value(value_at(node, (name,)) if rest else None, rest, value)
    changed: Any = {**node, name: inner} if isinstance(node, Mapping) else replace(node, **{name: inner})  # type: ignore[type-var]
    return changed  # type: ignore[no-any-return]
