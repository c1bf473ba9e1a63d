"""Capacities as rows and as text."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from gpt2cost.output.compare import CHOICE, asked
from gpt2cost.output.page import NOTHING, Page
from gpt2cost.output.record import Field, Record, View, attribute, envelope, record_of, within
from gpt2cost.prediction.capacity import Answer, Capacity
from gpt2cost.prediction.predict import MemoryUse, Totals
from gpt2cost.units import format_quantity


@dataclass(frozen=True)
class AnswerRow:
    """One row: an answer, and what was asked. Without a prediction there are no figures."""

    capacity: Capacity
    answer: Answer

    @property
    def totals(self) -> Totals | None:
        return None if self.answer.prediction is None else self.answer.prediction.phases[0].totals

    @property
    def memory(self) -> MemoryUse | None:
        return None if self.answer.prediction is None else self.answer.prediction.memory


# ---------------------------------------------------------------------------------------------- fields


def _figure(part: str, key: str, header: str = "", unit: str = "") -> Field[AnswerRow]:
    """A figure of the totals or of the memory, if there are any."""
    return Field(key, header, unit, lambda row: getattr(getattr(row, part), key, None))


GOAL, PHASE = attribute("goal", "goal", path="answer.goal"), attribute("phase", "phase", path="answer.phase")
LIMIT = attribute("limited_by", "limited by", path="answer.limited_by")
BATCH, NEW, CACHED, _ = SIZES = within(
    attrgetter("answer.sizes"),
    (
        attribute("batch_size", "batch", ","), attribute("seq_len", "new tokens"), attribute("cache_len", "cached"),
        attribute("kv_len"),
    ),
)  # fmt: skip
LATENCY, RATE = _figure("totals", "latency_s", "latency", "own s"), _figure("totals", "tokens_per_s", "tokens/s", ",")
LOW, HIGH = _figure("totals", "latency_low_s"), _figure("totals", "latency_high_s")
MEMORY = _figure("memory", "total_bytes", "memory", "own B")
FIELDS: tuple[Field[AnswerRow], ...] = (
    *within(attrgetter("capacity.choice"), CHOICE), GOAL, PHASE, *SIZES, LIMIT, LATENCY, LOW, HIGH, RATE,
    _figure("totals", "bound"), MEMORY, _figure("memory", "capacity_bytes"),
)  # fmt: skip
"""The fields of every row."""


def _range(row: AnswerRow) -> str:
    if row.answer.prediction is None:
        return NOTHING
    return " to ".join(format_quantity(field.get(row), "s") for field in (LOW, HIGH))


RANGE: Field[AnswerRow] = Field("", "range", "", _range)

# ---------------------------------------------------------------------------------------------- the view


def _rows(capacity: Capacity) -> list[Record]:
    return [record_of(FIELDS, AnswerRow(capacity, answer)) for answer in capacity.answers]


def _document(capacity: Capacity) -> Record:
    choice = capacity.choice
    return {
        **envelope(choice.model, choice.hardware),
        "settings": {**asked(capacity, choice.how), "max_latency_s": capacity.max_latency_s},
        "positions": choice.model.n_positions,
        "answers": _rows(capacity),
    }


def _heading(capacity: Capacity) -> str:
    how, limit = capacity.choice.how, capacity.max_latency_s
    bound = "" if limit is None else f", latency up to {format_quantity(limit, 's')}"
    run = f"{how.dtype}, {how.attn}, {how.runtime}"
    return f"{capacity.choice.model.name} on {capacity.choice.hardware.name}, {run}{bound}"


def _text(page: Page, capacity: Capacity) -> None:
    """The answers, a line each, and what limits them."""
    page.line(f"{_heading(capacity)}\n")
    rows = [AnswerRow(capacity, answer) for answer in capacity.answers]
    page.fields(rows, (PHASE, GOAL, BATCH, NEW, CACHED, LATENCY, RANGE, RATE, MEMORY, LIMIT))
    if any(answer.limited_by == "positions" for answer in capacity.answers):
        positions = capacity.choice.model.n_positions
        page.line(f"\npositions: the model has {positions} learned ones, and cannot run beyond them")


def _summary(capacity: Capacity) -> tuple[str, ...]:
    largest = (answer for answer in capacity.answers if answer.goal == "largest batch")
    found = (f"{answer.phase} {answer.sizes.batch_size:,} ({answer.limited_by})" for answer in largest)
    return f"<Capacity of {_heading(capacity)}:", f" largest batch: {', '.join(found)}>"


CAPACITY: View[Capacity] = View(_rows, _document, _text, _summary)
VIEWS: dict[type, View[Any]] = {Capacity: CAPACITY}
