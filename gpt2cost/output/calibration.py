"""A calibration by its residuals. A room of its own, because what fits needs scipy, and what scores does not."""

from __future__ import annotations

from typing import Any

from gpt2cost.calibration.calibrate import Calibrated
from gpt2cost.output.accuracy import RESIDUALS
from gpt2cost.output.record import View

CALIBRATED: View[Calibrated] = View(
    rows=lambda calibrated: RESIDUALS.rows(calibrated.residuals),
    document=lambda calibrated: RESIDUALS.document(calibrated.residuals),
    text=lambda page, calibrated: RESIDUALS.text(page, calibrated.residuals),
    summary=lambda calibrated: (
        f"<Calibrated {calibrated.hardware.name}:",
        f" {len(calibrated.residuals)} kinds of kernels, {len(calibrated.warnings)} warnings>",
    ),
)
VIEWS: dict[type, View[Any]] = {Calibrated: CALIBRATED}
