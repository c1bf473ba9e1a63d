"""The range of a prediction: factors on its device and host seconds, from errors of passes that were left out.

`residuals.json` holds log(measured / predicted) of the passes that were measured, on all devices, each predicted as if
it, its source and its box did not exist:

* `measured`: how far a whole pass lies beyond the other measured passes of its regime on its device: of other sources
  where there are any, else of other work or runtimes. A regime's own passes span a range; it is widened on both sides
  by what nine in ten stay within. Parts of a pass and sums of kernels make no regime `measured`: their errors are
  those of the other levels, and the device's own range holds them.
* `calibrated`: the errors of passes on devices whose kernels were measured, without a look at the passes: what a fit to
  kernels leaves when it is carried to passes. The range is as wide, on both sides, as nine in ten are small: on which
  side a few devices lean says nothing of the next.
* `borrowed`: the errors of passes predicted with another device's constants; of those of its architecture where there
  are any. The range is never narrower than that of `calibrated`.
* `changed`: as `borrowed`, and wider than the unchanged device's.
* `host`: the factors on the host's constants at which host-bound passes would meet their measurement. The range is
  from the 10th to the 90th percentile over boxes (machines).

Each source counts once, however many devices and passes it has, since its errors go together; of the host each box
counts once. A percentile of few is stretched, since the next one may well lie beyond them all: of n by 1 + 2/n, from
four on about as much as a prediction interval of Student's t is wider (1.6 for four, 1.2 for eight). Ranges
always hold the prediction, and `LEAST` on either side: clocks and temperature make two machines of one kind differ by
that much. Chosen by hand are `LEAST`, how much less a what-if is known (`CHANGED`), how well a machine's own host is
(`OWN_HOST`), and what stands where nothing was measured (`UNKNOWN`), as nothing was of quantised weights.

`python tests/regenerate.py` writes `residuals.json` anew (see `measure.residuals`), and a test compares.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.device.catalog import HOST_FACTOR
from gpt2cost.device.cpu_constants import CpuConstants
from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.cases import verdicts
from gpt2cost.prediction.settings import How, Number, Sizes
from gpt2cost.prediction.shipped import Level, Residual, Verdict, shipped
from gpt2cost.prediction.trust import Regime, Trust, device_trust, host_trust, regimes_of, unchanged_name

LEAST = math.log(1.05)
"""Of any range, on either side, in the logarithm."""
CHANGED = math.log(1.1)
"""How much wider a what-if's range is, on either side, in the logarithm."""
OWN_HOST = math.log(1.2)
"""Of the host's time on the very machine that a calibrated file is of, on either side: its load and its clock."""
UNKNOWN = math.log(2.0)
"""Either side of a range where no residual is left to judge by."""

Band: TypeAlias = tuple[float, float]
"""The logarithms of the least and the largest factor."""


@dataclass(frozen=True)
class Unseen:
    """A source, and a box, whose measurements are left out."""

    source: str
    box: str

    def has_given(self, item: Residual | Verdict) -> bool:
        """Whether an error was measured there. The same box elsewhere has its host again."""
        on_host = item.level == "host" if isinstance(item, Residual) else item.pace == "host"
        return item.source == self.source or (on_host and item.box == self.box)


@dataclass(frozen=True)
class Spread:
    """Factors on device and host seconds, and what they rest on where the device or the host sets the pace."""

    device_low: float
    device_high: float
    host_low: float
    host_high: float
    device: Trust
    host: Trust


@dataclass(frozen=True)
class Range:
    """The least and the most seconds to expect of a prediction, its word, and whose constants it rests on.

    Values of a grid are arrays where they differ from point to point.
    """

    low_s: Number
    high_s: Number
    trust: Any
    trust_from: Any


def range_of(
    latency_at: Callable[[Number, Number], Number],
    hw: Hardware,
    how: How,
    sizes: Sizes,
    host_bound: Any,
    unseen: Unseen | None = None,
) -> Range:
    """The range of passes of some `sizes` on a device, and their words.

    `latency_at` gives the latency if device and host took so many times as long as predicted, which are numbers or
    arrays. `host_bound`: whether the host sets the pace. `unseen`: what the range must not have seen.
    """
    spreads = [
        (where, spread(hw, regime, unseen) if how.weights == "dtype" else _assumed(hw, regime, how.weights))
        for regime, where in regimes_of(how, sizes).items()
    ]

    def each(get: Callable[[Spread], Any]) -> Any:
        """Something of the spread of each point's regime."""
        value = get(spreads[0][1])
        for where, own in spreads[1:]:
            value = _where(where, get(own), value)
        return value

    names = ("device_low", "host_low", "device_high", "host_high")
    device_low, host_low, device_high, host_high = (each(attrgetter(name)) for name in names)
    word, source = (
        _where(host_bound, each(attrgetter(f"host.{name}")), each(attrgetter(f"device.{name}")))
        for name in ("word", "source")
    )
    return Range(latency_at(device_low, host_low), latency_at(device_high, host_high), word, source)


def _where(condition: Any, yes: Any, no: Any) -> Any:
    """`yes` where the condition holds, else `no`; one value where all are the same."""
    if np.ndim(condition) == 0:
        return yes if condition else no
    if np.all(condition) or not np.any(condition):
        return yes if np.all(condition) else no
    return yes if np.ndim(yes) == np.ndim(no) == 0 and yes == no else np.where(condition, yes, no)


# ---------------------------------------------------------------------------------------------- spreads


