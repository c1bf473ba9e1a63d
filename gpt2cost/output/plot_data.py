"""What the pictures show, as plain numbers in SI units: no drawing here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from gpt2cost.checks import check_choice
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.output.chrome_trace import slices_of
from gpt2cost.output.shared import how_text, sizes_text
from gpt2cost.prediction.grid import make_grid
from gpt2cost.prediction.predict import Phase, Prediction, predict
from gpt2cost.prediction.settings import How
from gpt2cost.table.config import Model
from gpt2cost.table.kernel import Kernel, Kind
from gpt2cost.timing.queue_steps import Slice

KINDS: tuple[str, ...] = get_args(Kind)
AXES = {"batch": "batch size (sequences)", "seq": "new tokens per sequence", "cache": "cached tokens per sequence"}
QUANTITIES = ("latency", "throughput")
MOST_POINTS = 100_000
"""The most sizes of a picture."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A kernel of a pass: FLOP/B, attained FLOP/s, its share of the pass's device time."""

    name: str
    kind: str
    phase: str
    intensity: float
    flop_per_s: float
    share: float


@dataclass(frozen=True)
class Picture:
    """What every picture has."""

    title: str
    subtitle: str


@dataclass(frozen=True)
class Roofline(Picture):
    """A device's roofs and the kernels below them. `peaks`: label -> FLOP/s; `bandwidths`: label -> B/s."""

    peaks: dict[str, float]
    bandwidths: dict[str, float]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Swept(Picture):
    """A picture over one size: what that is, and its values."""

    axis: str
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class Breakdown(Swept):
    """Seconds of each kernel kind at each size, and what the pass takes beyond them: waiting for the host."""

    kinds: dict[str, Floats]
    waiting: Floats


@dataclass(frozen=True)
class Line:
    """One device: the quantity at each size, with its range."""

    label: str
    values: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Curve(Swept):
    """A quantity over a swept size. `limit`: the size from which on the model has no more positions, if any."""

    quantity: str
    lines: tuple[Line, ...]
    limit: int | None


@dataclass(frozen=True)
class Timeline(Picture):
    """A pass on the host queue and the device stream; `zoom` is one layer's span in seconds."""

    slices: tuple[Slice, ...]
    latency_s: float
    zoom: tuple[float, float]
    layer: str


def _how_text(how: How) -> str:
    cached = "" if how.use_cache else ", no KV cache"
    return f"{how_text(how)}{cached}, logits of {how.logits} positions"


def _pass_text(phase: Phase) -> str:
    return f"{phase.phase} of {sizes_text(phase)}"


def roofline(prediction: Prediction) -> Roofline:
    """Each kernel that computes, of every phase of a single-point prediction."""
    hw, how, memory = prediction.hardware, prediction.how, prediction.hardware.memory
    points = []
    for phase in prediction.phases:
        for cost in filter(attrgetter("flops"), phase.kernels):
            name, share = cost.row.path.removeprefix("transformer."), cost.device_s / phase.totals.device_s
            intensity, rate = cost.flops / cost.moved_bytes, cost.flops / cost.device_s
            points.append(Point(name, cost.kernel.kind, phase.phase, intensity, rate, share))
    return Roofline(
        title=f"Roofline of {prediction.model.name} on {hw.name}: predicted kernels",
        subtitle=f"{'; '.join(map(_pass_text, prediction.phases))}\n{_how_text(how)}",
        peaks={f"{dtype} peak": hw.compute.peak_flop_per_s[dtype] for dtype in dict.fromkeys((how.dtype, "fp32"))},
        bandwidths={"L2 bandwidth": memory.l2_bandwidth_bytes_per_s, "DRAM bandwidth": memory.bandwidth_bytes_per_s},
        points=tuple(points),
    )


