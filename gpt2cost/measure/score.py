"""Predictions beside measurements of this machine: whole passes, and the kernels of profiled ones. Needs no torch.

Every error is predicted / measured - 1. What is measured comes as records (see `measurement_records`) of `gpt2cost
measure`, or as a trace of torch.profiler.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from gpt2cost.checks import check_flag
from gpt2cost.device.catalog import list_hardware
from gpt2cost.device.gpu_constants import MachineConstants
from gpt2cost.device.hardware import Evidence, Hardware
from gpt2cost.errors import InputError, echo, plain
from gpt2cost.measure.records import Measurement, is_time, reference_seconds, repeat_difference, trimmed_mean
from gpt2cost.measure.torch_trace import Observed, observed_of_profile
from gpt2cost.measure.trace_match import match
from gpt2cost.prediction.one_pass import run_pass
from gpt2cost.prediction.ranges import Case, evidence_case, spread
from gpt2cost.prediction.settings import Settings, check_device, check_settings
from gpt2cost.table.config import Model, load_model
from gpt2cost.table.kernel import FusedAttention, Gemm
from gpt2cost.units import format_quantity

PASSES = {"pass": "", "pass_graph": "cuda-graph", "pass_compile": "compile"}
"""Kinds of records of whole passes -> the runtime that they are of; empty if the record says it, or it is eager."""


STEADY = 0.05
"""A measurement whose two halves differ by no more can be held against a prediction."""


@dataclass(frozen=True)
class PassScore:
    """A measured pass beside its prediction and its range, in seconds.

    `repeat`: by how much two halves of the measurement differ, the slower over the faster less one; None if unknown.
    """

    case: Case
    low_s: float
    high_s: float
    repeat: float | None

    @property
    def measured_s(self) -> float:
        return self.case.row.latency_s

    @property
    def predicted_s(self) -> float:
        return self.case.latency_s

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.measured_s - 1.0

    @property
    def inside(self) -> bool:
        """Whether the measurement lies within the predicted range."""
        return self.low_s <= self.measured_s <= self.high_s


@dataclass(frozen=True)
class KernelScore:
    """Kernels of one pass: a row of the table, or all rows of a kind. Seconds are totals over the `count` launches."""

    name: str
    op: str
    kind: str
    count: int
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one; None for what was not seen."""
        return self.predicted_s / self.measured_s - 1.0 if self.measured_s else None


@dataclass(frozen=True)
class ProfileScore:
    """The kernels of a profiled pass beside their predictions.

    `passes`: how many were recorded. `kernels` has the table's rows in order, with the median over the recordings.
    `unmapped`: name -> seconds per pass of what is not the table's. `missing`: names of rows that were seen too rarely.
    """

    model: Model
    settings: Settings
    passes: int
    kernels: tuple[KernelScore, ...]
    unmapped: Mapping[str, float]
    missing: tuple[str, ...]
    mapped_share: float
    in_order: bool

    @property
    def kinds(self) -> list[KernelScore]:
        """Those that are not missing, summed up by kind of kernel; the kind that took longest first."""
        seen = self._seen
        kinds = dict.fromkeys(kernel.kind for kernel in seen)
        sums = [_summed(kind, kind, [kernel for kernel in seen if kernel.kind == kind]) for kind in kinds]
        return sorted(sums, key=lambda kind: -kind.measured_s)

    @property
    def total(self) -> KernelScore:
        """All kernels that are not missing."""
        return _summed("all", "", self._seen)

    @property
    def _seen(self) -> list[KernelScore]:
        return [kernel for kernel in self.kernels if kernel.name not in self.missing]


def _summed(name: str, kind: str, kernels: Sequence[KernelScore]) -> KernelScore:
    """Several kernels as one."""
    sums = (math.fsum(getattr(kernel, what) for kernel in kernels) for what in ("measured_s", "predicted_s"))
    return KernelScore(name, "", kind, sum(kernel.count for kernel in kernels), *sums)


@dataclass(frozen=True)
class Summary:
    """Over all passes. Errors are absolute but for `signed_mean_error`; `repeat` figures are None where unknown."""

    count: int
    median_absolute_error: float
    mean_absolute_error: float
    worst_absolute_error: float
    signed_mean_error: float
    inside_share: float
    median_repeat: float | None
    worst_repeat: float | None


