"""What the pictures show, as plain numbers in SI units: no drawing here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from gpt2cost.checks import check_choice
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.output.shared import how_text, sizes_text
from gpt2cost.prediction.compare import WAITING
from gpt2cost.prediction.grid import make_grid
from gpt2cost.prediction.one_pass import host_sets_pace
from gpt2cost.prediction.predict import Phase, Prediction, predict
from gpt2cost.prediction.settings import How, is_decode
from gpt2cost.prediction.train_settings import TrainHow
from gpt2cost.table.config import Model
from gpt2cost.table.kernel import Kind, short_path

KINDS: tuple[str, ...] = get_args(Kind)
KIND_TEXTS = {
    "gemm": "product with weights", "bmm": "scores, context per head", "attention": "fused attention",
    "reduction": "layer norm, softmax, sums", "elementwise": "arithmetic per element",
    "copy": "copies, cat of the cache", "gather": "rows of embeddings", "fill": "constants",
    WAITING: "for the host, and to launch",
}  # fmt: skip
"""What the kernels of a kind are, and what a pass does while none runs."""
AXES = {"batch": "batch size (sequences)", "seq": "new tokens per sequence", "cache": "cached tokens per sequence"}
SMALLEST = 0.005
"""Share of a phase's device time below which the roofline leaves a kernel out."""
QUANTITIES = ("latency", "throughput")
BANDS = "bands: range of the prediction"
MOST_POINTS = 100_000
"""The most sizes of a picture."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A kernel of a pass: FLOP/B, attained FLOP/s and B/s, device seconds, its share of the pass's.

    Of a copy, a gather or a fill `intensity` and `flop_per_s` are 0: it stands beside the roofs.
    """

    name: str
    kind: str
    phase: str
    intensity: float
    flop_per_s: float
    bytes_per_s: float
    device_s: float
    share: float

    @property
    def is_shown(self) -> bool:
        """Whether it takes enough of its phase to have a mark."""
        return self.share >= SMALLEST


@dataclass(frozen=True)
class Picture:
    """What every picture has. `warnings`: of the prediction that it shows."""

    title: str
    subtitle: str
    warnings: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class Roofline(Picture):
    """A device's roofs and all kernels of the passes. `peaks`: label -> FLOP/s; `bandwidths`: label -> B/s.

    `ridge`: the FLOP/B from which on the peak of the dtype, and not DRAM's bandwidth, is the roof. `notes`: what each
    line means.
    """

    peaks: dict[str, float]
    bandwidths: dict[str, float]
    ridge: float
    points: tuple[Point, ...]
    notes: dict[str, str]


@dataclass(frozen=True)
class Swept(Picture):
    """A picture over one size: which that is, what the pass has of it, and the values."""

    axis: str
    axis_text: str
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class Breakdown(Swept):
    """Seconds of each kernel kind at each size, and what the pass takes beyond them: waiting for the host.

    `tokens`: that the pass brings, of the whole batch.
    """

    kinds: dict[str, Floats]
    waiting: Floats
    tokens: Floats


@dataclass(frozen=True)
class Line:
    """One device: the quantity at each size, with its range, and where the host sets the pace."""

    label: str
    values: Floats
    low: Floats
    high: Floats
    host_bound: NDArray[np.bool_]


@dataclass(frozen=True)
class Curve(Swept):
    """A quantity over a swept size. `limit`: the size from which on the model has no more positions, if any."""

    quantity: str
    lines: tuple[Line, ...]
    limit: int | None


def how_line(how: How) -> str:
    """How a pass is run."""
    cached = "" if how.use_cache else ", no KV cache"
    return f"{how_text(how)}{cached}, logits of {how.logits_text}"


def step_line(how: TrainHow) -> str:
    """How a training step is run."""
    more = (
        f", checkpointing {how.checkpointing}" * (how.checkpointing != "none"),
        f", ZeRO {how.zero}" * (how.zero > 0),
    )
    return f"{how_text(how.how, how.precision)}, {how.optimizer}{''.join(more)}"


def pass_line(phase: Phase) -> str:
    """What a pass is, and its sizes."""
    return f"{phase.phase} of {sizes_text(phase)}"