def swept(sizes: dict[str, object]) -> tuple[str, NDArray[np.int64], dict[str, Any]]:
    """The one of batch, seq and cache that has several values, those values, and the sizes as `predict` takes them.

    `sizes` are values, lists or text such as `1,2,8`, `1-64*2`, `128-1024+128`. Raises `InputError` unless exactly one
    has several.
    """
    grid = make_grid(model="gpt2", gpu="a100", **sizes)
    axes: dict[str, NDArray[np.int64]] = {name: np.unique(getattr(grid, name)) for name in AXES}
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
    how, pass_ = _phase(model, hw, given, phase, settings)
    kinds: dict[str, Floats] = {}
    for kind in KINDS:
        total = _broadcast(sum(cost.device_s for cost in pass_.kernels if cost.kernel.kind == kind), values)
        if np.any(total):
            kinds[kind] = total
    return Breakdown(
        title=f"Where the time of {model.name} goes on {hw.name}: predicted {pass_.phase}",
        subtitle=f"{_fixed(axis, given, pass_)}\n{_how_text(how)}",
        axis=axis,
        sizes=values,
        kinds=kinds,
        waiting=_broadcast(pass_.totals.latency_s, values) - sum(kinds.values()),
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
    for hw in devices:
        how, pass_ = _phase(model, hw, given, phase, settings)
        totals = pass_.totals
        middle, low, high = totals.latency_s, totals.latency_low_s, totals.latency_high_s
        if quantity == "throughput":
            tokens = totals.tokens_per_s * middle
            middle, low, high = totals.tokens_per_s, tokens / high, tokens / low
        lines.append(Line(hw.name, *(_broadcast(numbers, values) for numbers in (middle, low, high))))
    beyond = values[np.broadcast_to(np.asarray(pass_.kv_len) > model.n_positions, values.shape)]
    return Curve(
        title=f"Predicted {pass_.phase} {quantity} of {model.name}",
        subtitle=f"{_fixed(axis, given, pass_)}\n{_how_text(how)}; bands: range of the prediction",
        axis=axis,
        quantity=quantity,
        sizes=values,
        lines=tuple(lines),
        limit=int(beyond[0]) if len(beyond) else None,
    )


def _broadcast(numbers: Any, sizes: NDArray[np.int64]) -> Floats:
    return np.asarray(np.broadcast_to(numbers, sizes.shape), np.float64)


def _phase(
    model: Model, hw: Hardware, given: dict[str, Any], phase: str, settings: dict[str, Any]
) -> tuple[How, Phase]:
    """The one pass that is asked for; what it is called is `predict`'s to say."""
    check_choice("phase", phase, ("prefill", "decode"))
    prediction = predict(model, hw, **given, phase=phase, **settings)
    return prediction.how, prediction.phases[0]


def _fixed(axis: str, given: dict[str, Any], phase: Phase) -> str:
    """The sizes that are not swept."""
    batch, seq, cache = ("the swept" if name == axis else str(given[name]) for name in AXES)
    sequences = "" if axis == "batch" else f"batch {batch}; "
    if phase.phase == "prefill":
        parts = {"seq": f"{seq} new tokens", "cache": f"{cache} cached tokens"}
        return sequences + ", ".join(text for name, text in parts.items() if name != axis)
    if axis == "batch":
        return f"one new token per sequence after {int(np.max(phase.kv_len)) - 1} tokens"
    if axis == "cache" and given["seq"] == 1:
        return f"{sequences}one new token per sequence"
    return f"{sequences}one new token per sequence, after {seq} new on {cache} cached tokens"


def timeline(prediction: Prediction) -> Timeline:
    """The first phase of a single-point prediction, and the middle one of its layers to look at closely.

    Raises `InputError` where it has too many slices.
    """
    phase = prediction.phases[0]
    (slices,) = slices_of(phase)
    layer = f"transformer.h.{prediction.model.n_layer // 2}"
    inside = [piece for piece in slices if f"{piece.module}.".startswith(f"{layer}.")]
    zoom = (min(piece.start_s for piece in inside), max(piece.end_s for piece in inside))
    return Timeline(
        title=f"Timeline of {prediction.model.name} on {prediction.hardware.name}: predicted {phase.phase}",
        subtitle=f"{_pass_text(phase)}\n{_how_text(prediction.how)}",
        slices=tuple(slices),
        latency_s=slices[-1].end_s,
        zoom=zoom,
        layer=layer,
    )


def kind_of(piece: Slice) -> str:
    """The kernel kind of a slice; `host` for what launches none."""
    return piece.row.step.kind if piece.row is not None and isinstance(piece.row.step, Kernel) else "host"
