"""What is known of the devices that the tool is made for, as rows and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpt2cost.measure.trust_table import WORKS, Known, Line, family_of, never_measured
from gpt2cost.output.field import Field, Record, attributes, record_of
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.prediction.trust import MEANING

KNOWN = attributes("word", "source", "low", "high", "passes", "error")
"""What is known of a kind of pass on a device."""


def _rows(lines: Sequence[Line]) -> Iterator[Record]:
    """A row for each device and kind of pass."""
    for line in lines:
        for name, each in zip(line.devices, line.each, strict=True):
            for work, known in zip(WORKS, each, strict=True):
                yield {"gpu": name, "work": work.name, **record_of(KNOWN, known)}


def _document(lines: Sequence[Line]) -> Record:
    return {**envelope(), "known": list(_rows(lines)), "never_measured": never_measured(lines), "trust": dict(MEANING)}


def _cell(known: Known) -> str:
    if known.error is not None:
        return f"{known.word} {known.error:.1%} ({known.passes})"
    if known.same_range:
        return f"{known.word} {known.low:+.0%} {known.high:+.0%}"
    return f"{known.word} up to {max(-known.low, known.high):+.0%}"


def _work(number: int) -> Field[Line]:
    return Field(WORKS[number].name, WORKS[number].name, "", lambda line: _cell(line.known[number]))


def _several(names: Sequence[str]) -> str:
    first, *others = names
    return f"{first} and {len(others)} more" if others else first


DEVICE: Field[Line] = Field("gpu", "device", "", lambda line: _several(line.devices))


def _text(page: Page, lines: Sequence[Line]) -> None:
    """A line a device, who lends, what was never measured, and what the words mean."""
    page.fields(lines, (DEVICE, *map(_work, range(len(WORKS)))))
    if lenders := list(_lenders(lines)):
        page.line("\nborrowed, or measured on another machine:")
    for sentence in (*lenders, "", *_never(lines)):
        page.line(sentence)
    page.line("")
    if example := next((known for line in lines for known in line.known if known.error is not None), None):
        page.line(
            f"{example.error:.1%} ({example.passes}): mean absolute error of whole passes that were measured (how many)"
        )
    page.line("ranges, also of several devices: gpt2-large, eager; 8 x 1024, or 1 on 512 cached")
    for word, meaning in MEANING.items():
        page.line(f"{word}: {meaning}")


def _lenders(lines: Sequence[Line]) -> Iterator[str]:
    """A line for each kind of pass and lender: who borrows, and what host was measured elsewhere."""
    borrowers: dict[tuple[str, str], list[str]] = {}
    for row in _rows(lines):
        if row["word"] in ("borrowed", "measured") and row["source"] != row["gpu"]:
            lender = row["source"].replace(f"{row['gpu']} in", "the same device in")
            of = "from" if row["word"] == "borrowed" else "on"
            borrowers.setdefault((row["work"], f"{of} {lender}"), []).append(row["gpu"])
    for work in WORKS:
        for (name, lender), names in borrowers.items():
            if name == work.name:
                yield f"{name}, {_several(names)}: {lender}"


def _never(lines: Sequence[Line]) -> Iterator[str]:
    """What was never measured, a sentence for each kind of pass."""
    for work, names in never_measured(lines).items():
        families = {name: family_of(name) or name for line in lines for name in line.devices}
        measured = {family for name, family in families.items() if name not in names}
        never = [family for family in dict.fromkeys(families.values()) if family not in measured]
        if never:
            yield f"never measured: {work} on any {', '.join(never)}"


TRUST: View[Sequence[Line]] = View(_rows, _document, _text)
"""`gpt2cost accuracy --trust`."""