@dataclass(frozen=True)
class Validation:
    """All that was measured, scored. `skipped`: why a record could not be predicted -> how many records.

    `slowdown`: by how much longer a reference product took beside these passes than when the device was calibrated,
    relative; None if unknown.
    """

    hardware: Hardware
    passes: tuple[PassScore, ...]
    profiles: tuple[ProfileScore, ...]
    skipped: Mapping[str, int]
    slowdown: float | None = None

    @property
    def summary(self) -> Summary | None:
        """Of all passes; None without any."""
        return summary_of(self.passes)

    @property
    def steady_summary(self) -> Summary | None:
        """Of the passes whose measurements repeat themselves within `STEADY`: the rest may be off by their noise."""
        return summary_of([one for one in self.passes if one.repeat is not None and one.repeat <= STEADY])


def summary_of(passes: Sequence[PassScore]) -> Summary | None:
    """None without passes."""
    if not passes:
        return None
    errors = [one.error for one in passes]
    absolute = [abs(error) for error in errors]
    repeats = [one.repeat for one in passes if one.repeat is not None]
    return Summary(
        count=len(errors),
        median_absolute_error=statistics.median(absolute),
        mean_absolute_error=statistics.fmean(absolute),
        worst_absolute_error=max(absolute),
        signed_mean_error=statistics.fmean(errors),
        inside_share=sum(one.inside for one in passes) / len(errors),
        median_repeat=statistics.median(repeats) if repeats else None,
        worst_repeat=max(repeats) if repeats else None,
    )


def score(hw: Hardware, records: Iterable[Measurement]) -> Validation:
    """Predict every pass and profile of `records`; other kinds are passed over.

    Raises `InputError` for a record that lacks what it needs, and where nothing is left to score.
    """
    passes: list[PassScore] = []
    profiles: list[ProfileScore] = []
    references_s: list[float] = []
    skipped: Counter[str] = Counter()
    for record in records:
        if record["kind"] not in (*PASSES, "profile"):
            continue
        if record.get("mode", "default") != "default":
            skipped[f"torch.compile mode {plain(str(record['mode']))} is not predicted"] += 1
            continue
        settings = settings_of(record)
        try:
            check_device(hw, settings.dtype, settings.attn, settings.runtime)
        except InputError as error:
            skipped[str(error)] += 1
            continue
        if record["kind"] != "profile":
            passes.append(_score_pass(hw, record))
            references_s += reference_seconds([record])
            continue
        model, recordings = load_model(record["model"]), observed_passes(record)
        try:
            profiles.append(score_trace(hw, model, settings, *recordings))
        except InputError:
            skipped[f"no pass found in the profile: {settings.runtime}"] += 1
    if not passes and not profiles:
        why = f": {next(iter(skipped))}" if skipped else "; expected records of kind pass or profile"
        raise InputError(f"{hw.name}: nothing to score{why}")
    return Validation(hw, tuple(passes), tuple(profiles), dict(skipped), _slowdown(hw, references_s))


def _slowdown(hw: Hardware, references_s: Sequence[float]) -> float | None:
    then_s = hw.calibration.reference_s if hw.calibration else None
    return trimmed_mean(references_s) / then_s - 1.0 if references_s and then_s else None


def _score_pass(hw: Hardware, record: Measurement) -> PassScore:
    row = as_evidence(record, "")
    case, known = evidence_case(hw, row), spread(hw, row.dtype)
    low_s, high_s = (
        float(case.one.scaled(hw, row.runtime, device, host).latency_s)
        for device, host in ((known.device_low, known.host_low), (known.device_high, known.host_high))
    )
    return PassScore(case, low_s, high_s, repeat_difference(record))


