"""Capacities as rows and as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gpt2cost.device.hardware import Hardware
from gpt2cost.output.compare import CHOICE
from gpt2cost.output.page import NOTHING, Page
from gpt2cost.output.record import Field, Record, View, attribute, envelope, record_of, sizes_record, what_if, within
from gpt2cost.prediction.capacity import Answer, Capacity
from gpt2cost.prediction.predict import Prediction
from gpt2cost.prediction.settings import How
from gpt2cost.table.config import Model
from gpt2cost.units import format_quantity


@dataclass(frozen=True)
class AnswerRow:
    """One row: an answer, and what was asked."""

    capacity: Capacity
    answer: Answer

    @property
    def model(self) -> Model:
        return self.capacity.choice.model

    @property
    def hardware(self) -> Hardware:
        return self.capacity.choice.hardware

    @property
    def how(self) -> How:
        return self.capacity.choice.how


# ---------------------------------------------------------------------------------------------- fields


def _if_any(fields: Iterable[Field[Prediction]]) -> tuple[Field[AnswerRow], ...]:
    """Figures of the prediction; None where not even the smallest size will do."""

    def optional(field: Field[Prediction]) -> Field[Prediction | None]:
        def get(prediction: Prediction | None) -> Any:
            return None if prediction is None else field.get(prediction)

        return Field(field.key, field.header, field.unit, get)

    return within(lambda row: row.answer.prediction, map(optional, fields))


GOAL, PHASE, LIMIT = within(
    lambda row: row.answer,
    (attribute("goal", "goal"), attribute("phase", "phase"), attribute("limited_by", "limited by")),
)
SIZES: tuple[Field[AnswerRow], ...] = within(
    lambda row: row.answer.sizes,
    (
        attribute("batch_size", "batch", ","), attribute("seq_len", "new tokens"), attribute("cache_len", "cached"),
        attribute("kv_len"),
    ),
)  # fmt: skip
LATENCY, LOW, HIGH, RATE, BOUND = _if_any(
    within(
        lambda prediction: prediction.phases[0].totals,
        (
            attribute("latency_s", "latency", "own s"), attribute("latency_low_s"), attribute("latency_high_s"),
            attribute("tokens_per_s", "tokens/s", ","), attribute("bound"),
        ),
    )
)  # fmt: skip
MEMORY, DEVICE_MEMORY = _if_any(
    within(
        lambda prediction: prediction.memory,
        (attribute("total_bytes", "memory", "own B"), attribute("capacity_bytes")),
    )
)
FIELDS: tuple[Field[AnswerRow], ...] = (
    *CHOICE, GOAL, PHASE, *SIZES, LIMIT, LATENCY, LOW, HIGH, RATE, BOUND, MEMORY, DEVICE_MEMORY,
)  # fmt: skip
"""The fields of every row."""


def _range(row: AnswerRow) -> str:
    if row.answer.prediction is None:
        return NOTHING
    return " to ".join(format_quantity(field.get(row), "s") for field in (LOW, HIGH))


RANGE: Field[AnswerRow] = Field("", "range", "", _range)

# ---------------------------------------------------------------------------------------------- the view


def _answers(capacity: Capacity) -> list[AnswerRow]:
    return [AnswerRow(capacity, answer) for answer in capacity.answers]


def _rows(capacity: Capacity) -> list[Record]:
    return [record_of(FIELDS, row) for row in _answers(capacity)]


def _document(capacity: Capacity) -> Record:
    choice = capacity.choice
    return {
        **envelope(),
        "settings": {
            **sizes_record(capacity.sizes), "phase": capacity.phase, "logits": choice.how.logits,
            "use_cache": choice.how.use_cache, "max_latency_s": capacity.max_latency_s,
        },
        "positions": choice.model.n_positions,
        **what_if(choice.model, choice.hardware),
        "answers": _rows(capacity),
    }  # fmt: skip


def _heading(capacity: Capacity) -> str:
    how, limit = capacity.choice.how, capacity.max_latency_s
    bound = "" if limit is None else f", latency up to {format_quantity(limit, 's')}"
    run = f"{how.dtype}, {how.attn}, {how.runtime}"
    return f"{capacity.choice.model.name} on {capacity.choice.hardware.name}, {run}{bound}"


def _text(page: Page, capacity: Capacity) -> None:
    """The answers, a line each, and what limits them."""
    page.line(f"{_heading(capacity)}\n")
    page.fields(_answers(capacity), (PHASE, GOAL, *SIZES[:3], LATENCY, RANGE, RATE, MEMORY, LIMIT))
    if any(answer.limited_by == "positions" for answer in capacity.answers):
        positions = capacity.choice.model.n_positions
        page.line(f"\npositions: the model has {positions} learned ones, and cannot run beyond them")


def _summary(capacity: Capacity) -> tuple[str, ...]:
    largest = (answer for answer in capacity.answers if answer.goal == "largest batch")
    found = (f"{answer.phase} {answer.sizes.batch_size:,} ({answer.limited_by})" for answer in largest)
    return f"<Capacity of {_heading(capacity)}:", f" largest batch: {', '.join(found)}>"


CAPACITY: View[Capacity] = View(_rows, _document, _text, _summary)
VIEWS: dict[type, View[Any]] = {Capacity: CAPACITY}
