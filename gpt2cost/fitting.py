"""What a fit of constants reports: how far it is from what it was fitted on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpt2cost.terms import Array


@dataclass(frozen=True)
class FitResidual:
    """How far the fitted device is from the records of one kind, such as `gemm fp16`, in log(predicted / measured).

    `median_error` and `p90_error` are of its absolute value; `bias` is its median: above 0 is predicted too slow.
    """

    kind: str
    count: int
    median_error: float
    p90_error: float
    bias: float


def residual(kind: str, errors: Array) -> FitResidual:
    """The summary of log(predicted / measured) of one kind's records."""
    size = np.abs(errors)
    return FitResidual(
        kind, len(errors), float(np.median(size)), float(np.quantile(size, 0.9)), float(np.median(errors))
    )