def score_trace(hw: Hardware, model: Model, settings: Settings, *observed: Sequence[Observed]) -> ProfileScore:
    """The kernels of `observed` beside their predictions: one recording or more, each of one pass or more.

    Raises `InputError` where a recording has no such pass.
    """
    one = run_pass(model, hw, settings, settings.seq_len, settings.cache_len)
    found = [match(recording, one.rows, one.symbols) for recording in observed]
    if not found or not all(each.passes for each in found):
        raise InputError(f"trace: found no pass of {model.name} in it: no op or kernel of a layer norm")
    measured: dict[int, list[float]] = {}
    for row in (row for each in found for row in each.rows):
        measured.setdefault(row.row.index, []).append(row.seconds)
    kernels = tuple(
        KernelScore(
            cost.row.path,
            cost.kernel.op,
            cost.kernel.kind,
            int(cost.count),
            statistics.median(measured[cost.row.index]),
            float(cost.device_s),
        )
        for cost in one.kernels
    )
    passes = sum(each.passes for each in found)
    unmapped: Counter[str] = Counter()
    for left in (left for each in found for left in each.unmapped):
        unmapped[left.op or ", ".join(left.kernels)] += left.seconds / passes  # type: ignore[assignment]
    return ProfileScore(
        model=model,
        settings=settings,
        passes=passes,
        kernels=kernels,
        unmapped=dict(unmapped.most_common()),
        missing=tuple(dict.fromkeys(row.path for each in found for row in each.missing)),
        mapped_share=statistics.median(each.mapped_share for each in found),
        in_order=all(each.in_order for each in found),
    )


# ------------------------------------------------------------------------------------------------ records


def settings_of(record: Measurement) -> Settings:
    """How the pass of a record was run. Raises `InputError` for what is missing or wrong."""
    kind = str(record["kind"])
    runtime = PASSES[kind] if PASSES.get(kind) else str(record.get("runtime", "eager"))
    try:
        sizes, choices = (record["batch"], record["seq"], record["cache"]), (record["dtype"], record["attn"])
        if not isinstance(record["model"], str):
            raise InputError(f"model: expected a name, got {echo(record['model'])}")
        if any(isinstance(size, list) for size in sizes):
            raise InputError(f"batch, seq, cache: expected integers, got {echo(sizes)}")
        use_cache = check_flag("use_cache", record.get("use_cache", True))
        return check_settings(*sizes, *choices, runtime, "prefill", "all", use_cache)
    except KeyError as error:
        raise InputError(f"measurement of kind {record['kind']}: expected {error.args[0]!r}, which it lacks") from None
    except InputError as error:
        raise InputError(f"measurement of kind {record['kind']}: {error}") from None


def as_evidence(record: Measurement, source: str) -> Evidence:
    """A measured pass as a hardware file's evidence. Raises `InputError` for a record without a time."""
    settings = settings_of(record)
    name = "graph_us" if record["kind"] == "pass_graph" else "wall_us"
    value = record.get(name)
    if not is_time(value):
        raise InputError(f"measurement of kind {record['kind']}: {name}: expected a time above 0, got {echo(value)}")
    return Evidence(
        source=source,
        model=record["model"],
        batch=settings.batch_size,
        seq=settings.seq_len,
        cache=settings.cache_len,
        dtype=settings.dtype,  # type: ignore[arg-type]
        attn=settings.attn,  # type: ignore[arg-type]
        use_cache=settings.use_cache,
        runtime=settings.runtime,  # type: ignore[arg-type]
        latency_s=1e-6 * value,
    )


def evidence_yaml(records: Iterable[Measurement], source: str) -> str:
    """The measured passes among `records` as the list under `evidence:` of a hardware file."""
    rows = [as_evidence(record, source) for record in records if record["kind"] in PASSES]
    return yaml.safe_dump([_evidence_tree(row) for row in rows], sort_keys=False, width=110, default_flow_style=None)


def _evidence_tree(row: Evidence) -> dict[str, Any]:
    names = ("model", "batch", "seq", "cache", "dtype", "attn", "use_cache", "runtime")
    latency = format_quantity(row.latency_s, "s", 5)
    return {**{name: getattr(row, name) for name in names}, "latency": latency, "source": row.source}


def source_of(machine: Measurement) -> str:
    """What was measured on, when and with what, from the record of kind `machine`: the `source` of evidence."""
    device = machine.get("gpu") or machine.get("cpu_model") or machine.get("device", "unknown device")
    threads = f"{machine['threads']} threads" if machine.get("device") == "cpu" and "threads" in machine else ""
    versions = [f"{name} {machine[name]}" for name in ("torch", "transformers") if machine.get(name)]
    return ", ".join(filter(None, ("gpt2cost measure", machine.get("date", ""), device, threads, *versions)))


