"""The points of a page: sizes, dtypes and attention implementations around those that were asked for.

All sizes of a dtype and an attention implementation are predicted at once, as arrays. A point that does not run stays,
with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.one_pass import run_pass, uncapturable
from gpt2cost.prediction.predict import Phase, Prediction, predict_run
from gpt2cost.prediction.settings import SIZE_FIELDS, How, Sizes, check_device, check_sizes, is_decode
from gpt2cost.table.config import Model
from gpt2cost.table.kernel import Row
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS

DTYPES_SHOWN = ("fp32", "fp16", "bf16")
"""The dtypes of the grid, where the device has them, beside the one that was asked for."""
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

    @property
    def own(self) -> int:
        """The place of the choice that was asked for."""
        return self.asked[3] * len(self.axes.attn) + self.asked[4]

    def at_asked(self, values: Any) -> Any:
        """One of the values over the grid of sizes: of the sizes that were asked for."""
        shape = tuple(len(getattr(self.axes, name)) for name in SIZE_FIELDS)
        return np.broadcast_to(values, shape)[tuple(self.asked[:3])]


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
        if other == how or (name == "logits" and (phase.phase == "decode" or model.head != "lm")):
            continue
        try:
            check_device(hw, other, model.head_dim)
        except InputError:
            continue
        latency_s = np.asarray(run_pass(model, hw, other, phase.sizes).times.latency_s)
        yield change, np.where(uncapturable(model, other, phase.sizes)[0], np.inf, latency_s)


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
