"""The points of a page as its script reads them: compact, and those of the point that was asked for exact.

Seconds of other points are letters on a logarithmic scale: four for those of a pass, three for those of a kernel and
what bounds it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from gpt2cost.output.field import Record
from gpt2cost.output.report.points import WHAT_IFS, Choice, Points, row_key
from gpt2cost.output.report.svg_roofline import listed_name
from gpt2cost.output.shared import trust_text
from gpt2cost.prediction.one_pass import symbol_values
from gpt2cost.prediction.predict import Phase
from gpt2cost.prediction.settings import Sizes
from gpt2cost.table.config import Model
from gpt2cost.table.kernel import Kernel, Row, short_path
from gpt2cost.timing.kernel import BOUNDS, bound_seconds, index_of_largest

DIGITS = 4
"""Significant digits of the rates of a point; those of the one that was asked for have all."""
LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
"""Digits of base 64."""
LEVELS = len(LETTERS) ** 3 // len(BOUNDS)
"""Seconds that three of them tell apart, beside a bound: by 1 part in 2000, from a nanosecond to `LONGEST_NS`."""
WIDE = len(LETTERS) ** 4
"""Seconds that four tell apart."""
LONGEST_NS = 1e12
PASS_BOUNDS = ("host", *BOUNDS)


def points_record(points: Points, rows: Sequence[Row]) -> Record:
    """The grid as the page's script reads it: seconds as nanoseconds, and FLOPs and bytes by the rows' formulas.

    `rows`: those of all choices; `tables` has for each choice which of them it launches, in order.
    """
    kernels = [row for row in rows if isinstance(row.step, Kernel)]
    numbers = {row_key(row): number for number, row in enumerate(kernels)}
    trusts: dict[tuple[str, str], int] = {}
    tables = [
        [numbers[row_key(cost.row)] for cost in choice.prediction.phases[0].kernels] if choice.prediction else []
        for choice in points.choices
    ]
    shape = tuple(len(getattr(points.axes, name)) for name in ("batch", "seq", "cache"))
    every = [_choice_points(choice, shape, points, number, trusts) for number, choice in enumerate(points.choices)]
    distinct, places = _distinct(every)
    return {
        "axes": {axis.name: list(getattr(points.axes, axis.name)) for axis in fields(points.axes)},
        "asked": points.asked,
        "symbols": {name: _symbols(points.model, name) for name in points.axes.dtype},
        "n_positions": points.model.n_positions,
        "bounds": list(BOUNDS),
        "pass_bounds": PASS_BOUNDS,
        "letters": LETTERS,
        "levels": LEVELS,
        "wide": WIDE,
        "longest": math.log(LONGEST_NS),
        "trusts": [[word, trust_text(word, source, points.hardware)] for word, source in trusts],
        "kernels": [_kernel(row) for row in kernels],
        "tables": tables,
        "what_ifs": list(WHAT_IFS),
        "refused": [choice.refused for choice in points.choices],
        "points": places,
        "distinct": distinct,
    }


def _distinct(every: Sequence[Sequence[Record]]) -> tuple[list[Record], list[list[int]]]:
    """The points, each once, and for each choice which of them it has: fp16 and bf16 have the same."""
    numbers: dict[str, int] = {}
    distinct: list[Record] = []
    for record in (record for points in every for record in points):
        if numbers.setdefault(json.dumps(record), len(distinct)) == len(distinct):
            distinct.append(record)
    return distinct, [[numbers[json.dumps(record)] for record in points] for points in every]


def _symbols(model: Model, dtype: str) -> Record:
    """The symbols that the sizes do not change."""
    values = symbol_values(model, dtype, Sizes())
    return {
        name: value for name, value in values.items() if name not in ("batch_size", "seq_len", "cache_len", "kv_len")
    }


def _kernel(row: Row) -> list[str]:
    """Name, kind, launches, and the name in the roofline's list; the formulas stand in the page."""
    step = row.step
    assert isinstance(step, Kernel)
    return [short_path(row.path), step.kind, str(row.count), listed_name(row.path)]


