"""Measurements of a machine to a hardware file: which fit, and what the file says of how it came about."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpt2cost.calibration.cpu import fit_cpu
from gpt2cost.calibration.forms import FitResidual
from gpt2cost.calibration.gpu import fit_gpu
from gpt2cost.calibration.nearest import base_for
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Calibration, Hardware
from gpt2cost.errors import InputError
from gpt2cost.measure.records import (
    Measurement,
    check_kernels,
    check_machines,
    halves_difference,
    is_time,
    machine,
    of_all_sweeps,
    of_kind,
    reference_seconds,
    shape_of,
    trimmed_mean,
)
from gpt2cost.units import format_quantity

KERNELS = ("gemm", "bmm", "sdpa", "softmax", "layer_norm", "elementwise", "permuted_copy", "gather", "cat", "where")
"""Kinds of records that constants are fitted on."""


BUSY = 0.2
"""A reference product whose slow tenth takes this much longer than its fast one shows a busy or throttling machine."""


@dataclass(frozen=True)
class Calibrated:
    """A fitted device, how well it reproduces each kind of kernel, and what went wrong in measuring."""

    hardware: Hardware
    residuals: tuple[FitResidual, ...]
    warnings: tuple[str, ...]


def calibrate(records: Sequence[Measurement], name: str, like: str | None = None) -> Calibrated:
    """Fit the machine that `records` were measured on.

    `like`: the shipped device whose constants a GPU starts from; by default the one that its name suggests. Raises
    `InputError` for records that say nothing of a machine or too little of its kernels.
    """
    known = machine(records)
    if not known:
        raise InputError("calibrate: the measurements do not say which machine they are of: no line of kind 'machine'")
    check_machines(of_kind(records, "machine"))
    check_kernels(records)
    date = str(known.get("date", "unknown"))
    cases = of_all_sweeps(records)
    fitted: Mapping[str, str]
    if known.get("gpu"):
        gpu = fit_gpu(cases, load_hardware(like or base_for(known)))
        hardware, residuals, fitted = gpu.hardware, gpu.residuals, gpu.hardware.provenance | gpu.fitted
    else:
        cpu = fit_cpu(cases, name)
        hardware, residuals = cpu.hardware, cpu.residuals
        measured = f"measured on {hardware.description}, {date if 'date' in known else 'date unknown'}"
        fitted = {
            "memory": f"{measured}: copies; capacity: the operating system",
            "compute.peak": f"{measured}: the fastest product of its dtype",
            "launch": f"{measured}: the smallest ops",
            "host": f"{measured}: single calls, scaled to a layer of a tiny model",
            "model": f"fitted to kernels {measured}; kinds in fp32, which serve every dtype; fill as element-wise;"
            " kept: fresh memory in a decode step of a small model",
        }
    if not residuals:
        raise InputError("calibrate: the measurements hold no kernels, such as lines of kind gemm")
    calibration = Calibration(
        date=date,
        software=", ".join(
            f"{key} {known[key]}" for key in ("torch", "transformers", "python", "cuda") if known.get(key)
        ),
        clock=_clock(known),
        count=len(of_kind(cases, *KERNELS)),
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


def noise(records: Iterable[Measurement]) -> float | None:
    """By how much the even and the odd sweeps of one kernel differ, as a median; None after a single sweep."""
    cases: dict[str, list[float]] = {}
    for record in of_kind(records, *KERNELS):
        if is_time(record.get("wall_us")):
            cases.setdefault(json.dumps(shape_of(record), sort_keys=True), []).append(record["wall_us"])
    differences = [halves_difference(times) for times in cases.values() if len(times) > 1]
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
