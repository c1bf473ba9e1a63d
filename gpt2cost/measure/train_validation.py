"""Training steps measured on a machine beside their predictions, as wholes and by their parts. Needs no torch.

Every error is predicted / measured - 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.measure.score import STEADY, Summary, slowdown, summary_of
from gpt2cost.measure.train_records import PARTS, MeasuredStep
from gpt2cost.measure.training_score import roofline_s
from gpt2cost.prediction.train import Training
from gpt2cost.result import Result


@dataclass(frozen=True)
class PartScore:
    """A part of a step, over its micro-steps, in seconds. A part alone is measured up to the device's end."""

    part: str
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1.0


@dataclass(frozen=True, eq=False)
class StepScore:
    """A measured step beside its prediction, in seconds."""

    measured: MeasuredStep
    training: Training

    @property
    def measured_s(self) -> float:
        return self.measured.step_s

    @property
    def predicted_s(self) -> float:
        return float(self.training.step.step_s)

    @property
    def low_s(self) -> float:
        return float(self.training.step.step_low_s)

    @property
    def high_s(self) -> float:
        return float(self.training.step.step_high_s)

    @property
    def error(self) -> float:
        return self.predicted_s / self.measured_s - 1.0

    @property
    def inside(self) -> bool:
        """Whether the measurement lies within the predicted range."""
        return self.low_s <= self.measured_s <= self.high_s

    @cached_property
    def roofline_error(self) -> float:
        """Of FLOPs over peak or bytes over DRAM bandwidth, kernel by kernel."""
        return roofline_s(self.training, None) / self.measured_s - 1.0

    @cached_property
    def repeat(self) -> float | None:
        """By how much two halves of the measurement differ; None for a single round."""
        return self.measured.repeat_difference

    @cached_property
    def parts(self) -> dict[str, PartScore]:
        """Those that were timed."""
        step = self.training.step
        return {
            part: PartScore(part, seconds, float(getattr(step, f"{part}_s")))
            for part, seconds in self.measured.parts.items()
        }

    @property
    def peak_error(self) -> float | None:
        """Of the peak of memory; None where it was not measured."""
        peak = self.measured.peak_bytes
        return None if peak is None else float(self.training.memory.total_bytes) / peak - 1.0


@dataclass(frozen=True, eq=False, repr=False)
class TrainValidation(Result):
    """All steps that were measured, scored. `skipped`: why one could not be predicted -> how many.

    `slowdown`: by how much longer a reference product took beside them than when the device was calibrated, relative;
    None if unknown.
    """

    shown_by = "train_validation"

    hardware: Hardware
    steps: tuple[StepScore, ...]
    skipped: Mapping[str, int]
    slowdown: float | None = None

    @property
    def summary(self) -> Summary | None:
        return summary_of(self.steps)

    @property
    def steady_summary(self) -> Summary | None:
        """Of the steps whose measurements repeat themselves within `STEADY`: the rest may be off by their noise."""
        return summary_of([step for step in self.steps if step.repeat is not None and step.repeat <= STEADY])

    @property
    def parts(self) -> dict[str, list[PartScore]]:
        """The scores of each part."""
        return {
            part: scores for part in PARTS if (scores := [own.parts[part] for own in self.steps if part in own.parts])
        }


def validate_steps(gpu: str | Hardware, steps: Iterable[MeasuredStep]) -> TrainValidation:
    """Predict measured steps on a device. Raises `InputError` where none can be."""
    hw = load_hardware(gpu)
    scored: list[StepScore] = []
    skipped: Counter[str] = Counter()
    for step in steps:
        try:
            scored.append(StepScore(step, step.case.predicted(hw)))
        except InputError as error:
            skipped[str(error)] += 1
    if not scored:
        why = f": {next(iter(skipped))}" if skipped else "; expected records of kind train_step"
        raise InputError(f"{hw.name}: nothing to score{why}")
    references_s = [seconds for step in scored for seconds in step.measured.references_s]
    return TrainValidation(hw, tuple(scored), dict(skipped), slowdown(hw, references_s))
