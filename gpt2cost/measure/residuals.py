"""The errors of measured passes that were left out: what the ranges of `prediction.ranges` rest on.

`python tests/regenerate.py` writes them to the file that ships; nothing of this runs when a user predicts.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gpt2cost.device.catalog import list_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.measure.records import grouped
from gpt2cost.prediction.cases import Case, box_of, evidence_cases, verdict_of
from gpt2cost.prediction.shipped import Level, Residual, fingerprint, shipped_text
from gpt2cost.prediction.trust import Regime, device_trust


@dataclass(frozen=True)
class Transfer:
    """A device's measured passes in one dtype, predicted with another device's fitted constants."""

    gpu: str
    donor: str
    dtype: str
    errors: tuple[float, ...]

    @property
    def mean_absolute_error(self) -> float:
        return statistics.fmean(map(abs, self.errors))

    @property
    def signed_mean_error(self) -> float:
        return statistics.fmean(self.errors)


def leave_one_out(of: Iterable[Hardware] | None = None) -> list[Transfer]:
    """Predict device-bound evidence as if its device's own fit did not exist: with every other device's constants.

    Donors are the devices whose constants for the dtype were measured on their own chip.
    """
    devices, results = list_hardware(), []
    for hw in of or devices:
        cases = [case for case in evidence_cases(hw, hw.evidence) if case.pace == "device"]
        for dtype, in_dtype in grouped(cases, lambda case: case.row.dtype).items():
            for donor in donors(hw, in_dtype[0].regime, devices):
                errors = tuple(math.exp(-case.residual) - 1.0 for case in with_constants_of(donor, hw, in_dtype))
                results.append(Transfer(hw.name, donor.name, dtype, errors))
    return results


def donors(hw: Hardware, regime: Regime, devices: Iterable[Hardware]) -> Iterator[Hardware]:
    """The other devices of a vendor whose constants for a regime are their own."""
    for donor in devices:
        same_kind = donor.vendor == hw.vendor and isinstance(donor.model, type(hw.model))
        if same_kind and donor.model != hw.model and device_trust(donor, regime).word == "calibrated":
            yield donor


def with_constants_of(donor: Hardware, hw: Hardware, cases: Sequence[Case]) -> list[Case]:
    """The cases of a device, predicted with another one's constants."""
    return evidence_cases(dataclasses.replace(hw, model=donor.model), [case.row for case in cases])


def left_out_residuals(devices: Iterable[Hardware] | None = None) -> list[Residual]:
    """The residuals of all measured passes, each as if its source, its device or its box did not exist."""
    devices = list(devices or list_hardware())
    return [residual for hw in devices for residual in _of_device(hw, devices)]


def _of_device(hw: Hardware, devices: Sequence[Hardware]) -> Iterator[Residual]:
    cases = evidence_cases(hw, hw.evidence)
    for case in cases:
        if case.host_factor is not None:
            yield _residual("host", hw, case, math.log(case.host_factor))
    on_device = [case for case in cases if case.pace == "device"]
    for regime, alike in grouped(on_device, lambda case: case.regime).items():
        word = device_trust(hw, regime).word
        for case in alike:
            if not case.fitted:
                yield _residual("calibrated" if word == "calibrated" else "borrowed", hw, case, case.residual)
            if case.row.whole and (others := _others(case, on_device)):
                yield _residual("measured", hw, case, _beyond(case.residual, others))
        lenders = list(donors(hw, regime, devices))
        kin = [donor for donor in lenders if donor.architecture == hw.architecture]
        for donor in kin or lenders:
            for case in with_constants_of(donor, hw, alike):
                yield _residual("borrowed", hw, case, case.residual)


def _residual(level: Level, hw: Hardware, case: Case, value: float) -> Residual:
    return Residual(level, hw.name, case.row.source, box_of(case.row), round(value, 4))


def _others(case: Case, cases: Sequence[Case]) -> list[float]:
    """The residuals of the whole passes of a regime of other sources; where there is one source, of other work or
    runtimes."""
    alike = [other for other in cases if other.row.whole and other.regime.on_device == case.regime.on_device]
    foreign = [other.residual for other in alike if other.row.source != case.row.source]
    return foreign or [other.residual for other in alike if _work(other) != _work(case)]


def _work(case: Case) -> tuple[str, str, str, str]:
    row = case.row
    return row.model, str(sorted(row.config.items())), row.part, row.runtime


def _beyond(value: float, others: Sequence[float]) -> float:
    """How far a residual lies beyond the span of others and of 0."""
    return max(value - max(0.0, *others), min(0.0, *others) - value, 0.0)


def residuals_text(devices: Iterable[Hardware] | None = None) -> str:
    """The content of the file that ships."""
    devices = list(devices or list_hardware())
    verdicts = {
        (hw.name, fingerprint(hw)): tuple(map(verdict_of, evidence_cases(hw, hw.evidence)))
        for hw in devices
        if hw.evidence
    }
    return shipped_text(left_out_residuals(devices), verdicts)