def _choice_points(
    choice: Choice, shape: tuple[int, ...], points: Points, number: int, trusts: dict[tuple[str, str], int]
) -> list[Record]:
    """The points of a choice, in the order of nested loops over batch, seq and cache."""
    prediction = choice.prediction
    if prediction is None:
        return []
    own = [_Arrays(phase, what_ifs, shape) for phase, what_ifs in zip(prediction.phases, choice.what_ifs, strict=True)]
    parts = ("weights", "kv_cache", "activations")
    memory = [_flat(getattr(prediction.memory, f"{name}_bytes"), shape) for name in parts]
    fails = _flat(choice.fails, shape)
    asked = points.asked[3] * len(points.axes.attn) + points.asked[4] == number
    place = int(np.ravel_multi_index(points.asked[:3], shape)) if asked else -1
    records = []
    for index in range(int(np.prod(shape))):
        record: Record = {"m": [int(part[index]) for part in memory]}
        if fails[index]:
            record["x"] = choice.why
        record["p"] = [arrays.at(index, index == place, trusts) for arrays in own]
        records.append(record)
    return records


def _flat(values: Any, shape: tuple[int, ...]) -> Any:
    return np.broadcast_to(np.asarray(values), shape).ravel()


class _Arrays:
    """A phase's figures over the grid, flat."""

    totals = ("latency_s", "latency_low_s", "latency_high_s", "device_s", "host_s")
    rates = ("tokens_per_s", "flops_utilization", "bandwidth_utilization")

    def __init__(self, phase: Phase, what_ifs: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        def flat(values: Any) -> Any:
            return _flat(values, shape)

        totals = phase.totals
        self.sizes = [flat(size) for size in (phase.batch_size, phase.seq_len, phase.cache_len)]
        self.seconds = [flat(getattr(totals, name)) for name in self.totals]
        self.shares = [flat(getattr(totals, name)) for name in self.rates]
        self.bound, self.trust, self.trust_from = map(flat, (totals.bound, totals.trust, totals.trust_from))
        self.what_ifs = {change: flat(latency_s) for change, latency_s in what_ifs.items()}
        self.kernels = [flat(np.multiply(cost.device_s, np.greater(cost.count, 0))) for cost in phase.kernels]
        self.kernel_bounds = [flat(index_of_largest(bound_seconds(cost.terms))) for cost in phase.kernels]

    def at(self, index: int, exact: bool, trusts: dict[tuple[str, str], int]) -> list[Any]:
        """One point: sizes, rates, the indices of bound and trust, and the seconds, `exact` or as letters."""
        trust = str(self.trust[index]), str(self.trust_from[index])
        return [
            [int(size[index]) for size in self.sizes],
            [float(part[index]) if exact else _short(part[index]) for part in self.shares],
            PASS_BOUNDS.index(str(self.bound[index])),
            trusts.setdefault(trust, len(trusts)),
            self.exact(index) if exact else self.encoded(index),
        ]

    def exact(self, index: int) -> Record:
        """Nanoseconds of one point: `t` of the pass, `w` of what-ifs, `k` of kernels, whose bounds `c` has."""
        what_ifs = [self.what_if(change, index) for change in WHAT_IFS]
        return {
            "t": [1e9 * float(part[index]) for part in self.seconds],
            "w": [1e9 * seconds if seconds else None for seconds in what_ifs],
            "k": [1e9 * float(part[index]) for part in self.kernels],
            "c": "".join(str(int(bound[index])) for bound in self.kernel_bounds),
        }

    def encoded(self, index: int) -> str:
        """The same as letters. Level 0 is what is not: not launched, or no what-if."""
        wide = [float(part[index]) for part in self.seconds] + [self.what_if(change, index) for change in WHAT_IFS]
        texts = [_letters(_level(seconds, WIDE), 4) for seconds in wide]
        for seconds, bound in zip(self.kernels, self.kernel_bounds, strict=True):
            level = _level(float(seconds[index]), LEVELS)
            texts.append(_letters(level and int(bound[index]) * LEVELS + level, 3))
        return "".join(texts)

    def what_if(self, change: str, index: int) -> float:
        """The latency of a what-if; 0 where it cannot be."""
        latency_s = float(self.what_ifs[change][index]) if change in self.what_ifs else math.inf
        return latency_s if math.isfinite(latency_s) else 0.0


def _level(seconds: float, levels: int) -> int:
    """Where some seconds stand on the scale, from 1 on; 0 where there are none."""
    ns = min(max(1e9 * seconds, 1.0), LONGEST_NS)
    return max(1, round((levels - 1) * math.log(ns) / math.log(LONGEST_NS))) if seconds else 0


def _letters(code: int, count: int) -> str:
    return "".join(LETTERS[code // len(LETTERS) ** place % len(LETTERS)] for place in reversed(range(count)))


def _short(value: float) -> float | int:
    """A rate of a point that was not asked for."""
    rounded = float(f"{float(value):.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded
