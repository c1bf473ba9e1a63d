"""The points of a page: sizes, dtypes and attention implementations around those that were asked for.

All sizes of a dtype and an attention implementation are predicted at once, as arrays. A point that does not run stays,
with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.output.field import Record
from gpt2cost.output.shared import trust_text
from gpt2cost.prediction.one_pass import run_pass, symbol_values, uncapturable
from gpt2cost.prediction.predict import Phase, Prediction, predict_run
from gpt2cost.prediction.settings import How, Sizes, check_device, check_sizes, is_decode
from gpt2cost.table.config import Model
from gpt2cost.table.kernel import Kernel, Row
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS
from gpt2cost.timing.kernel import BOUNDS, bound_seconds, index_of_largest

DIGITS = 4
"""Significant digits of the figures of a point; those of the one that was asked for have all."""
DTYPES_SHOWN = ("fp32", "fp16", "bf16")
"""The dtypes of the grid, where the device has them, beside the one that was asked for."""
LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
"""Digits of base 64."""
LEVELS = len(LETTERS) ** 3 // len(BOUNDS)
"""Seconds that three of them tell apart, beside a bound: by 1 part in 2000, from a nanosecond to `LONGEST_NS`."""
LONGEST_NS = 1e12
WHAT_IFS = ("runtime compile", "runtime reduce-overhead", "logits last")
"""What a point could be run with instead: of each the latency alone."""


@dataclass(frozen=True)
class Axes:
    """The values of each choice, those that were asked for among them."""

    batch: tuple[int, ...]
    seq: tuple[int, ...]
    cache: tuple[int, ...]
    dtype: tuple[str, ...]
    attn: tuple[str, ...]

    def index(self, how: How, sizes: Sizes) -> list[int]:
        """Where a point stands on each axis."""
        own = (sizes.batch_size, sizes.seq_len, sizes.cache_len, how.dtype, how.attn)
        return [getattr(self, axis.name).index(value) for axis, value in zip(fields(self), own, strict=True)]


@dataclass(frozen=True, eq=False)
class Choice:
    """One dtype and attention implementation over all sizes of the grid: arrays of shape (batch, seq, cache).

    `refused`: why nothing of it runs; `fails` where no CUDA graph can be captured, and `why`. `what_ifs` of each phase:
    another runtime, or logits of the last position alone -> the latency.
    """

    how: How
    refused: str = ""
    prediction: Prediction | None = None
    fails: Any = False
    why: str = ""
    what_ifs: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class Points:
    """A grid around a point: a `Choice` for each dtype and attention implementation, in this order."""

    model: Model
    hardware: Hardware
    axes: Axes
    asked: list[int]
    choices: tuple[Choice, ...]


def axes_around(model: Model, hw: Hardware, how: How, sizes: Sizes) -> Axes:
    """The grid around a point. A pass that is a decode step has only decode steps beside it."""
    batch, seq, cache = sizes.batch_size, sizes.seq_len, sizes.cache_len
    decoding = bool(is_decode(sizes))
    seqs = {seq} if decoding else {max(2, seq // 4), seq, 2 * seq}
    caches = {cache}
    if how.use_cache and decoding:
        caches |= {max(1, cache // 4), 2 * cache}
    elif how.use_cache and seq > 1:
        caches |= {0, cache or model.n_positions // 2}
    dtypes = [name for name in hw.compute.peak_flop_per_s if name in (*DTYPES_SHOWN, how.dtype)]
    attns = ("sdpa", "eager") if how.impl == "nanogpt" else ATTENTION_IMPLEMENTATIONS
    batches = {1, max(1, batch // 2), batch, 4 * batch}
    return Axes(tuple(sorted(batches)), tuple(sorted(seqs)), tuple(sorted(caches)), tuple(dtypes), tuple(attns))


def points_around(model: Model, hw: Hardware, how: How, sizes: Sizes) -> Points:
    """Predict the grid around a point that has been predicted."""
    how = how.on(model)
    axes = axes_around(model, hw, how, sizes)
    grid = check_sizes(
        np.array(axes.batch)[:, None, None], np.array(axes.seq)[:, None], np.array(axes.cache), how.use_cache
    )
    hows = [replace(how, dtype=dtype, attn=attn) for dtype, attn in product(axes.dtype, axes.attn)]
    choices = tuple(_choice(model, hw, own, grid) for own in hows)
    return Points(model, hw, axes, axes.index(how, sizes), choices)


def _choice(model: Model, hw: Hardware, how: How, grid: Sizes) -> Choice:
    try:
        prediction = predict_run(model, hw, how, grid, "both", partly=True)
    except InputError as error:
        return Choice(how, str(error))
    fails: Any = False
    why = ""
    for phase in prediction.phases:
        own, reason = uncapturable(model, how, phase.sizes)
        fails, why = fails | np.asarray(own), reason
    what_ifs = tuple(dict(_what_ifs(model, hw, how, phase)) for phase in prediction.phases)
    return Choice(how, "", prediction, fails, why, what_ifs)


def _what_ifs(model: Model, hw: Hardware, how: How, phase: Phase) -> Iterator[tuple[str, Any]]:
    """What a phase would take if it were run otherwise, where it can be."""
    for change in WHAT_IFS:
        name, value = change.split()
        other = replace(how, logits=value) if name == "logits" else replace(how, runtime=value)
        if other == how or (name == "logits" and phase.phase == "decode"):
            continue
        try:
            check_device(hw, other, model.head_dim)
        except InputError:
            continue
        latency_s = np.asarray(run_pass(model, hw, other, phase.sizes).times.latency_s)
        yield change, np.where(uncapturable(model, other, phase.sizes)[0], np.inf, latency_s)


# ---------------------------------------------------------------------------------------------- as the page has it


def table_of_all(points: Points) -> list[Row]:
    """The rows of all choices in the order in which they run, each once."""
    rows: list[Row] = []
    keys: list[Any] = []
    for choice in points.choices:
        place = 0
        for row in choice.prediction.phases[0].pass_.rows if choice.prediction else ():
            if (key := row_key(row)) in keys:
                place = max(place, keys.index(key) + 1)
            else:
                rows.insert(place, row)
                keys.insert(place, key)
                place += 1
    return rows


def row_key(row: Row) -> tuple[Any, ...]:
    """What makes two rows of different tables the same step."""
    return row.module, row.step, row.count


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
    return {
        "axes": {axis.name: list(getattr(points.axes, axis.name)) for axis in fields(points.axes)},
        "asked": points.asked,
        "symbols": {name: _symbols(points.model, name) for name in points.axes.dtype},
        "n_positions": points.model.n_positions,
        "bounds": list(BOUNDS),
        "letters": LETTERS,
        "levels": LEVELS,
        "step": math.log(LONGEST_NS) / (LEVELS - 1),
        "trusts": [[word, trust_text(word, source, points.hardware)] for word, source in trusts],
        "kernels": [_kernel(row) for row in kernels],
        "tables": tables,
        "what_ifs": list(WHAT_IFS),
        "refused": [choice.refused for choice in points.choices],
        "points": every,
    }


def _symbols(model: Model, dtype: str) -> Record:
    """The symbols that the sizes do not change."""
    values = symbol_values(model, dtype, Sizes())
    return {
        name: value for name, value in values.items() if name not in ("batch_size", "seq_len", "cache_len", "kv_len")
    }


def _kernel(row: Row) -> list[str]:
    step = row.step
    assert isinstance(step, Kernel)
    return [row.path, step.kind, *map(str, (row.count, step.flops, step.reads, step.writes))]


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
        digits = 17 if index == place else DIGITS
        record: Record = {"m": [int(part[index]) for part in memory]}
        if fails[index]:
            record["x"] = choice.why
        record["p"] = [arrays.at(index, digits, trusts) for arrays in own]
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

    def at(self, index: int, digits: int, trusts: dict[tuple[str, str], int]) -> Record:
        """One point: `z` sizes, `t` seconds, `r` rates, `b` bound, `u` trust, `w` what-ifs, and its kernels."""
        trust = str(self.trust[index]), str(self.trust_from[index])
        return {
            "z": [int(size[index]) for size in self.sizes],
            "t": [_nanoseconds(part[index], digits) for part in self.seconds],
            "r": [_short(part[index], digits) for part in self.shares],
            "b": str(self.bound[index]),
            "u": trusts.setdefault(trust, len(trusts)),
            "w": [self.what_if(change, index, digits) for change in WHAT_IFS],
            **(self.exact(index) if digits > DIGITS else {"e": self.encoded(index)}),
        }

    def exact(self, index: int) -> Record:
        """Each kernel of one point: `k` nanoseconds, `c` the index of its bound."""
        return {
            "k": [_nanoseconds(part[index], 17) for part in self.kernels],
            "c": "".join(str(int(bound[index])) for bound in self.kernel_bounds),
        }

    def encoded(self, index: int) -> str:
        """The same in three letters for each kernel, on a logarithmic scale; 000 is not launched."""
        letters = []
        for seconds, bound in zip(self.kernels, self.kernel_bounds, strict=True):
            ns = 1e9 * float(seconds[index])
            level = round((LEVELS - 1) * math.log(min(max(ns, 1.0), LONGEST_NS)) / math.log(LONGEST_NS))
            code = int(bound[index]) * LEVELS + max(1, level) if ns else 0
            letters += [LETTERS[code // 4096], LETTERS[code // 64 % 64], LETTERS[code % 64]]
        return "".join(letters)

    def what_if(self, change: str, index: int, digits: int) -> float | int | None:
        """A what-if's latency; None where it cannot be."""
        latency_s = self.what_ifs[change][index] if change in self.what_ifs else np.inf
        return _nanoseconds(latency_s, digits) if np.isfinite(latency_s) else None


def _nanoseconds(seconds: Any, digits: int) -> float | int:
    return _short(1e9 * float(seconds), digits)


def _short(value: Any, digits: int) -> float | int:
    rounded = float(f"{float(value):.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded
