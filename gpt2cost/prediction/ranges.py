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

import math
from dataclasses import dataclass
from typing import Literal

from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.dtypes import FP32_FAMILY, HALF_FAMILY
from gpt2cost.device.hardware import Evidence, Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.one_pass import Pass, run_pass
from gpt2cost.prediction.settings import Settings
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
ms a layer of GPT-2, where the server defaults say 0.18."""


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


def evidence_settings(row: Evidence) -> Settings:
    """The settings under which a measured case was run."""
    return Settings(
        row.batch,
        row.seq,
        row.cache,
        row.dtype,
        row.attn,
        row.runtime,
        "all",
        row.use_cache,
        tuple(sorted(row.kernels.items())),
    )


def evidence_model(hw: Hardware, row: Evidence) -> Model:
    """The model that was measured. Raises `InputError` with the device's name for an unknown one."""
    try:
        return load_model(row.model)
    except InputError as error:
        raise InputError(f"{hw.name}: evidence: {error}") from None


@dataclass(frozen=True)
class Case:
    """A measured case beside its prediction, the pass `one`. `host_factor`: where the host sets the pace, the factor on
    the host's constants at which the prediction meets the measurement."""

    row: Evidence
    one: Pass
    latency_s: float
    device_s: float
    host_bound: bool
    host_factor: float | None


def evidence_case(hw: Hardware, row: Evidence) -> Case:
    """Predict one measured case."""
    settings = evidence_settings(row)
    one = run_pass(evidence_model(hw, row), hw, settings, row.seq, row.cache)
    device_s = float(sum(kernel.device_s for kernel in one.kernels))
    host_bound = bool(one.times.host_s > device_s)
    factor = _host_factor(one, hw, row) if host_bound or row.latency_s > 1.5 * one.times.latency_s else None
    return Case(row, one, float(one.times.latency_s), device_s, factor is not None, factor)


def _host_factor(one: Pass, hw: Hardware, row: Evidence) -> float:
    """The factor on the host's constants at which the pass takes as long as was measured."""
    factor, step = 1.0, 0.01
    for _ in range(20):  # latency is convex and piecewise linear in the factor: a few steps of Newton's method
        latency_s, more_s = (float(one.scaled(hw, row.runtime, 1.0, x).latency_s) for x in (factor, factor + step))
        slope = (more_s - latency_s) / step
        if slope <= 0 or abs(latency_s - row.latency_s) < 1e-4 * row.latency_s:
            break
        factor = max(factor + (row.latency_s - latency_s) / slope, 0.01)
    return factor


_spreads: dict[tuple[int, str], tuple[Hardware, Spread]] = {}


def spread(hardware: Hardware, dtype: str) -> Spread:
    """The spread of predictions on a device in a dtype. Computed once a device: it predicts the evidence."""
    key = (id(hardware), dtype)  # the entry keeps the device alive, so its id stays its own
    if key not in _spreads:
        _spreads[key] = (hardware, _spread(hardware, dtype))
    return _spreads[key][1]


def _spread(hardware: Hardware, dtype: str) -> Spread:
    family = FP32_FAMILY if dtype in FP32_FAMILY else HALF_FAMILY
    cases = [evidence_case(hardware, row) for row in hardware.evidence]
    residuals = [math.log(c.row.latency_s / c.latency_s) for c in cases if c.row.dtype in family and not c.host_bound]
    factors = [case.host_factor for case in cases if case.host_factor is not None]
    residual = hardware.model.residual_of(dtype)
    known = hardware.calibration
    in_dtype = known is None or any(kind.endswith(f" {dtype}") for kind in known.residuals)
    basis: Basis
    if residuals:
        basis, width = "evidence", EVIDENCE_MARGIN * max(map(abs, residuals))
    elif residual is not None and "model" not in hardware.borrowed and in_dtype:
        basis, width = "kernels", residual
    else:
        donor = hardware.borrowed.get("model")
        alike = donor is not None and load_hardware(donor).architecture == hardware.architecture
        least = SAME_ARCHITECTURE_SPREAD if alike else BORROWED_SPREAD
        basis, width = "borrowed", max(least, residual or 0.0)
    factor = math.exp(max(width, LEAST_SPREAD))
    host_low = min([HOST_LOW, *(implied / HOST_MARGIN for implied in factors)])
    host_high = max([HOST_HIGH, *(implied * HOST_MARGIN for implied in factors)])
    return Spread(1 / factor, factor, host_low, host_high, basis)
