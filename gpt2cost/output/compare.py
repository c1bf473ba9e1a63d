"""Comparisons as rows and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, get_args

from gpt2cost.device.hardware import Hardware
from gpt2cost.output.page import Page
from gpt2cost.output.record import (
    Field,
    Record,
    View,
    attribute,
    calibration,
    envelope,
    record_of,
    sizes_record,
    what_if,
    within,
)
from gpt2cost.prediction.compare import WAITING, Candidate, Comparison, Crossover, seconds_by_kind
from gpt2cost.prediction.predict import Phase
from gpt2cost.prediction.settings import How
from gpt2cost.table.config import Model
from gpt2cost.table.kernel import Kind
from gpt2cost.units import scale_for

KINDS = (*get_args(Kind), WAITING)
"""Where a pass's latency goes, in the order in which it is shown."""


@dataclass(frozen=True)
class Compared:
    """One row: a phase of a candidate, beside the same phase of the first one."""

    comparison: Comparison
    candidate: Candidate
    phase: Phase
    first: Phase
    seconds: dict[str, float]  # of the phase by kernel kind

    @property
    def model(self) -> Model:
        return self.candidate.choice.model

    @property
    def hardware(self) -> Hardware:
        return self.candidate.choice.hardware

    @property
    def how(self) -> How:
        return self.candidate.prediction.how

    def first_crossover(self, *axes: str) -> int | None:
        """The smallest size at which the ranking against the first candidate turns, along one of the axes."""
        pair = {self.comparison.candidates[0].label, self.candidate.label}
        sizes = (
            crossover.size
            for crossover in self.comparison.crossovers
            if crossover.phase == self.phase.phase
            and crossover.axis in axes
            and {crossover.before, crossover.after} == pair
        )
        return min(sizes, default=None)


# ---------------------------------------------------------------------------------------------- fields

CHOICE: tuple[Field[Any], ...] = (
    Field("model", "", "", lambda row: row.model.name),
    Field("gpu", "", "", lambda row: row.hardware.name),
    *within(lambda row: row.how, map(attribute, ("dtype", "attn", "runtime", "logits", "use_cache"))),
)
"""What a row with a model, a device and a way of running it is of."""
LABEL: Field[Compared] = Field("label", "", "", lambda row: row.candidate.label)
CONSTANTS: Field[Compared] = Field("calibration", "constants", "", lambda row: calibration(row.hardware, row.how.dtype))
SIZES = within(lambda row: row.phase, map(attribute, ("phase", "batch_size", "seq_len", "cache_len", "kv_len")))
LATENCY, LOW, HIGH, DEVICE_S, HOST_S, RATE, BOUND, FLOPS, LAUNCHES = within(
    lambda row: row.phase.totals,
    (
        attribute("latency_s", "latency", "s"), attribute("latency_low_s", "low", "s"),
        attribute("latency_high_s", "high", "s"), attribute("device_s"), attribute("host_s"),
        attribute("tokens_per_s", "tokens/s", ","), attribute("bound", "bound"), attribute("flops"),
        attribute("launches"),
    ),
)  # fmt: skip
MOVED: Field[Compared] = Field(
    "moved_bytes", "", "", lambda row: row.phase.totals.read_bytes + row.phase.totals.write_bytes
)
MEMORY, CAPACITY, FITS = within(
    lambda row: row.candidate.prediction.memory,
    (attribute("total_bytes", "memory", "B"), attribute("capacity_bytes"), attribute("fits")),
)
VALID: Field[Compared] = Field("valid", "", "", lambda row: row.phase.kv_len <= row.model.n_positions)
RATIO: Field[Compared] = Field(
    "latency_ratio", "ratio", "x", lambda row: row.phase.totals.latency_s / row.first.totals.latency_s
)
"""The latency over the first candidate's."""
MARKS: Field[Compared] = Field(
    "", "", "", lambda row: ("" if FITS.get(row) else "does not fit ") + ("" if VALID.get(row) else "*")
)
FIGURES: tuple[Field[Compared], ...] = (
    LABEL, *CHOICE, CONSTANTS, *SIZES, LATENCY, LOW, HIGH, DEVICE_S, HOST_S, RATE, BOUND, FLOPS, MOVED, LAUNCHES,
    MEMORY, CAPACITY, FITS, VALID, RATIO,
)  # fmt: skip


def _seconds(kind: str) -> Field[Compared]:
    return Field(f"{kind}_s", kind, "", lambda row: row.seconds.get(kind, 0.0))