@lru_cache(maxsize=256)
def spread(hw: Hardware, regime: Regime, unseen: Unseen | None = None) -> Spread:
    """The spread of predictions of a regime on a device, as if what is `unseen` did not exist."""
    if hw.changes:
        return _changed(hw, regime)
    residuals = [item for item in shipped().residuals if not (unseen and unseen.has_given(item))]
    own = [item for item in verdicts(hw, regime) if not (unseen and unseen.has_given(item))]
    device, host = device_trust(hw, regime), host_trust(hw)
    passes = [item for item in own if item.whole]
    of_device = [item.residual for item in passes if item.pace == "device"]
    if of_device:
        device, band = Trust("measured", hw.name), _own_band(of_device, residuals)
    else:
        parts = [item.residual for item in own if item.pace == "device"]
        band = _union(level_band(residuals, device.word), _of_kernels(hw, regime), _span(parts))
    boxes = [item.box for item in passes if item.pace == "host" and item.regime.runtime == regime.runtime]
    host_band = (-OWN_HOST, OWN_HOST) if host.word == "calibrated" else band_of(residuals, "host")
    if boxes:
        host = Trust("measured", ", ".join(dict.fromkeys(boxes)))
    return _spread(band, host_band, device, host)


def _spread(device_band: Band, host_band: Band, device: Trust, host: Trust) -> Spread:
    (device_low, device_high), (host_low, host_high) = _factors(device_band), _factors(host_band)
    return Spread(device_low, device_high, host_low, host_high, device, host)


def _factors(band: Band) -> tuple[float, float]:
    return math.exp(min(band[0], -LEAST)), math.exp(max(band[1], LEAST))


def _wider(band: Band) -> Band:
    return band[0] - CHANGED, band[1] + CHANGED


def _changed(hw: Hardware, regime: Regime) -> Spread:
    """Of a what-if: the device as it is, with its evidence, and wider.

    Whoever gives the host's factor knows the machine, so that the host is as well known as a measured one; where it is
    all that is given, the device is what it was.
    """
    own = spread(hw.unchanged or dataclasses.replace(hw, changes={}), regime)
    if not hw.changes_of_time:
        return own
    device_band, host_band = _logs(own.device_low, own.device_high), _wider(_logs(own.host_low, own.host_high))
    trust = Trust("changed", unchanged_name(hw))
    if HOST_FACTOR in hw.changes:
        host_band = -OWN_HOST, OWN_HOST
    if hw.changes_of_time == {HOST_FACTOR}:
        return _spread(device_band, host_band, own.device, trust)
    return _spread(_wider(_union(level_band(shipped().residuals, "borrowed"), device_band)), host_band, trust, trust)


def _assumed(hw: Hardware, regime: Regime, weights: str) -> Spread:
    """Of quantised weights: no narrower than of what nothing is known of, for the device and for the host."""
    own = spread(hw, regime)
    unknown = -UNKNOWN, UNKNOWN
    bands = (_logs(own.device_low, own.device_high), _logs(own.host_low, own.host_high))
    device_band, host_band = (_union(band, unknown) for band in bands)
    trust = Trust("assumed", f"bitsandbytes {weights}")
    return _spread(device_band, host_band, trust, trust)


def _of_kernels(hw: Hardware, regime: Regime) -> Band:
    """What a CPU's fit leaves of its own kernels: no CPU ships, so that the residuals of passes are those of GPUs."""
    own = hw.model.residual_of(regime.dtype) if isinstance(hw.model, CpuConstants) else None
    return -(own or 0.0), own or 0.0


def _logs(low: float, high: float) -> Band:
    return math.log(low), math.log(high)


def _union(*bands: Band) -> Band:
    return min(low for low, _ in bands), max(high for _, high in bands)


def _own_band(own: Collection[float], residuals: Iterable[Residual]) -> Band:
    """The span of a regime's own passes, widened by how far others lie beyond such a span (if any do, else by what a
    fit leaves)."""
    residuals = list(residuals)
    known = any(item.level == "measured" for item in residuals)
    beyond = max(LEAST, band_of(residuals, "measured" if known else "calibrated")[1])
    low, high = _span(own)
    return low - beyond, high + beyond


def _span(own: Collection[float]) -> Band:
    """Of errors, and of 0."""
    return min((0.0, *own)), max((0.0, *own))


def level_band(residuals: Iterable[Residual], word: str) -> Band:
    """The band of a device's time. Borrowed constants are never trusted more than calibrated ones."""
    residuals = list(residuals)
    band = band_of(residuals, "calibrated")
    return band if word == "calibrated" else _union(band, band_of(residuals, "borrowed"))


def band_of(residuals: Iterable[Residual], level: Level) -> Band:
    """The band of a level's residuals, stretched for being few. See the module."""
    groups: dict[str, list[float]] = defaultdict(list)
    for item in residuals:
        if item.level == level:
            groups[item.box if level == "host" else item.source].append(item.value)
    if not groups:
        return -UNKNOWN, UNKNOWN
    stretch = 1.0 + 2.0 / len(groups)
    if level != "host":
        (width,) = _percentiles([[abs(value) for value in values] for values in groups.values()], 0.9)
        return -stretch * width, stretch * width
    low, middle, high = _percentiles(groups.values(), 0.1, 0.5, 0.9)
    return middle - stretch * (middle - low), middle + stretch * (high - middle)


def _percentiles(groups: Iterable[list[float]], *shares: float) -> list[float]:
    """Percentiles of values of which each group counts once."""
    weighted = sorted((value, 1.0 / len(values)) for values in groups for value in values)
    values, weights = np.array(weighted).T
    middles = (np.cumsum(weights) - 0.5 * weights) / np.sum(weights)
    return [float(value) for value in np.interp(shares, middles, values)]
