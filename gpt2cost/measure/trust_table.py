"""Devices beside what is known of them: prefill in fp32 and in 16 bit, and decode, with a word and an error each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpt2cost.device.catalog import list_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.measure.score import Scored, score_evidence
from gpt2cost.prediction.predict import predict
from gpt2cost.prediction.settings import check_device, check_how
from gpt2cost.prediction.trust import Regime

MISSION = ("a100", "h100", "rtx4090", "m1", "m2", "m3", "m4")
"""With what the names of the devices begin that the tool is made for."""


@dataclass(frozen=True)
class Work:
    """A kind of pass, and one of its kind that is predicted: of gpt2-large, eager, with `sdpa` attention."""

    name: str
    dtypes: tuple[str, ...]
    decode: bool
    batch: int
    seq: int
    cache: int

    def holds(self, regime: Regime) -> bool:
        """Whether a measured pass is of this kind."""
        return regime.dtype in self.dtypes and regime.decode == self.decode


WORKS = (
    Work("fp32 prefill", ("fp32",), False, 8, 1024, 0),
    Work("16-bit prefill", ("fp16", "bf16"), False, 8, 1024, 0),
    Work("16-bit decode", ("fp16", "bf16"), True, 1, 1, 512),
)


@dataclass(frozen=True)
class Known:
    """What is known of a kind of pass on a device: the word of a prediction, its range relative to it, and the mean
    absolute error of the whole passes that were measured there (None where none was).

    Of several devices together the range is the widest, and `same_range` says whether it is that of each.
    """

    word: str
    source: str
    low: float
    high: float
    passes: int
    error: float | None
    same_range: bool = True


@dataclass(frozen=True)
class Line:
    """Devices that are known alike, each with what is known of it: a `Known` for each of `WORKS`."""

    devices: tuple[str, ...]
    each: tuple[tuple[Known, ...], ...]

    @property
    def known(self) -> tuple[Known, ...]:
        """Of all of them together."""
        return tuple(map(_of_all, zip(*self.each, strict=True)))


def _of_all(alike: Sequence[Known]) -> Known:
    sources, ranges = {cell.source for cell in alike}, {(cell.low, cell.high) for cell in alike}
    low, high = min(cell.low for cell in alike), max(cell.high for cell in alike)
    source = alike[0].source if len(sources) == 1 else "others"
    return replace(alike[0], source=source, low=low, high=high, same_range=len(ranges) == 1)


def family_of(name: str) -> str | None:
    """What of `MISSION` a device is, or a variant of; None for another."""
    return next((start for start in MISSION if name == start or name.startswith(f"{start}-")), None)


def trust_table(devices: Iterable[Hardware] | None = None) -> list[Line]:
    """A line for each of some devices, or for several that are known alike.

    By default for those of the mission, without variants.
    """
    chosen = list(devices or [])
    if devices is None:
        everything = list_hardware()
        variants = {name for hw in everything for name in hw.variants}
        chosen = [hw for hw in everything if family_of(hw.name) and hw.name not in variants]
    scored = score_evidence([hw for hw in chosen if hw.evidence])
    lines: dict[object, list[tuple[str, tuple[Known, ...]]]] = {}
    for hw in chosen:
        known = tuple(_known(hw, work, scored) for work in WORKS)
        family = hw.vendor if hw.vendor == "apple" else hw.name.partition("-")[0]
        alike = family, tuple((cell.word, cell.passes, cell.error) for cell in known)
        lines.setdefault(alike, []).append((hw.name, known))
    return [Line(*zip(*members, strict=True)) for members in lines.values()]


def _known(hw: Hardware, work: Work, scored: Sequence[Scored]) -> Known:
    how = check_how(work.dtypes[0], "sdpa", "eager")
    check_device(hw, how)
    own = [
        case
        for case in scored
        if case.hardware.name == hw.name and work.holds(case.case.regime) and case.case.row.whole
    ]
    phase = predict(
        "gpt2-large", hw, batch=work.batch, seq=work.seq, cache=work.cache, dtype=how.dtype, phase="prefill"
    ).phases[0]
    totals = phase.totals
    error = float(np.mean([abs(case.error) for case in own])) if own else None
    low, high = (round(end / totals.latency_s - 1, 2) for end in (totals.latency_low_s, totals.latency_high_s))
    return Known(str(totals.trust), str(totals.trust_from), low, high, len(own), error)


def never_measured(lines: Sequence[Line]) -> dict[str, list[str]]:
    """Kind of pass -> the devices on which none of that kind was ever measured."""
    return {
        work.name: [name for line in lines if not line.known[number].passes for name in line.devices]
        for number, work in enumerate(WORKS)
    }
