"""Accuracy results to plain rows: the output fields of `gpt2cost accuracy`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpt2cost.accuracy import EvidenceResult, KernelResult, TransferResult
from gpt2cost.records import Record


def evidence_result(result: EvidenceResult) -> Record:
    """A measured pass beside its prediction. Errors are predicted / measured - 1."""
    row = result.case.row
    return {
        "hardware": result.hardware.name,
        "model": row.model,
        "dtype": row.dtype,
        "attn": row.attn,
        "runtime": row.runtime,
        "batch_size": row.batch,
        "seq_len": row.seq,
        "cache_len": row.cache,
        "measured_s": row.latency_s,
        "predicted_s": result.case.latency_s,
        "low_s": result.low_s,
        "high_s": result.high_s,
        "error": result.error,
        "inside": result.inside,
        "roofline_error": result.roofline_s / row.latency_s - 1.0,
        "host_factor": result.case.host_factor,
        "source": row.source,
    }


def summaries(results: Sequence[EvidenceResult]) -> list[Record]:
    """One row a device: mean, median and worst absolute error, the signed mean, and how many lie in their range."""
    devices = dict.fromkeys(result.hardware.name for result in results)
    return [_summary(name, [result for result in results if result.hardware.name == name]) for name in devices]


def _summary(name: str, results: Sequence[EvidenceResult]) -> Record:
    errors = np.array([result.error for result in results])
    return {
        "hardware": name,
        "cases": len(results),
        "mean_absolute_error": float(np.mean(np.abs(errors))),
        "median_absolute_error": float(np.median(np.abs(errors))),
        "worst_absolute_error": float(np.max(np.abs(errors))),
        "signed_mean_error": float(np.mean(errors)),
        "inside": sum(result.inside for result in results),
        "roofline_mean_absolute_error": float(
            np.mean([abs(result.roofline_s / result.case.row.latency_s - 1.0) for result in results])
        ),
    }


def kernel_result(result: KernelResult) -> Record:
    """Measured kernels of one file, device and operation."""
    absolute = np.abs(result.errors)
    return {
        "file": result.file,
        "hardware": result.hardware,
        "dtype": result.dtype,
        "operation": result.operation,
        "count": result.count,
        "constant_s": result.constant_s,
        "mean_absolute_error": result.mean_absolute_error,
        "median_absolute_error": float(np.median(absolute)),
        "p95_absolute_error": float(np.percentile(absolute, 95)),
        "signed_mean_error": float(np.mean(result.errors)),
    }


def transfer_result(result: TransferResult) -> Record:
    """A device's passes predicted with another's constants."""
    return {
        "hardware": result.hardware,
        "constants_of": result.donor,
        "dtype": result.dtype,
        "cases": len(result.errors),
        "mean_absolute_error": result.mean_absolute_error,
        "signed_mean_error": float(np.mean(result.errors)),
    }