SECONDS = tuple(map(_seconds, KINDS))
"""They sum to the latency."""
CROSSOVERS: tuple[Field[Compared], ...] = (
    Field("crossover_batch", "", "", lambda row: row.first_crossover("batch_size")),
    Field("crossover_context", "", "", lambda row: row.first_crossover("seq_len", "cache_len")),
)
FIELDS = (*FIGURES, *SECONDS, *CROSSOVERS)
"""The fields of every flat row."""
LAYOUTS = (
    (LABEL, LATENCY, RATIO, LOW, HIGH, RATE, MEMORY, BOUND, CONSTANTS, MARKS),
    (LABEL, LATENCY, RATIO, LOW, HIGH, RATE, MEMORY, BOUND, MARKS),
    (LABEL, LATENCY, RATIO, RATE, BOUND, MARKS),
)
"""What the table shows, the fullest layout first."""


def _compared(comparison: Comparison) -> list[list[Compared]]:
    """The candidates' rows, phase by phase."""
    return [
        [
            Compared(comparison, candidate, phase, first, seconds_by_kind(phase))
            for candidate in comparison.candidates
            for phase in [candidate.prediction.phases[number]]
        ]
        for number, first in enumerate(comparison.candidates[0].prediction.phases)
    ]


# ---------------------------------------------------------------------------------------------- the view


def _rows(comparison: Comparison) -> list[Record]:
    return [record_of(FIELDS, row) for rows in _compared(comparison) for row in rows]


def _document(comparison: Comparison) -> Record:
    first = comparison.candidates[0]
    how = first.choice.how
    return {
        **envelope(),
        "settings": {
            **sizes_record(comparison.sizes), "phase": comparison.phase, "logits": how.logits,
            "use_cache": how.use_cache,
        },
        **what_if(first.choice.model, first.choice.hardware),
        "first": first.label,
        "phases": [
            {"phase": rows[0].phase.phase, "candidates": list(map(_nested, rows))} for rows in _compared(comparison)
        ],
        "crossovers": list(map(dataclasses.asdict, comparison.crossovers)),
    }  # fmt: skip


def _nested(row: Compared) -> Record:
    """A row with its seconds by kind as one mapping."""
    seconds = {field.header: field.get(row) for field in SECONDS}
    return {**record_of((*FIGURES, *CROSSOVERS), row), "seconds_by_kind": seconds}


def _text(page: Page, comparison: Comparison) -> None:
    """A table per phase, where the time goes by kind, and where the ranking changes."""
    for rows in _compared(comparison):
        phase = rows[0].phase
        sizes = f"{phase.batch_size} x {phase.seq_len} new tokens on {phase.cache_len} cached"
        shared = [field.get(rows[0]) for field in CHOICE[:5] if len({field.get(row) for row in rows}) == 1]
        page.line(f"{phase.phase}: {sizes}; {', '.join(shared)}\n", style="bold")
        page.fields(rows, *LAYOUTS)
        page.line(f"\nwhere the time goes, and the difference from {LABEL.get(rows[0])}\n")
        _by_kind(page, rows)
        page.line()
    for crossover in comparison.crossovers:
        page.line(_crossover(crossover))
    if not comparison.crossovers:
        page.line("the ranking is the same at every batch size and sequence length")


def _crossover(crossover: Crossover) -> str:
    axis = {"batch_size": "batch size", "seq_len": "sequence length", "cache_len": "cache length"}[crossover.axis]
    full = "" if crossover.fits else " (which does not fit the memory)"
    faster = f"{crossover.after} is faster than {crossover.before}"
    return f"{crossover.phase}: from {axis} {crossover.size}{full} on {faster}"


def _by_kind(page: Page, rows: Sequence[Compared]) -> None:
    """A line per kernel kind: the first candidate's seconds, and what each other one adds or saves."""
    divisor, unit = scale_for([LATENCY.get(row) for row in rows], "s")
    lines = [field for field in SECONDS if any(map(field.get, rows))]
    first, *others = rows

    def difference(row: Compared) -> Field[Field[Compared]]:
        return Field("", LABEL.get(row), "+.", lambda line: (line.get(row) - line.get(first)) / divisor)

    seconds: Field[Field[Compared]] = Field(
        "", f"{LABEL.get(first)} {unit}", ".", lambda line: line.get(first) / divisor
    )
    page.fields([*lines, LATENCY], (attribute("header", "kind"), seconds, *map(difference, others)))


def _summary(comparison: Comparison) -> tuple[str, ...]:
    labels = shorten(", ".join(candidate.label for candidate in comparison.candidates), 120, placeholder=" ...")
    ratios = (
        f"{rows[0].phase.phase} {' '.join(f'{RATIO.get(row):.2f}x' for row in rows)}" for rows in _compared(comparison)
    )
    return f"<Comparison of {labels}:", f" {shorten(', '.join(ratios), 120, placeholder=' ...')}>"


COMPARISON: View[Comparison] = View(_rows, _document, _text, _summary)
VIEWS: dict[type, View[Any]] = {Comparison: COMPARISON}
