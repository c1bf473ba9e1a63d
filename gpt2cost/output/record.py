"""What every output shares: the envelope of a document, and its conventions."""

from __future__ import annotations

from typing import Any, TypeAlias

from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.ranges import spread
from gpt2cost.version import __version__

SCHEMA_VERSION = 1


FLOPS_CONVENTION = "1 FMA = 2 FLOPs"


Record: TypeAlias = dict[str, Any]


def envelope() -> Record:
    """What every JSON document begins with."""
    return {"schema_version": SCHEMA_VERSION, "gpt2cost_version": __version__}


def calibration(hardware: Hardware, dtype: str | None = None) -> str:
    """`calibrated` where whole passes measured on the device (in this dtype) are in its file, or kernels were by
    `gpt2cost calibrate`; else `uncalibrated`."""
    known = () if hardware.calibration is None or hardware.changes else hardware.calibration.residuals
    if dtype is None:
        measured = bool(hardware.evidence or known)
    else:
        measured = spread(hardware, dtype).basis == "evidence" or any(kind.endswith(dtype) for kind in known)
    return "calibrated" if measured else "uncalibrated"
