"""Comparisons of training as rows and as text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from operator import attrgetter
from textwrap import shorten
from typing import Any

from gpt2cost.output import shared
from gpt2cost.output.field import Field, Record, attribute, attributes, record_of, within
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.output.train import INPUTS, STEP
from gpt2cost.prediction.compare import Crossover
from gpt2cost.prediction.train import Training
from gpt2cost.prediction.train_compare import TrainCandidate, TrainComparison
from gpt2cost.units import scale_for


@dataclass(frozen=True)
class Compared:
    """One row: a candidate beside the first one."""

    candidate: TrainCandidate
    first: TrainCandidate

    @property
    def training(self) -> Training:
        return self.candidate.training


def _rate(candidate: TrainCandidate) -> float:
    return float(candidate.training.step.tokens_per_s)


def _other_s(row: Compared) -> float:
    """Of a step what the host takes before the first kernel and after the last one."""
    step = row.training.step
    parts = (step.forward_s, step.backward_s, step.exposed_communication_s, step.clip_s, step.optimizer_s)
    return float(step.step_s - sum(parts))


TRAINING = attrgetter("training")
LABEL = attribute("label", of="candidate")
RATIO: Field[Compared] = Field("tokens_ratio", "ratio", "x", lambda row: _rate(row.candidate) / _rate(row.first))
"""The tokens per second over the first candidate's."""
FITS: Field[Compared] = attribute("fits", path="training.memory.fits")
VALID: Field[Compared] = Field(
    "valid", "", "", lambda row: row.training.batch.seq_len <= row.training.model.n_positions
)
MARKS: Field[Compared] = Field(
    "", "", "", lambda row: ("" if FITS.get(row) else "does not fit ") + ("" if VALID.get(row) else "*")
)
LENGTH = ("eval_every", "eval_batches", "price_per_hour")
"""Inputs of a run, which a comparison has not."""
FIELDS: tuple[Field[Compared], ...] = (
    LABEL, *within(TRAINING, (field for field in INPUTS if field.key not in LENGTH)), *within(TRAINING, STEP),
    *attributes("trust", "trust_from", of="training"),
    *attributes("total_bytes", "capacity_bytes", "fits", of="training.memory"),
    attribute("max_micro_batch", of="training"), VALID, RATIO,
)  # fmt: skip
"""The fields of every flat row."""
STEP_S = attribute("step_s", "step", "s", path="training.step.step_s")
LOW, HIGH = (
    attribute(f"step_{name}_s", name, "s", path=f"training.step.step_{name}_s") for name in ("low", "high")
)  # fmt: skip
RATE = attribute("tokens_per_s", "tokens/s", ",", path="training.step.tokens_per_s")
MFU = attribute("mfu", "MFU", "%", path="training.step.mfu")
MEMORY = attribute("total_bytes", "memory", "B", path="training.memory.total_bytes")
BOUND = attribute("bound", "bound", path="training.step.bound")
WORD = attribute("trust", "trust", of="training")
LAYOUTS = (
    (LABEL, STEP_S, LOW, HIGH, RATE, RATIO, MFU, MEMORY, BOUND, WORD, MARKS),
    (LABEL, STEP_S, LOW, HIGH, RATE, RATIO, MFU, BOUND, WORD, MARKS),
    (LABEL, STEP_S, RATE, RATIO, MFU, BOUND, MARKS),
    (LABEL, STEP_S, RATE, RATIO, BOUND, MARKS),
)
"""What the table shows, the fullest layout first."""
PARTS: tuple[Field[Compared], ...] = (
    *(
        attribute(key, name, path=f"training.step.{key}")
        for key, name in (
            ("forward_s", "forward"), ("backward_s", "backward"), ("exposed_communication_s", "communication"),
            ("clip_s", "clip"), ("optimizer_s", "optimizer"),
        )
    ),
    Field("other_s", "other", "", _other_s),
)  # fmt: skip
"""They sum to the step."""


def _compared(comparison: TrainComparison) -> list[Compared]:
    first = comparison.candidates[0]
    return [Compared(candidate, first) for candidate in comparison.candidates]


def _rows(comparison: TrainComparison) -> list[Record]:
    return [record_of(FIELDS, row) for row in _compared(comparison)]


def _document(comparison: TrainComparison) -> Record:
    first = comparison.candidates[0]
    return {
        **envelope(first.choice.model, first.choice.hardware),
        "phase": "train",
        "first": first.label,
        "candidates": _rows(comparison),
        "crossovers": list(map(dataclasses.asdict, comparison.crossovers)),
    }


def _text(page: Page, comparison: TrainComparison) -> None:
    """A table, where the time goes, and where the ranking changes."""
    rows = _compared(comparison)
    page.line(f"training: {', '.join(comparison.common)}\n", style="bold")
    page.fields(rows, *LAYOUTS)
    page.line(f"\nwhere the time of a step goes, and the difference from {LABEL.get(rows[0])}\n")
    _by_part(page, rows)
    best = max(comparison.candidates, key=_rate)
    page.line(f"\nthe most tokens per second: {best.label}")
    for crossover in comparison.crossovers:
        page.line(_crossover(crossover))
    shared.repeat_warnings(page, comparison.warnings)


def _crossover(crossover: Crossover) -> str:
    axis = {"micro_batch": "micro-batch", "seq_len": "sequence length"}[crossover.axis]
    full = "" if crossover.fits else " (which does not fit the memory)"
    return f"from {axis} {crossover.size}{full} on {crossover.after} is faster than {crossover.before}"


def _by_part(page: Page, rows: list[Compared]) -> None:
    """A line per part of a step: the first candidate's seconds, and what each other one adds or saves."""
    divisor, unit = scale_for([STEP_S.get(row) for row in rows], "s")
    lines = [*(field for field in PARTS if any(map(field.get, rows))), STEP_S]
    first, *others = rows

    def difference(row: Compared) -> Field[Field[Compared]]:
        return Field("", LABEL.get(row), "+.", lambda line: (line.get(row) - line.get(first)) / divisor)

    seconds: Field[Field[Compared]] = Field(
        "", f"{LABEL.get(first)} {unit}", ".", lambda line: line.get(first) / divisor
    )
    page.beside(lines, attribute("header", "part"), [seconds, *map(difference, others)])


def _summary(comparison: TrainComparison) -> tuple[str, str]:
    labels = shorten(", ".join(candidate.label for candidate in comparison.candidates), 120, placeholder=" ...")
    ratios = " ".join(f"{RATIO.get(row):.2f}x" for row in _compared(comparison))
    return f"<TrainComparison of {labels}:", f" tokens/s {shorten(ratios, 120, placeholder=' ...')}>"


VIEWS: dict[type, View[Any]] = {TrainComparison: View(_rows, _document, _text, _summary)}
