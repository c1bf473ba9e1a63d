"""What is known of the devices that the tool is made for, as rows and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpt2cost.measure.trust_table import MISSION, WORKS, Known, Line, never_measured
from gpt2cost.output.field import Field, Record, attributes, record_of
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.output.shared import trust_text
from gpt2cost.prediction.trust import MEANING

KNOWN = attributes("word", "source", "low", "high", "passes", "error")
"""A cell of the table."""


def _rows(lines: Sequence[Line]) -> Iterator[Record]:
    """A row for each device and kind of pass."""
    for line in lines:
        for name, each in zip(line.devices, line.each, strict=True):
            for work, known in zip(WORKS, each, strict=True):
                yield {"gpu": name, "work": work.name, **record_of(KNOWN, known)}


def _document(lines: Sequence[Line]) -> Record:
    return {**envelope(), "known": list(_rows(lines)), "never_measured": never_measured(lines), "trust": dict(MEANING)}


def _cell(known: Known, named: bool) -> str:
    word = trust_text(known.word, known.source) if named else known.word
    if known.error is None:
        return f"{word}, {known.low:+.0%} {known.high:+.0%}"
    return f"{word}, {known.error:.1%} off ({known.passes})"


def _work(number: int, named: bool) -> Field[Line]:
    return Field(WORKS[number].name, WORKS[number].name, "", lambda line: _cell(line.known[number], named))


def _devices(line: Line) -> str:
    first, *others = line.devices
    return f"{first} and {len(others)} more" if others else first


def _text(page: Page, lines: Sequence[Line]) -> None:
    """A line a device, what was never measured, and what the words mean."""
    device: Field[Line] = Field("gpu", "device", "", _devices)
    page.fields(lines, *((device, *(_work(number, named) for number in range(len(WORKS)))) for named in (True, False)))
    page.line()
    for sentence in sentences(lines):
        page.line(sentence)
    page.line("\noff: mean absolute error of the passes that were measured (how many)")
    page.line("ranges are of gpt2-large, eager: a prefill of 8 x 1024, a decode step of 1 on 512 cached")
    for word, meaning in MEANING.items():
        page.line(f"{word}: {meaning}")


def sentences(lines: Sequence[Line]) -> Iterator[str]:
    """What was never measured, a sentence for each kind of pass."""
    for work, names in never_measured(lines).items():
        measured = [name for line in lines for name in line.devices if name not in names]
        families = [start for start in MISSION if not any(_is_of(start, name) for name in measured)]
        if families:
            yield f"never measured: a pass of {work} on any {', '.join(families)}"


def _is_of(start: str, name: str) -> bool:
    return name == start or name.startswith(f"{start}-")


TRUST: View[Sequence[Line]] = View(_rows, _document, _text)
"""`gpt2cost accuracy --trust`."""
