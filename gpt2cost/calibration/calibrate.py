"""Measurements of a machine to a hardware file: which fit, and what the file says of how it came about."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gpt2cost.calibration.cpu import fit_cpu
from gpt2cost.calibration.forms import Calibrated
from gpt2cost.calibration.gpu import base_for, fit_gpu
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Calibration
from gpt2cost.errors import InputError
from gpt2cost.measure.records import (
    Measurement,
    case_of,
    check_records,
    grouped,
    halves_difference,
    is_time,
    machine,
    of_all_sweeps,
    of_kind,
    reference_seconds,
    trimmed_mean,
)
from gpt2cost.units import format_quantity

KERNELS = ("gemm", "bmm", "sdpa", "softmax", "layer_norm", "elementwise", "permuted_copy", "gather", "cat", "where")
"""Kinds of records that constants are fitted on."""

BUSY = 0.2
"""A reference product whose slow tenth takes this much longer than its fast one shows a busy or throttling machine."""


def calibrate(records: Sequence[Measurement], name: str, like: str | None = None) -> Calibrated:
    """Fit the machine that `records` were measured on.

    `like`: the shipped device whose constants a GPU starts from; by default the one that its name suggests. Raises
    `InputError` for records that say nothing of a machine or too little of its kernels.
    """
    described = machine(records)
    if like is not None and described and not described.get("gpu"):
        raise InputError("calibrate: like: only a GPU's fit starts from another device; these measurements are a CPU's")
    if not described:
        raise InputError("calibrate: the measurements do not say which machine they are of: no line of kind 'machine'")
    check_records(records)
    cases = of_all_sweeps(records)
    on_gpu = described.get("gpu")
    fit = fit_gpu(cases, load_hardware(like or base_for(described))) if on_gpu else fit_cpu(cases, name)
    if not fit.residuals:
        raise InputError("calibrate: the measurements hold no kernels, such as lines of kind gemm")
    calibration = Calibration(
        date=str(described.get("date", "unknown")),
        software=", ".join(
            f"{key} {described[key]}" for key in ("torch", "transformers", "python", "cuda") if described.get(key)
        ),
        clock=_clock(described),
        count=len(of_kind(cases, *KERNELS)),
        noise=noise(records),
        reference_s=trimmed_mean(references) if (references := reference_seconds(records)) else None,
        residuals={residual.kind: float(f"{round(residual.median_error, 4):.3g}") for residual in fit.residuals},
    )
    hardware = replace(fit.hardware, name=name, calibration=calibration)
    return Calibrated(hardware, fit.residuals, tuple(_warnings(records)))


def _clock(described: Measurement) -> str:
    if described.get("nvidia_smi"):
        return "clocks.sm, clocks.mem, clocks.max.sm, power.limit, temperature, driver: " + " ".join(
            described["nvidia_smi"].split()
        )
    mhz = f", {described['mhz']:.0f} MHz" if described.get("mhz") else ""
    return f"{described.get('threads', 1)} threads of {described.get('cpus', 1)} processors{mhz}"


def noise(records: Iterable[Measurement]) -> float | None:
    """By how much the even and the odd sweeps of one kernel differ, as a median; None after a single sweep."""
    timed = [record for record in of_kind(records, *KERNELS) if is_time(record.get("wall_us"))]
    repeats = [same for same in grouped(timed, case_of).values() if len(same) > 1]
    differences = [halves_difference([record["wall_us"] for record in same]) for same in repeats]
    return float(f"{statistics.median(differences):.3g}") if differences else None


def _warnings(records: Sequence[Measurement]) -> Iterable[str]:
    times = sorted(reference_seconds(records))
    if times:
        fast_s, slow_s = (times[round(share * (len(times) - 1))] for share in (0.1, 0.9))
        if slow_s > (1 + BUSY) * fast_s:
            fast, slow = (format_quantity(time_s, "s") for time_s in (fast_s, slow_s))
            yield (
                f"a reference product took {fast} in the fast tenth of the run, but {slow} in the slow tenth: the"
                " machine was busy or throttling; calibrate again when it is quiet"
            )
