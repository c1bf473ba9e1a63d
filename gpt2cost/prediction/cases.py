"""Measured passes beside their predictions, and what each of them says: of the device, of the host, or of neither.

The prediction alone decides whose pass it is. Where the host is busy for longer, a pass speaks of the host; where the
device is busy for so much longer that a slow host would not matter, of the device, however slow it was measured; what
lies between speaks of neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Evidence, Hardware
from gpt2cost.prediction.evidence_pass import alike, evidence_how, evidence_pass
from gpt2cost.prediction.one_pass import Pass, host_sets_pace
from gpt2cost.prediction.settings import Number, Sizes
from gpt2cost.prediction.shipped import Pace, Verdict, fingerprint, shipped
from gpt2cost.prediction.trust import Regime, provenance_of, regime_of

SLOW_HOST = 2.0
"""A pass speaks of the device where a host of so many times the default's seconds would not set its pace."""


@dataclass(frozen=True, eq=False)
class Case:
    """A measured case beside its prediction: of all the passes that `pass_` holds, the one at `index`.

    `pace`: which of the two the prediction says set it. `host_factor`: where that is the host, the factor on the host's
    constants at which the prediction meets the measurement; None elsewhere, and where no factor does. `fitted`: the
    constants that were fitted to this very pass, if any.
    """

    row: Evidence
    pass_: Pass
    index: int
    latency_s: float
    pace: Pace
    host_factor: float | None
    fitted: str

    def of(self, values: Number) -> float:
        """This case's one of the values of all passes."""
        return float(values[self.index]) if np.ndim(values) else float(values)

    def latency_at(self, device: float, host: float) -> float:
        """See `Pass.latency_at`."""
        return self.of(self.pass_.latency_at(device, host))

    @property
    def residual(self) -> float:
        """log(measured / predicted)."""
        return math.log(self.row.latency_s / self.latency_s)

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.row.batch, self.row.seq, self.row.cache)

    @property
    def regime(self) -> Regime:
        return regime_of(evidence_how(self.row), self.sizes)


def box_of(row: Evidence) -> str:
    """The machine that a pass was measured on: as the file names it, else its source stands for it."""
    return row.box or row.source


def evidence_cases(hw: Hardware, rows: Iterable[Evidence]) -> list[Case]:
    """Predict measured cases, in their order. Those of one model, run alike, are one pass over arrays of sizes."""
    cases: dict[int, Case] = {}
    numbered = sorted(enumerate(rows), key=lambda item: alike(item[1]))
    for _, group in groupby(numbered, key=lambda item: alike(item[1])):
        together = list(group)
        cases.update(zip((number for number, _ in together), _cases(hw, [row for _, row in together]), strict=True))
    return [cases[number] for number in sorted(cases)]


def verdict_of(case: Case) -> Verdict:
    """What is left of a case when its pass is forgotten."""
    return Verdict(case.regime, case.pace, round(case.residual, 4), case.row.source, box_of(case.row), case.row.whole)


def verdicts(hw: Hardware, regime: Regime) -> tuple[Verdict, ...]:
    """Of the device's own evidence of a regime, in all runtimes. Of a device as it ships they ship too."""
    known = shipped().verdicts.get((hw.name, fingerprint(hw))) if hw.evidence else ()
    found = _predicted_verdicts(hw, regime.on_device) if known is None else known
    return tuple(verdict for verdict in found if verdict.regime.on_device == regime.on_device)


@lru_cache(maxsize=64)
def _predicted_verdicts(hw: Hardware, on_device: tuple[str, bool, bool]) -> tuple[Verdict, ...]:
    """Of a device that does not ship, or was changed: its evidence of a regime is predicted, once."""
    rows = [row for row in hw.evidence if _regime_of_row(row).on_device == on_device]
    return tuple(map(verdict_of, evidence_cases(hw, rows)))


def _regime_of_row(row: Evidence) -> Regime:
    return regime_of(evidence_how(row), Sizes(row.batch, row.seq, row.cache))


def _cases(hw: Hardware, rows: Sequence[Evidence]) -> list[Case]:
    sizes = Sizes(*(np.array([getattr(row, size) for row in rows], float) for size in ("batch", "seq", "cache")))
    pass_ = evidence_pass(hw, rows[0], sizes)
    measured_s = np.array([row.latency_s for row in rows])

    def each(values: Number) -> Any:
        return np.broadcast_to(values, measured_s.shape)

    latency_s, device_s, host_s = each(pass_.times.latency_s), each(pass_.device_s), each(pass_.times.host_s)
    paces = [_pace(*seconds) for seconds in zip(device_s, host_s, strict=True)]
    factors = _host_factors(pass_, measured_s) if "host" in paces else np.full(len(rows), np.nan)
    return [
        Case(
            row, pass_, i, float(latency_s[i]), pace, _factor(factors[i]) if pace == "host" else None,
            fitted_to(hw, row, pace),
        )
        for i, (row, pace) in enumerate(zip(rows, paces, strict=True))
    ]  # fmt: skip


def fitted_to(hw: Hardware, row: Evidence, pace: Pace) -> str:
    """The constants that were fitted to a row of a device's evidence, if any.

    The row says so, or the source of a constant: that it was fitted to rows of this file. The host's constants, where
    they were fitted at all, were fitted to all passes of which the host sets the pace.
    """
    if row not in hw.evidence:
        return ""
    said = [path.rpartition(".")[2] for path, text in hw.provenance.items() if "rows of this file" in text]
    lender = hw.borrowed.get("host")
    host = provenance_of(load_hardware(lender) if lender else hw, "host")
    return row.fitted or ", ".join([*said, *["host"] * (pace == "host" and host.startswith("fitted"))])


def _pace(device_s: float, host_s: float) -> Pace:
    if host_sets_pace(host_s, device_s):
        return "host"
    return "device" if device_s > SLOW_HOST * host_s else "both"


def _factor(factor: float) -> float | None:
    return None if math.isnan(factor) else float(factor)


def _host_factors(pass_: Pass, measured_s: Any) -> Any:
    """The factors on the host's constants at which passes take as long as was measured; NaN where none does."""
    factors, step, shape = np.ones(len(measured_s)), 0.01, (2, len(measured_s))
    moving = np.ones(len(measured_s), bool)
    for _ in range(20):  # latency is convex and piecewise linear in the factor: a few steps of Newton's method
        pair = np.stack([factors, factors + step])
        latency_s, more_s = np.broadcast_to(pass_.latency_at(1.0, pair), shape)
        slope = (more_s - latency_s) / step
        apart = np.abs(latency_s - measured_s) >= 1e-4 * measured_s
        moving = moving & (slope > 0) & apart
        if not np.any(moving):
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = np.where(moving, np.maximum(factors + (measured_s - latency_s) / slope, 0.01), factors)
    return np.where(apart, np.nan, factors)
