"""Capacities as rows and as text."""

from __future__ import annotations

import dataclasses
from typing import Any

from gpt2cost.output import shared
from gpt2cost.output.field import Field, Record, attribute, attributes, record_of, within
from gpt2cost.output.page import NOTHING, Page
from gpt2cost.output.record import View, envelope
from gpt2cost.prediction.capacity import Answer, Capacity
from gpt2cost.prediction.predict import MemoryUse, Totals
from gpt2cost.units import format_quantity

# ---------------------------------------------------------------------------------------------- fields


def _totals(answer: Answer) -> Totals | None:
    return None if answer.prediction is None else answer.prediction.phases[0].totals


def _memory(answer: Answer) -> MemoryUse | None:
    return None if answer.prediction is None else answer.prediction.memory


GOAL, PHASE, LIMIT = attribute("goal", "goal"), attribute("phase", "phase"), attribute("limited_by", "limited by")
BATCH, NEW, CACHED, _ = OF_PHASE = (
    attribute("batch_size", "batch", ",", of="run"), attribute("phase_seq_len", "new tokens", path="sizes.seq_len"),
    attribute("phase_cache_len", "cached", path="sizes.cache_len"), attribute("kv_len", of="sizes"),
)  # fmt: skip
SIZES = (BATCH, *attributes("seq_len", "cache_len", of="run"), *OF_PHASE[1:])
"""Those to ask for, and those of the phase."""
LATENCY, LOW, HIGH, RATE, _ = TOTALS = within(_totals, shared.TOTALS)
TRUST = within(_totals, shared.TRUST)
MEMORY, CAPACITY, _ = within(_memory, shared.MEMORY)
FITS: Field[Answer] = Field("fits", "", "", lambda answer: answer.prediction is not None)
ANSWER: tuple[Field[Answer], ...] = (GOAL, PHASE, *SIZES, LIMIT, *TOTALS, *TRUST, MEMORY, CAPACITY, FITS)
"""The fields of an answer, after the choice's. Without a prediction there are no figures."""


def _range(answer: Answer) -> str:
    if answer.prediction is None:
        return NOTHING
    return " to ".join(format_quantity(field.get(answer), "s") for field in (LOW, HIGH))


RANGE: Field[Answer] = Field("", "range", "", _range)
COLUMNS: tuple[Field[Answer], ...] = (
    PHASE, GOAL, BATCH, NEW, CACHED, dataclasses.replace(LATENCY, unit="own s"), RANGE, RATE,
    dataclasses.replace(MEMORY, unit="own B"), LIMIT,
)  # fmt: skip
"""What the table shows: answers differ in size, so that each has its own prefix."""
NARROW = (PHASE, GOAL, BATCH, dataclasses.replace(NEW, header="new"), CACHED, RANGE, RATE)
"""What it shows where the page is narrow."""

# ---------------------------------------------------------------------------------------------- the view


def _rows(capacity: Capacity) -> list[Record]:
    choice, impl = (record_of(fields, capacity.choice) for fields in (shared.CHOICE, (shared.IMPL,)))
    limit, positions = {"max_latency_s": capacity.max_latency_s}, capacity.choice.model.n_positions

    def of(answer: Answer) -> Record:
        """Where nothing fits, there is still a device that it does not fit."""
        usable = {"capacity_bytes": round(capacity.choice.hardware.memory.usable_bytes)}
        return {**record_of(ANSWER, answer), **usable, "valid": bool(answer.sizes.kv_len <= positions)}

    return [{**choice, **limit, **of(answer), **impl} for answer in capacity.answers]


def _document(capacity: Capacity) -> Record:
    choice = capacity.choice
    asked = shared.asked(capacity.sizes, capacity.phase, choice.how)
    return {
        **envelope(choice.model, choice.hardware),
        "settings": {**asked, "max_latency_s": capacity.max_latency_s},
        "positions": choice.model.n_positions,
        "answers": _rows(capacity),
    }


def _heading(capacity: Capacity) -> str:
    return asked_text(capacity, f" on {capacity.choice.hardware.name}")


def asked_text(capacity: Capacity, where: str = "") -> str:
    """What was asked, of a device or of several."""
    how, limit = capacity.choice.how, capacity.max_latency_s
    bound = "" if limit is None else f", latency up to {format_quantity(limit, 's')}"
    return f"{capacity.choice.model.name}{where}, {how.dtype}, {how.attn}, {how.runtime}{shared.code_text(how)}{bound}"


def _text(page: Page, capacity: Capacity) -> None:
    """The answers, a line each, and what limits them."""
    page.line(f"{_heading(capacity)}\n")
    page.fields(capacity.answers, COLUMNS, (*NARROW, LIMIT), NARROW)
    explain_positions(page, capacity)


def explain_positions(page: Page, capacity: Capacity) -> None:
    """What the limit is, where the positions are one."""
    if any(answer.limited_by == "positions" for answer in capacity.answers):
        positions = capacity.choice.model.n_positions
        page.line(f"\npositions: the model has learned {positions} positions and cannot run beyond them")


def _summary(capacity: Capacity) -> tuple[str, str]:
    largest = (answer for answer in capacity.answers if answer.goal == "largest batch")
    sizes = (f"{answer.phase} {answer.sizes.batch_size:,} ({answer.limited_by})" for answer in largest)
    return f"<Capacity of {_heading(capacity)}:", f" largest batch: {', '.join(sizes)}>"


VIEWS: dict[type, View[Any]] = {Capacity: View(_rows, _document, _text, _summary)}