def roofline(prediction: Prediction) -> Roofline:
    """Each kernel of every phase of a single-point prediction, those without FLOPs too."""
    hw, how, memory = prediction.hardware, prediction.how, prediction.hardware.memory
    points = []
    for phase in prediction.phases:
        for cost in phase.kernels:
            seconds, moved, flops = cost.device_s, cost.moved_bytes, cost.flops
            name, share = short_path(cost.row.path), seconds / phase.totals.device_s
            rates = (flops / moved, flops / seconds, moved / seconds)
            points.append(Point(name, cost.kernel.kind, phase.phase, *rates, seconds, share))
    return Roofline(
        title=f"Roofline of {prediction.model.name} on {hw.name}: predicted kernels",
        subtitle=f"{'; '.join(map(pass_line, prediction.phases))}\n{how_line(how)}",
        warnings=prediction.warnings,
        peaks={f"{dtype} peak": hw.compute.peak_flop_per_s[dtype] for dtype in dict.fromkeys((how.dtype, "fp32"))},
        bandwidths={"L2 bandwidth": memory.l2_bandwidth_bytes_per_s, "DRAM bandwidth": memory.bandwidth_bytes_per_s},
        ridge=hw.ridge_flop_per_byte(how.dtype),
        points=tuple(points),
        notes={
            f"{how.dtype} peak": "matrix products",
            "fp32 peak": "arithmetic" + " outside of products" * (how.dtype != "fp32"),
            "DRAM bandwidth": "data from memory",
            "L2 bandwidth": "data that was just used",
        },
    )


def swept(sizes: dict[str, object]) -> tuple[str, NDArray[np.int64], dict[str, Any]]:
    """The one of batch, seq and cache that has several values, those values, and the sizes as `predict` takes them.

    `sizes` are values, lists or text such as `1,2,8`, `1-64*2`, `128-1024+128`. Raises `InputError` unless exactly one
    has several.
    """
    grid = make_grid(model="gpt2", gpu="a100", **sizes)
    axes: dict[str, NDArray[np.int64]] = {name: np.sort(getattr(grid, name)) for name in AXES}
    several = [name for name, values in axes.items() if len(values) > 1]
    if len(several) != 1:
        raise InputError(
            f"exactly one of {', '.join(AXES)} must have several values, such as 1-64*2 or 128-1024+128; got"
            f" {' and '.join(several) or 'none'}"
        )
    if len(axes[several[0]]) > MOST_POINTS:
        raise InputError(f"{several[0]}: a picture takes at most {MOST_POINTS} values, got {len(axes[several[0]])}")
    given = {name: values if name in several else int(values[0]) for name, values in axes.items()}
    return several[0], axes[several[0]], given


def breakdown(
    model: Model, hw: Hardware, sizes: dict[str, object], phase: str = "prefill", **settings: Any
) -> Breakdown:
    """Device time by kernel kind over the one size in `sizes` that has several values.

    `settings` as `predict` takes them: dtype, attn, runtime, logits, use_cache. Raises `InputError` for bad input.
    """
    axis, values, given = swept(sizes)
    how, pass_, warnings = _phase(model, hw, given, phase, settings)
    kinds: dict[str, Floats] = {}
    for kind in KINDS:
        total = _broadcast(sum(cost.device_s for cost in pass_.kernels if cost.kernel.kind == kind), values)
        if np.any(total):
            kinds[kind] = total
    return Breakdown(
        title=f"Where the time of {model.name} goes on {hw.name}: predicted {_name(pass_)}",
        subtitle=f"{_fixed(axis, given, pass_)}\n{how_line(how)}",
        warnings=warnings,
        axis=axis,
        axis_text=_axis_text(axis, pass_),
        sizes=_own_sizes(axis, pass_, values),
        kinds=kinds,
        waiting=_broadcast(pass_.totals.latency_s, values) - sum(kinds.values()),
        tokens=_broadcast(pass_.totals.tokens_per_s * pass_.totals.latency_s, values),
    )


