"""Measured training steps, and their validations, as rows and as text."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from gpt2cost.measure.records import Measurement, machine
from gpt2cost.measure.train_records import PARTS, MeasuredStep, StepCase, measured_steps
from gpt2cost.measure.train_validation import PartScore, StepScore, TrainValidation
from gpt2cost.output.accuracy import FIGURES, INSIDE, RANGE, REPEAT, SUMMARY
from gpt2cost.output.field import Field, Record, attribute, attributes, record_of, within
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.output.validation import counted, errors_text, measured_on, slowdown_line, summary_lines, varying_table
from gpt2cost.prediction.train_settings import one_dropout

CASE: tuple[Field[StepCase], ...] = (
    attribute("model", path="model.name"), *attributes("micro_batch", "seq_len", "grad_accum", of="batch"),
    attribute("precision", of="train"), *attributes("attn", "runtime", "impl", of="train.how"),
    *attributes("optimizer", "clip_grad_norm", "checkpointing", of="train"),
    Field("dropout", "", "", lambda case: one_dropout(case.model)), attribute("vocab_size", of="model"),
)  # fmt: skip
"""With what every row of a measured step begins."""


def _clip(case: StepCase) -> str:
    norm = case.train.clip_grad_norm
    return "no clipping" if norm is None else f"clip {norm:g}"


def _dropout(case: StepCase) -> str:
    one = one_dropout(case.model)
    return "dropout" if one is None else f"dropout {one:g}" if one else "no dropout"


def _checkpointing(case: StepCase) -> str:
    return "" if case.train.checkpointing == "none" else f"checkpointing {case.train.checkpointing}"


def _size(case: StepCase) -> str:
    accum = case.batch.grad_accum
    return case.batch.sizes.text + (f" x {accum}" if accum > 1 else "")


CHOICES: tuple[Field[StepCase], ...] = (
    attribute("model", "model", path="model.name"), attribute("impl", "impl", of="train.how"),
    attribute("precision", "precision", of="train"), attribute("attn", "attention", of="train.how"),
    attribute("runtime", "runtime", of="train.how"), attribute("optimizer", "optimizer", of="train"),
    Field("clip", "clipping", "", _clip), Field("dropout", "dropout", "", _dropout),
    Field("checkpointing", "checkpointing", "", _checkpointing),
)  # fmt: skip
"""What a heading or a column says of a step, beside its size."""
SIZE: Field[StepCase] = Field("size", "size", "right", _size)

# ---------------------------------------------------------------------------------------------- measured


def _part(part: str) -> Field[MeasuredStep]:
    return Field(f"{part}_s", part, "own s", lambda step: step.parts.get(part))


MEASURED_STEP: tuple[Field[MeasuredStep], ...] = (
    attribute("step_s", "step", "own s"), *map(_part, PARTS), attribute("least_s", "least", "own s"),
    attribute("runs", "runs"), attribute("repeat_difference", "repeat", "%"),
)  # fmt: skip
PEAK: Field[MeasuredStep] = attribute("peak_allocated_bytes", "peak", "B", path="peak_bytes")
STEP = (*within(attrgetter("case"), CASE), *MEASURED_STEP, PEAK)
"""The fields of a measured step."""


def _step_rows(records: Iterable[Measurement]) -> list[Record]:
    records = list(records)
    return [{**measured_on(records), **record_of(STEP, step)} for step in measured_steps(records)]


def _measured_document(records: Sequence[Measurement]) -> Record:
    return {**envelope(), "machine": dict(machine(records)), "steps": _step_rows(records)}


def _measured_text(page: Page, records: Sequence[Measurement]) -> None:
    steps = measured_steps(records)
    peak = [PEAK] * any(step.peak_bytes is not None for step in steps)
    inputs, size = within(attrgetter("case"), CHOICES), within(attrgetter("case"), [SIZE])
    varying_table(page, steps, inputs, size, [(*MEASURED_STEP, *peak)])
    page.line("\nstep: mean of the rounds, without the outer fifths; least: of all runs")
    page.line("forward, backward, clip, optimizer: of other steps, which wait for the device after each part")
    page.line("repeat: by how much two halves of the measurement differ")


MEASURED_STEPS: View[Sequence[Measurement]] = View(_step_rows, _measured_document, _measured_text)
"""What `measure --phase train` recorded: the machine, and a row per step."""

# ---------------------------------------------------------------------------------------------- scored


def _part_figures(part: str) -> tuple[Field[StepScore], ...]:
    own = within(lambda score: score.parts.get(part), FIGURES)
    return tuple(Field(f"{part}_{field.key}", field.header, field.unit, field.get) for field in own)


GPU = attribute("gpu", "device", path="training.hardware.name")
PEAKS: tuple[Field[StepScore], ...] = (
    attribute("measured_peak_bytes", "peak", "B", path="measured.peak_bytes"),
    attribute("predicted_peak_bytes", "predicted", "B", path="training.memory.total_bytes"),
    attribute("peak_error", "error", "+%"),
)  # fmt: skip
TRUST = (attribute("trust", "trust", of="training"), attribute("trust_from", of="training"))
SCORED: tuple[Field[StepScore], ...] = (
    GPU, *within(attrgetter("measured.case"), CASE), *FIGURES, *RANGE, attribute("inside"), *TRUST,
    attribute("roofline_error"), REPEAT, *(field for part in PARTS for field in _part_figures(part)), *PEAKS,
)  # fmt: skip
"""A measured step beside its prediction; then each of its parts, and the peak of memory."""


@dataclass(frozen=True)
class PartSummary:
    """The scores of one part over all steps. `share`: of the sum of the parts, as it was measured."""

    part: str
    scores: Sequence[PartScore]
    share: float

    @property
    def median_absolute_error(self) -> float:
        return statistics.median(abs(score.error) for score in self.scores)

    @property
    def signed_mean_error(self) -> float:
        return statistics.fmean(score.error for score in self.scores)


PART_SUMMARY: tuple[Field[PartSummary], ...] = (
    attribute("part", "part"), Field("cases", "steps", "", lambda part: len(part.scores)),
    attribute("share", "share", "%"), attribute("median_absolute_error", "median error", "%"),
    attribute("signed_mean_error", "signed mean", "+%"),
)  # fmt: skip


def _parts(validation: TrainValidation) -> list[PartSummary]:
    sums = {part: sum(score.measured_s for score in scores) for part, scores in validation.parts.items()}
    total_s = sum(sums.values())
    return [PartSummary(part, scores, sums[part] / total_s) for part, scores in validation.parts.items()]


def _rows(validation: TrainValidation) -> list[Record]:
    return [record_of(SCORED, score) for score in validation.steps]


def _document(validation: TrainValidation) -> Record:
    summaries = {"summary": validation.summary, "steady_summary": validation.steady_summary}
    return {
        **envelope(),
        "gpu": validation.hardware.name,
        **{name: summary and record_of(SUMMARY, summary) for name, summary in summaries.items()},
        "slowdown": validation.slowdown,
        "steps": _rows(validation),
        "parts": [record_of(PART_SUMMARY, part) for part in _parts(validation)],
        "skipped": dict(validation.skipped),
    }


def _text(page: Page, validation: TrainValidation) -> None:
    """Steps and their summary, then their parts."""
    steps = validation.steps
    where = f"on {validation.hardware.name}"
    inputs, size = within(attrgetter("measured.case"), CHOICES), within(attrgetter("measured.case"), [SIZE])
    peaks = PEAKS if any(score.peak_error is not None for score in steps) else ()
    layouts = (
        (*FIGURES, *RANGE, INSIDE, TRUST[0], REPEAT, *peaks), (*FIGURES, INSIDE, REPEAT), (*FIGURES, INSIDE), FIGURES,
    )  # fmt: skip
    varying_table(page, steps, inputs, size, layouts, where)
    if summary := validation.summary:
        summary_lines(page, summary, validation.steady_summary, ("step", "steps"))
    slowdown_line(page, validation.slowdown)
    if parts := _parts(validation):
        rows = [(score, part) for score in steps for part in score.parts.values()]
        of_case = within(lambda row: row[0].measured.case, [*CHOICES, SIZE])
        varying = [field for field in of_case if len({field.get(row) for row in rows}) > 1]
        figures = within(lambda row: row[1], [attribute("part", "part"), *FIGURES])
        page.line()
        page.fields(rows, (*varying, *figures), figures)
        page.line()
        page.fields(parts, PART_SUMMARY)
    for reason, count in validation.skipped.items():
        page.line(f"\nskipped {counted(count, 'step', 'steps')}: {reason}")
    page.line("\nerror: predicted / measured - 1")
    page.line("a part is measured with a wait for the device after it, which the step does not have")


def _summary(validation: TrainValidation) -> tuple[str, str]:
    steps = counted(len(validation.steps), "step", "steps")
    errors = f": {errors_text(validation.summary)}" if validation.summary else ""
    return f"<TrainValidation of {validation.hardware.name}:", f" {steps}{errors}>"


TRAIN_VALIDATION: View[TrainValidation] = View(_rows, _document, _text, _summary)
VIEWS: dict[type, View[Any]] = {TrainValidation: TRAIN_VALIDATION}
