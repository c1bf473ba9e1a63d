"""How far a prediction can be trusted: factors below and above, from how well measurements are reproduced.

A device's spread comes from the best there is, in this order:

* evidence: whole passes in this dtype that were measured on the device. The spread covers its worst residual.
* kernels: constants fitted on kernels measured on this device or its chip, with the residual of that fit.
* borrowed: constants of another device. `gpt2cost accuracy --leave-one-out` predicts each device's measured passes with
  every other device's constants: in 16 bit nine in ten come within a factor of 1.4, in fp32 nearly all among devices
  that power does not throttle; a device of the same architecture comes within 1.2. A calibrated file's dtypes in which
  no kernel was measured are borrowed too.

Host time is a property of the machine around the device. The defaults hold for the CPU that the file states, within the
20 % by which such machines differ; where a device's host-bound evidence says more, the spread covers it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

import numpy as np

from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.dtypes import FP32_FAMILY, HALF_FAMILY
from gpt2cost.device.hardware import Evidence, Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.one_pass import Pass, run_pass
from gpt2cost.prediction.settings import How, Number, Sizes
from gpt2cost.table.config import Model, load_model

Basis = Literal["evidence", "kernels", "borrowed"]

BORROWED_SPREAD, SAME_ARCHITECTURE_SPREAD = math.log(1.5), math.log(1.2)
"""Of constants carried to another device, and to one of the same architecture (leave one device out)."""
LEAST_SPREAD = math.log(1.05)
"""Clocks and temperature alone make two machines of one kind differ by this much."""
EVIDENCE_MARGIN = 1.5
"""A handful of measurements has not seen the worst case: their worst residual is widened by this."""
HOST_LOW, HOST_HIGH = 0.8, 1.25
"""Host time over the defaults among machines of one kind: published decode figures of 2023 and later imply 0.19 to 0.22
ms per layer of GPT-2, where the server defaults say 0.18."""
HOST_MARGIN = 1.1
"""How much the host factors that evidence implies are widened."""


@dataclass(frozen=True)
class Spread:
    """Factors on device and host seconds, and what they rest on."""

    device_low: float
    device_high: float
    host_low: float
    host_high: float
    basis: Basis


def range_of(latency_at: Callable[[float, float], Number], hw: Hardware, dtype: str) -> tuple[Number, Number]:
    """The least and the most seconds to expect of a prediction on `hw` in a dtype.

    `latency_at` gives the latency if device and host took so many times as long as predicted.
    """
    factors = spread(hw, dtype)
    return latency_at(factors.device_low, factors.host_low), latency_at(factors.device_high, factors.host_high)


# ---------------------------------------------------------------------------------------------- evidence


@dataclass(frozen=True, eq=False)
class Case:
    """A measured case beside its prediction: of all the passes that `pass_` holds, the one at `index`.

    `host_factor`: where the host sets the pace, the factor on the host's constants at which the prediction meets the
    measurement; None elsewhere.
    """

    row: Evidence
    pass_: Pass
    index: int
    latency_s: float
    host_factor: float | None

    def of(self, values: Number) -> float:
        """This case's one of the values of all passes."""
        return float(values[self.index]) if np.ndim(values) else float(values)

    def latency_at(self, device: float, host: float) -> float:
        """See `Pass.latency_at`."""
        return self.of(self.pass_.latency_at(device, host))


def evidence_how(row: Evidence) -> How:
    """How a measured case was run."""
    return How(row.dtype, row.attn, row.runtime, "all", row.use_cache, tuple(sorted(row.kernels.items())))


def evidence_model(hw: Hardware, row: Evidence) -> Model:
    """The model that was measured. Raises `InputError` with the device's name for an unknown one."""
    try:
        return load_model(row.model)
    except InputError as error:
        raise InputError(f"{hw.name}: evidence: {error}") from None


