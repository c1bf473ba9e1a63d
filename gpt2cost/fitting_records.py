"""How well a fit reproduces what it was fitted on, as plain rows: the output fields of `gpt2cost calibrate`."""

from __future__ import annotations

from gpt2cost.fitting import FitResidual
from gpt2cost.records import Record


def residual_record(residual: FitResidual) -> Record:
    """One kind of kernel. Errors are of log(predicted / measured): 0.05 is 5 %."""
    return {
        "kind": residual.kind,
        "count": residual.count,
        "median_error": residual.median_error,
        "p90_error": residual.p90_error,
        "bias_error": residual.bias,
    }
