"""Comparisons as rows and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from textwrap import shorten
from typing import Any, get_args

from gpt2cost.output import shared
from gpt2cost.output.field import Field, Record, attribute, attributes, record_of, within
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.prediction.compare import WAITING, Candidate, Comparison, Crossover, seconds_by_kind
from gpt2cost.prediction.predict import Phase, Prediction
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
    def prediction(self) -> Prediction:
        return self.candidate.prediction

    def first_crossover(self, *axes: str) -> int | None:
        """The smallest size at which the ranking against the first candidate turns, along one of the axes."""
        pair, phase = {self.comparison.candidates[0].label, self.candidate.label}, self.phase.phase
        turns = (turn for turn in self.comparison.crossovers if {turn.before, turn.after} == pair)
        return min((turn.size for turn in turns if turn.phase == phase and turn.axis in axes), default=None)


# ---------------------------------------------------------------------------------------------- fields

LABEL = attribute("label", of="candidate")
CHOICE = within(attrgetter("prediction"), shared.CHOICE)
(IMPL,) = within(attrgetter("prediction"), (shared.IMPL,))
NAMES = (*CHOICE[:5], IMPL)
"""What candidates may differ in."""
TRUST = within(attrgetter("phase.totals"), shared.TRUST)
LATENCY, LOW, HIGH, RATE, BOUND = within(attrgetter("phase.totals"), shared.TOTALS)
MEMORY, CAPACITY, FITS = within(attrgetter("prediction.memory"), shared.MEMORY)
RATIO: Field[Compared] = Field("latency_ratio", "ratio", "x", lambda row: LATENCY.get(row) / row.first.totals.latency_s)
"""The latency over the first candidate's."""
VALID: Field[Compared] = Field("valid", "", "", lambda row: row.phase.kv_len <= row.prediction.model.n_positions)
MARKS: Field[Compared] = Field(
    "", "", "", lambda row: ("" if FITS.get(row) else "does not fit ") + ("" if VALID.get(row) else "*")
)
FIGURES: tuple[Field[Compared], ...] = (
    LABEL, *CHOICE, *TRUST, *attributes(*shared.SIZES, of="comparison.sizes"), *shared.PASS,
    LATENCY, LOW, HIGH, *attributes("device_s", "host_s", of="phase.totals"), RATE, BOUND,
    *attributes("flops", "read_bytes", "write_bytes", "launches", of="phase.totals"), MEMORY, CAPACITY, FITS, VALID,
    RATIO,
)  # fmt: skip


def _seconds(kind: str) -> Field[Compared]:
    return Field(f"{kind}_s", kind, "", lambda row: row.seconds.get(kind, 0.0))


SECONDS = tuple(map(_seconds, KINDS))
"""They sum to the latency."""
CROSSOVERS: tuple[Field[Compared], ...] = (
    Field("crossover_batch", "", "", lambda row: row.first_crossover("batch_size")),
    Field("crossover_context", "", "", lambda row: row.first_crossover("seq_len", "cache_len")),
)
FIELDS = (*FIGURES, *SECONDS, *CROSSOVERS, IMPL)
"""The fields of every flat row."""
SHOWN = (LABEL, LATENCY, RATIO, LOW, HIGH, RATE, MEMORY, BOUND)
WORD = dataclasses.replace(TRUST[0], header="trust")
LAYOUTS = (
    (*SHOWN, WORD, MARKS),
    (*(field for field in SHOWN if field is not MEMORY), WORD, MARKS),
    (LABEL, LATENCY, RATIO, LOW, HIGH, BOUND, WORD, MARKS),
    (LABEL, LATENCY, RATIO, BOUND, WORD, MARKS),
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
    return {
        **envelope(first.choice.model, first.choice.hardware),
        "settings": shared.asked(comparison.sizes, comparison.phase, first.choice.how),
        "first": first.label,
        "phases": [
            {"phase": rows[0].phase.phase, "candidates": list(map(_nested, rows))} for rows in _compared(comparison)
        ],
        "crossovers": list(map(dataclasses.asdict, comparison.crossovers)),
    }


def _nested(row: Compared) -> Record:
    """A row with its seconds by kind as one mapping."""
    seconds = {field.header: field.get(row) for field in SECONDS}
    return {**record_of((*FIGURES, *CROSSOVERS, IMPL), row), "seconds_by_kind": seconds}


def _text(page: Page, comparison: Comparison) -> None:
    """A table per phase, where the time goes by kind, and where the ranking changes."""
    for rows in _compared(comparison):
        phase = rows[0].phase
        common = [field.get(rows[0]) for field in NAMES if len({field.get(row) for row in rows}) == 1]
        common = [name for name in common if name != "hf"]  # goes without saying
        page.line(f"{phase.phase}: {shared.sizes_text(phase)}; {', '.join(common)}\n", style="bold")
        page.fields(rows, *LAYOUTS)
        page.line(f"\nwhere the time goes, and the difference from {LABEL.get(rows[0])}\n")
        _by_kind(page, rows)
        page.line()
    for crossover in comparison.crossovers:
        page.line(_crossover(crossover))
    if not comparison.crossovers:
        page.line("the ranking is the same at every batch size and sequence length")
    shared.repeat_warnings(page, comparison.warnings)


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
    page.beside([*lines, LATENCY], attribute("header", "kind"), [seconds, *map(difference, others)])


def _summary(comparison: Comparison) -> tuple[str, str]:
    labels = shorten(", ".join(candidate.label for candidate in comparison.candidates), 120, placeholder=" ...")
    ratios = (
        f"{rows[0].phase.phase} {' '.join(f'{RATIO.get(row):.2f}x' for row in rows)}" for rows in _compared(comparison)
    )
    return f"<Comparison of {labels}:", f" {shorten(', '.join(ratios), 120, placeholder=' ...')}>"


VIEWS: dict[type, View[Any]] = {Comparison: View(_rows, _document, _text, _summary)}
