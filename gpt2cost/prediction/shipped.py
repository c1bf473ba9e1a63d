"""The errors of measured passes that ship with the tool, so that no measured pass is predicted when a user predicts.

`python tests/regenerate.py` writes them (see `measure.residuals`), and a test compares.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.trust import Regime

RESIDUALS_FILE = Path(__file__).with_name("residuals.json")

Pace: TypeAlias = Literal["device", "host", "both"]
Level: TypeAlias = Literal["measured", "calibrated", "borrowed", "host"]


@dataclass(frozen=True)
class Residual:
    """log(measured / predicted) of a measured pass, or log of its host factor; `box`: where it was measured.

    `level`: what the prediction rested on, see `ranges`.
    """

    level: Level
    gpu: str
    source: str
    box: str
    value: float


@dataclass(frozen=True)
class Verdict:
    """What a measured case of a device says: whose pace it is, and log(measured / predicted).

    `whole`: it is a whole pass, and no part of one or sum of kernels.
    """

    regime: Regime
    pace: Pace
    residual: float
    source: str
    box: str
    whole: bool


@dataclass(frozen=True)
class Shipped:
    """The content of `residuals.json`: residuals of all devices, and by name and fingerprint each device's verdicts."""

    residuals: tuple[Residual, ...]
    verdicts: dict[tuple[str, str], tuple[Verdict, ...]]


@cache
def shipped() -> Shipped:
    """What ships."""
    content = json.loads(RESIDUALS_FILE.read_text("utf-8"))
    verdicts = {
        (name, of): tuple(Verdict(Regime(*regime), *rest) for regime, *rest in rows)
        for name, of, rows in content["verdicts"]
    }
    return Shipped(tuple(Residual(*row) for row in content["residuals"]), verdicts)


@lru_cache(maxsize=64)
def fingerprint(hw: Hardware) -> str:
    """Tells a device from one of its name with other constants or other evidence."""
    return f"{zlib.crc32(repr(dataclasses.asdict(hw)).encode()):08x}"


def shipped_text(residuals: list[Residual], verdicts: dict[tuple[str, str], tuple[Verdict, ...]]) -> str:
    """The content of the file, a line each."""
    lines = [json.dumps(row) for row in sorted(map(dataclasses.astuple, residuals))]
    own = [json.dumps([*key, list(map(dataclasses.astuple, rows))]) for key, rows in sorted(verdicts.items())]
    return '{"residuals": [\n' + ",\n".join(lines) + '\n], "verdicts": [\n' + ",\n".join(own) + "\n]}\n"