def profile_record(head: Mapping[str, Any], passes: Iterable[Sequence[Observed]]) -> dict[str, Any]:
    """A `profile` measurement: what was run, and [op, us, [kernel names]] of every op of every recorded pass."""
    written = [[[one.op, round(1e6 * one.seconds, 3), list(one.kernels)] for one in each] for each in passes]
    return {"kind": "profile", **head, "observed": written}


def observed_passes(record: Measurement) -> list[list[Observed]]:
    """The recordings of a `profile` measurement, ours or a flat one. Raises `InputError` for another form."""
    if "observed" not in record:
        return [observed_of_profile(record)]
    try:
        found: list[list[Observed]] = []
        for ops in record["observed"]:
            found.append([])
            start_s = 0.0
            for op, us, kernels in ops:
                if not isinstance(op, str) or not all(isinstance(name, str) for name in kernels) or not (op or kernels):
                    raise ValueError
                found[-1].append(Observed(op, tuple(kernels), 1e-6 * us, start_s))
                start_s += 1e-6 * us
        return found
    except (TypeError, ValueError, OverflowError):
        raise InputError("measurement of kind profile: expected lists of [op, us, [kernels]] in 'observed'") from None


@dataclass(frozen=True)
class EvidenceResult:
    """A measured pass beside its prediction, its range and a plain roofline's, in seconds."""

    hardware: Hardware
    case: Case
    low_s: float
    high_s: float
    roofline_s: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.case.latency_s / self.case.row.latency_s - 1.0

    @property
    def inside(self) -> bool:
        """Whether the measurement lies within the predicted range."""
        return self.low_s <= self.case.row.latency_s <= self.high_s


def score_evidence(devices: Iterable[Hardware] | None = None) -> list[EvidenceResult]:
    """Predict every measured case of the devices (by default of all that ship)."""
    return [_score(hw, index) for hw in devices or list_hardware() for index in range(len(hw.evidence))]


def _score(hw: Hardware, index: int) -> EvidenceResult:
    row = hw.evidence[index]
    case = evidence_case(hw, row)
    known = spread(hw, row.dtype)
    low = case.one.scaled(hw, row.runtime, known.device_low, known.host_low).latency_s
    high = case.one.scaled(hw, row.runtime, known.device_high, known.host_high).latency_s
    peak = hw.compute.peak_flop_per_s[row.dtype]
    roofline = sum(
        max(
            cost.flops / peak if isinstance(cost.kernel.shape, Gemm | FusedAttention) else 0.0,
            (cost.read_bytes + cost.write_bytes) / hw.memory.bandwidth_bytes_per_s,
        )
        for cost in case.one.kernels
    )
    return EvidenceResult(hw, case, float(low), float(high), float(roofline))


# ---------------------------------------------------------------------------------------------- transfer


@dataclass(frozen=True)
class TransferResult:
    """A device's measured passes in one dtype, predicted with another device's fitted constants."""

    hardware: str
    donor: str
    dtype: str
    errors: tuple[float, ...]

    @property
    def mean_absolute_error(self) -> float:
        return float(np.mean(np.abs(self.errors)))


def leave_one_out() -> list[TransferResult]:
    """Predict each device's device-bound evidence as if its own fit did not exist: with every other device's constants.

    Donors are the devices whose constants for the dtype were fitted on kernels of their own chip.
    """
    devices = list_hardware()
    results = []
    for hw in devices:
        cases = [evidence_case(hw, row) for row in hw.evidence]
        for dtype in dict.fromkeys(case.row.dtype for case in cases if not case.host_bound):
            rows = [case.row for case in cases if case.row.dtype == dtype and not case.host_bound]
            for donor in devices:
                if (
                    donor.name == hw.name
                    or donor.vendor != hw.vendor
                    or donor.model.residual_of(dtype) is None
                    or _borrows(donor, dtype)
                ):
                    continue
                lent = dataclasses.replace(hw, model=donor.model)
                errors = tuple(evidence_case(lent, row).latency_s / row.latency_s - 1.0 for row in rows)
                results.append(TransferResult(hw.name, donor.name, dtype, errors))
    return results


def _borrows(hardware: Hardware, dtype: str) -> bool:
    """Whether a device's constants for products in a dtype are another device's."""
    if not isinstance(hardware.model, MachineConstants):
        return "model" in hardware.borrowed
    engine = dtype if dtype in hardware.model.gemm else "fp16"
    return "model" in hardware.borrowed and f"model.gemm.{engine}" not in hardware.provenance