def curve(
    model: Model,
    devices: Sequence[Hardware],
    sizes: dict[str, object],
    phase: str = "decode",
    quantity: str = "latency",
    **settings: Any,
) -> Curve:
    """Latency in seconds, or throughput in tokens/s of the batch, of several devices over the swept size."""
    check_choice("quantity", quantity, QUANTITIES)
    if not devices:
        raise InputError("gpu: expected at least one device")
    axis, values, given = swept(sizes)
    lines = []
    warnings: dict[str, None] = {}
    for hw in devices:
        how, pass_, own_warnings = _phase(model, hw, given, phase, settings)
        warnings |= dict.fromkeys(own_warnings)
        totals = pass_.totals
        middle, low, high = totals.latency_s, totals.latency_low_s, totals.latency_high_s
        if quantity == "throughput":
            tokens = totals.tokens_per_s * middle
            middle, low, high = totals.tokens_per_s, tokens / high, tokens / low
        waits = np.broadcast_to(host_sets_pace(totals.host_s, totals.device_s), values.shape)
        middle, low, high = (_broadcast(numbers, values) for numbers in (middle, low, high))
        lines.append(Line(hw.name, middle, low, high, waits))
    own = _own_sizes(axis, pass_, values)
    beyond = own[np.broadcast_to(np.asarray(pass_.kv_len) > model.n_positions, values.shape)]
    return Curve(
        title=f"Predicted {_name(pass_)} {quantity} of {model.name}",
        subtitle=f"{_fixed(axis, given, pass_)}\n{how_line(how)}; {BANDS}",
        warnings=tuple(warnings),
        axis=axis,
        axis_text=_axis_text(axis, pass_),
        quantity=quantity,
        sizes=own,
        lines=tuple(lines),
        limit=int(beyond[0]) if len(beyond) else None,
    )


def _broadcast(numbers: Any, sizes: NDArray[np.int64]) -> Floats:
    return np.asarray(np.broadcast_to(numbers, sizes.shape), np.float64)


def _phase(
    model: Model, hw: Hardware, given: dict[str, Any], phase: str, settings: dict[str, Any]
) -> tuple[How, Phase, tuple[str, ...]]:
    """The one pass that is asked for, and its warnings; what it is called is `predict`'s to say."""
    check_choice("phase", phase, ("prefill", "decode"))
    prediction = predict(model, hw, **given, phase=phase, **settings)
    return prediction.how, prediction.phases[0], prediction.warnings


def _is_step(pass_: Phase) -> bool:
    """Whether the pass has one new token per sequence everywhere, on a cache but for its first point perhaps."""
    return bool(np.all(np.asarray(pass_.seq_len) == 1) and np.any(is_decode(pass_.sizes)))


def _name(pass_: Phase) -> str:
    return "decode" if _is_step(pass_) else pass_.phase


def _own_sizes(axis: str, pass_: Phase, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the pass itself has along the axis: a decode step after more new tokens has more cached ones."""
    own = {"batch": pass_.batch_size, "seq": pass_.seq_len, "cache": pass_.cache_len}[_own_axis(axis, pass_)]
    return np.broadcast_to(own, values.shape).astype(np.int64)


def _own_axis(axis: str, pass_: Phase) -> str:
    return "cache" if axis == "seq" and _is_step(pass_) else axis


def _axis_text(axis: str, pass_: Phase) -> str:
    own = _own_axis(axis, pass_)
    if own == "seq" and pass_.phase == "decode":
        return "tokens per sequence, all of which the step runs anew"
    return f"{AXES[own]} before the step" if own == "cache" and _is_step(pass_) else AXES[own]


def _fixed(axis: str, given: dict[str, Any], pass_: Phase) -> str:
    """The sizes that are not swept, as the pass has them."""
    parts = [] if axis == "batch" else [f"batch {given['batch']}"]
    own = _own_axis(axis, pass_)
    if _is_step(pass_):
        parts.append(
            "one new token per sequence" + (f" after {int(np.max(pass_.cache_len))} tokens" if own == "batch" else "")
        )
        return ", ".join(parts)
    if own != "seq":
        parts.append(f"{int(np.max(pass_.seq_len))} {'' if pass_.phase == 'decode' else 'new '}tokens per sequence")
    if own != "cache" and np.max(pass_.cache_len):
        parts.append(f"{int(np.max(pass_.cache_len))} cached tokens")
    return ", ".join(parts)
