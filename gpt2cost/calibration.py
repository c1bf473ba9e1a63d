"""Measurements of a machine to a hardware file: which fit, and what the file says of how it came about."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpt2cost.base_device import base_for
from gpt2cost.errors import InputError
from gpt2cost.fit_cpu import fit_cpu
from gpt2cost.fit_gpu import fit_gpu
from gpt2cost.fitting import FitResidual
from gpt2cost.hardware import Calibration, Hardware, load_hardware
from gpt2cost.measurement_records import (
    Measurement,
    check_kernels,
    machine,
    of_all_sweeps,
    of_kind,
    reference_seconds,
    seconds,
    shape_of,
    trimmed_mean,
)
from gpt2cost.units import format_quantity

KERNELS = ("gemm", "bmm", "sdpa", "softmax", "layer_norm", "elementwise", "permuted_copy", "gather", "cat", "where")
"""Kinds of records that constants are fitted on."""

BUSY = 0.2
"""A reference product whose slow tenth takes this much longer than its median shows a busy or throttling machine."""


@dataclass(frozen=True)
class Calibrated:
    """A fitted device, how well it reproduces each kind of kernel, and what went wrong in measuring."""

    hardware: Hardware
    residuals: tuple[FitResidual, ...]
    warnings: tuple[str, ...]


def calibrate(records: Sequence[Measurement], name: str, date: str, like: str | None = None) -> Calibrated:
    """Fit the machine that `records` were measured on.

    `like`: the shipped device whose constants a GPU starts from; by default the one that its name suggests. Raises
    `InputError` for records that say nothing of a machine or too little of its kernels.
    """
    known = machine(records)
    if not known:
        raise InputError("calibrate: the measurements do not say which machine they are of: no line of kind 'machine'")
    check_kernels(records)
    cases = of_all_sweeps(records)
    fitted: Mapping[str, str]
    if known.get("gpu"):
        gpu = fit_gpu(cases, load_hardware(like or base_for(known)))
        hardware, residuals, fitted = gpu.hardware, gpu.residuals, gpu.hardware.provenance | gpu.fitted
    else:
        cpu = fit_cpu(cases, name)
        measured = f"measured on this machine, {date}"
        hardware, residuals = cpu.hardware, cpu.residuals
        fitted = {
            "memory": f"{measured}: copies; capacity: the operating system",
            "compute.peak": f"{measured}: the fastest product of its dtype",
            "launch": f"{measured}: the smallest ops",
            "host": f"{measured}: single calls, scaled to a layer of a tiny model",
            "model": f"fitted to kernels {measured}; kinds in fp32, which serve every dtype; fill as element-wise",
        }
    if not residuals:
        raise InputError("calibrate: the measurements hold no kernels, such as lines of kind gemm")
    calibration = Calibration(
        date=date,
        software=", ".join(
            f"{key} {known[key]}" for key in ("torch", "transformers", "python", "cuda") if known.get(key)
        ),
        clock=_clock(known),
        count=sum(1 for _ in of_kind(records, *KERNELS)),
        noise=noise(records),
        reference_s=trimmed_mean(references) if (references := reference_seconds(records)) else None,
        residuals={each.kind: float(f"{each.median_error:.3g}") for each in residuals},
    )
    device = replace(hardware, name=name, calibration=calibration, provenance=dict(fitted))
    return Calibrated(device, residuals, tuple(_warnings(records)))


def _clock(known: Measurement) -> str:
    if known.get("nvidia_smi"):
        return "clocks.sm, clocks.mem, clocks.max.sm, power.limit, temperature, driver: " + " ".join(
            known["nvidia_smi"].split()
        )
    mhz = f", {known['mhz']:.0f} MHz" if known.get("mhz") else ""
    return f"{known.get('threads', 1)} threads of {known.get('cpus', 1)} processors{mhz}"


def noise(records: Iterable[Measurement]) -> float:
    """By how much two sweeps of one kernel differ, relative to the shorter, as a median; 0 after a single sweep."""
    cases: dict[str, list[float]] = {}
    for record in of_kind(records, *KERNELS):
        cases.setdefault(json.dumps(shape_of(record), sort_keys=True), []).append(1e6 * seconds(record))
    differences = [times[1] / times[0] for times in cases.values() if len(times) > 1]
    spread = [max(ratio, 1.0 / ratio) - 1.0 for ratio in differences]
    return float(f"{statistics.median(spread):.3g}") if spread else 0.0


def _warnings(records: Sequence[Measurement]) -> Iterable[str]:
    times = sorted(reference_seconds(records))
    if times:
        slow_s, typical_s = times[int(0.9 * (len(times) - 1))], statistics.median(times)
        if slow_s > (1 + BUSY) * typical_s:
            typical, slow = (format_quantity(time_s, "s") for time_s in (typical_s, slow_s))
            yield (
                f"a reference product took {typical}, but {slow} in the slow tenth of the run: the machine was busy or"
                " throttling; calibrate again when it is quiet"
            )