def evidence_cases(hw: Hardware, rows: Iterable[Evidence]) -> list[Case]:
    """Predict measured cases, in their order. Those of one model, run alike, are one pass over arrays of sizes."""
    cases: dict[int, Case] = {}
    numbered = sorted(enumerate(rows), key=lambda item: _key(item[1]))
    for _, group in groupby(numbered, key=lambda item: _key(item[1])):
        alike = list(group)
        cases.update(zip((number for number, _ in alike), _cases(hw, [row for _, row in alike]), strict=True))
    return [cases[number] for number in sorted(cases)]


def _key(row: Evidence) -> tuple[Any, ...]:
    """What the rows of one pass have in common."""
    return row.model, *dataclasses.astuple(evidence_how(row))


def _cases(hw: Hardware, rows: list[Evidence]) -> list[Case]:
    model, how = evidence_model(hw, rows[0]), evidence_how(rows[0])
    sizes = Sizes(*(np.array([getattr(row, size) for row in rows], float) for size in ("batch", "seq", "cache")))
    pass_ = run_pass(model, hw, how, sizes)
    measured_s = np.array([row.latency_s for row in rows])
    latency_s = np.broadcast_to(pass_.times.latency_s, measured_s.shape)
    waits_for_host = np.broadcast_to(pass_.times.host_s > pass_.device_s, measured_s.shape)
    blamed_on_host = waits_for_host | (measured_s > 1.5 * latency_s)
    factors = _host_factors(pass_, measured_s) if np.any(blamed_on_host) else np.ones(len(rows))
    return [
        Case(row, pass_, i, float(latency_s[i]), float(factors[i]) if blamed_on_host[i] else None)
        for i, row in enumerate(rows)
    ]


def _host_factors(pass_: Pass, measured_s: Any) -> Any:
    """The factors on the host's constants at which passes take as long as was measured."""
    factors, step, shape = np.ones(len(measured_s)), 0.01, (2, len(measured_s))
    moving = np.ones(len(measured_s), bool)
    for _ in range(20):  # latency is convex and piecewise linear in the factor: a few steps of Newton's method
        pair = np.stack([factors, factors + step])
        latency_s, more_s = np.broadcast_to(pass_.latency_at(1.0, pair), shape)
        slope = (more_s - latency_s) / step
        moving = moving & (slope > 0) & (np.abs(latency_s - measured_s) >= 1e-4 * measured_s)
        if not np.any(moving):
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            factors = np.where(moving, np.maximum(factors + (measured_s - latency_s) / slope, 0.01), factors)
    return factors


@lru_cache(maxsize=64)
def spread(hw: Hardware, dtype: str) -> Spread:
    """The spread of predictions on a device in a dtype. It predicts the evidence, so that it is kept for a while."""
    family = FP32_FAMILY if dtype in FP32_FAMILY else HALF_FAMILY
    cases = evidence_cases(hw, hw.evidence)
    factors = [case.host_factor for case in cases if case.host_factor is not None]
    residuals = [
        math.log(case.row.latency_s / case.latency_s)
        for case in cases
        if case.row.dtype in family and case.host_factor is None
    ]
    residual = hw.model.residual_of(dtype)
    in_dtype = hw.calibration is None or any(kind.endswith(f" {dtype}") for kind in hw.calibration.residuals)
    basis: Basis
    if residuals:
        basis, width = "evidence", EVIDENCE_MARGIN * max(map(abs, residuals))
    elif residual is not None and "model" not in hw.borrowed and in_dtype:
        basis, width = "kernels", residual
    else:
        donor = hw.borrowed.get("model")
        alike = donor is not None and load_hardware(donor).architecture == hw.architecture
        least = SAME_ARCHITECTURE_SPREAD if alike else BORROWED_SPREAD
        basis, width = "borrowed", max(least, residual or 0.0)
    factor = math.exp(max(width, LEAST_SPREAD))
    host_low = min([HOST_LOW, *(implied / HOST_MARGIN for implied in factors)])
    host_high = max([HOST_HIGH, *(implied * HOST_MARGIN for implied in factors)])
    return Spread(1 / factor, factor, host_low, host_high, basis)
