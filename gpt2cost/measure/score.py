"""Predictions beside measurements: whole passes, and the kernels of profiled ones. Needs no torch.

Every error is predicted / measured - 1. What is measured comes as the evidence of hardware files, as records (see
`records`) of `gpt2cost measure`, or as a trace of torch.profiler.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gpt2cost.device.catalog import list_hardware, load_hardware
from gpt2cost.device.hardware import Evidence, Hardware
from gpt2cost.errors import InputError, plain
from gpt2cost.measure.evidence import PASSES, as_evidence, run_of
from gpt2cost.measure.profile_records import observed_passes
from gpt2cost.measure.profile_score import ProfileScore, score_trace
from gpt2cost.measure.records import Measurement, named, of_kind, reference_seconds, repeat_difference, trimmed_mean
from gpt2cost.prediction.cases import Case, box_of, evidence_cases
from gpt2cost.prediction.evidence_pass import evidence_how
from gpt2cost.prediction.ranges import Range, Unseen, range_of
from gpt2cost.prediction.settings import check_device
from gpt2cost.result import Result
from gpt2cost.table.config import Model, load_model
from gpt2cost.table.kernel import FusedAttention, Gemm

STEADY = 0.05
"""A measurement whose two halves differ by no more can be held against a prediction."""


# ---------------------------------------------------------------------------------------------- passes


@dataclass(frozen=True, eq=False)
class Scored:
    """A measured pass beside its prediction, its range and a plain roofline's, in seconds.

    The range has seen nothing of its source, and of its box nothing of its host; the prediction itself has, where
    `fitted` says so. `repeat`: by how much two halves of the
    measurement differ, the slower over the faster less one; None if unknown.
    """

    hardware: Hardware
    case: Case
    range: Range
    roofline_s: float
    repeat: float | None = None

    @property
    def low_s(self) -> float:
        return float(self.range.low_s)

    @property
    def high_s(self) -> float:
        return float(self.range.high_s)

    @property
    def fitted(self) -> str:
        """The constants that were fitted to this pass; empty where none was."""
        return self.case.fitted

    @property
    def measured_s(self) -> float:
        return self.case.row.latency_s

    @property
    def predicted_s(self) -> float:
        return self.case.latency_s

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1.0

    @property
    def roofline_error(self) -> float:
        return self.roofline_s / self.measured_s - 1.0

    @property
    def inside(self) -> bool:
        """Whether the measurement lies within the predicted range."""
        return self.low_s <= self.measured_s <= self.high_s


@dataclass(frozen=True)
class Summary:
    """Over several passes or steps, of which `inside` lie in their range. `repeat` figures are None where unknown.

    `median_width`: of the ranges, from end to end as a factor.
    """

    cases: int
    mean_absolute_error: float
    median_absolute_error: float
    worst_absolute_error: float
    signed_mean_error: float
    inside: int
    median_width: float
    roofline_mean_absolute_error: float
    median_repeat: float | None
    worst_repeat: float | None


class Comparable(Protocol):
    """What can be summed up: a measured pass or step beside its prediction. See `Scored`."""

    @property
    def error(self) -> float: ...
    @property
    def inside(self) -> bool: ...
    @property
    def low_s(self) -> float: ...
    @property
    def high_s(self) -> float: ...
    @property
    def roofline_error(self) -> float: ...
    @property
    def repeat(self) -> float | None: ...


def summary_of(scored: Sequence[Comparable]) -> Summary | None:
    """None without any."""
    if not scored:
        return None
    errors = [case.error for case in scored]
    absolute = [abs(error) for error in errors]
    repeats = [case.repeat for case in scored if case.repeat is not None]
    return Summary(
        cases=len(errors),
        mean_absolute_error=statistics.fmean(absolute),
        median_absolute_error=statistics.median(absolute),
        worst_absolute_error=max(absolute),
        signed_mean_error=statistics.fmean(errors),
        inside=sum(case.inside for case in scored),
        median_width=statistics.median(case.high_s / case.low_s for case in scored),
        roofline_mean_absolute_error=statistics.fmean(abs(case.roofline_error) for case in scored),
        median_repeat=statistics.median(repeats) if repeats else None,
        worst_repeat=max(repeats) if repeats else None,
    )


def score_cases(hw: Hardware, rows: Sequence[Evidence], repeats: Sequence[float | None] = ()) -> list[Scored]:
    """Predict measured cases of a device, each with a range that has seen nothing of its source and its box."""
    scored = []
    for case, repeat in zip(evidence_cases(hw, rows), repeats or [None] * len(rows), strict=True):
        unseen = Unseen(case.row.source, box_of(case.row)) if case.row.source else None
        how, host_bound = evidence_how(case.row), case.pace == "host"
        own = range_of(case.latency_at, hw, how, case.sizes, host_bound, unseen)
        scored.append(Scored(hw, case, own, _roofline_s(hw, case), repeat))
    return scored


def _roofline_s(hw: Hardware, case: Case) -> float:
    """The longer of FLOPs over peak and operand bytes over DRAM bandwidth, summed over the kernels."""
    peak = hw.compute.peak_flop_per_s[case.row.dtype]
    return sum(
        max(
            case.of(cost.flops) / peak if isinstance(cost.kernel.shape, Gemm | FusedAttention) else 0.0,
            case.of(cost.moved_bytes) / hw.memory.bandwidth_bytes_per_s,
        )
        for cost in case.pass_.kernels
    )


def score_evidence(devices: Iterable[Hardware] | None = None) -> list[Scored]:
    """Predict every measured case in the files of the devices, by default of all that there are."""
    return [scored for hw in devices or list_hardware() for scored in score_cases(hw, hw.evidence)]


# ---------------------------------------------------------------------------------------------- validation


@dataclass(frozen=True, eq=False, repr=False)
class Validation(Result):
    """All that was measured, scored. `skipped`: why a record could not be predicted -> how many records.

    `slowdown`: by how much longer a reference product took beside these passes than when the device was calibrated,
    relative; None if unknown.
    """

    shown_by = "validation"

    hardware: Hardware
    passes: tuple[Scored, ...]
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
        return summary_of([case for case in self.passes if case.repeat is not None and case.repeat <= STEADY])


def validate(gpu: str | Hardware, records: Iterable[Measurement]) -> Validation:
    """Predict every pass and profile of `records` on a device; other kinds are passed over.

    `gpu` is a device's name or file, or a `Hardware`. Raises `InputError` for a record that lacks what it needs, and
    where nothing is left to score.
    """
    hw = load_hardware(gpu)
    passes: list[Measurement] = []
    profiles: list[ProfileScore] = []
    skipped: Counter[str] = Counter()
    models: dict[str, Model] = {}
    for record in of_kind(records, *PASSES, "profile"):
        if record.get("mode", "default") not in ("default", "reduce-overhead"):
            skipped[f"torch.compile mode {plain(str(record['mode']))} is not predicted"] += 1
            continue
        how, sizes = run_of(record)
        model = _model_of(record, models)
        try:
            check_device(hw, how)
        except InputError as error:
            skipped[str(error)] += 1
            continue
        if record["kind"] != "profile":
            passes.append(record)
            continue
        recordings = observed_passes(record)
        try:
            profiles.append(score_trace(hw, model, how, sizes, *recordings))
        except InputError:
            skipped[f"no pass found in the profile: {how.runtime}"] += 1
    if not passes and not profiles:
        why = f": {next(iter(skipped))}" if skipped else "; expected records of kind pass or profile"
        raise InputError(f"{hw.name}: nothing to score{why}")
    rows = [as_evidence(record, "") for record in passes]
    scored = score_cases(hw, rows, [repeat_difference(record) for record in passes])
    return Validation(hw, tuple(scored), tuple(profiles), dict(skipped), slowdown(hw, reference_seconds(passes)))


def _model_of(record: Measurement, models: dict[str, Model]) -> Model:
    """The model of a record, kept in `models`. Raises `InputError` for an unknown one."""
    name = record["model"]
    try:
        return models.get(name) or models.setdefault(name, load_model(name))
    except InputError as error:
        raise InputError(f"{named(record)}: {error}") from None


def slowdown(hw: Hardware, references_s: Sequence[float]) -> float | None:
    """By how much longer the reference product took than when a device was calibrated; None if unknown."""
    then_s = hw.calibration.reference_s if hw.calibration else None
    return trimmed_mean(references_s) / then_s - 1.0 if references_s and then_s else None
