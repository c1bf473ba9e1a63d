"""Accuracy, and residuals of fits, as rows and as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpt2cost.calibration.forms import FitResidual
from gpt2cost.measure.kernel_files import KernelResult
from gpt2cost.measure.score import EvidenceResult, TransferResult
from gpt2cost.output.page import Column, Page, first_fit, grid, scaled_column, text_column
from gpt2cost.output.record import Record
from gpt2cost.units import format_quantity, unit_of


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


def render_rows(page: Page, records: Sequence[Record]) -> None:
    """Flat records as a table: errors as percentages, seconds in one unit a column."""
    page.table(grid([_result_column(key, records) for key in records[0]], records))


def _result_column(key: str, records: Sequence[Record]) -> Column:
    stem, unit = unit_of(key)
    header = stem.replace("_absolute_error", "").replace("_error", "").replace("_", " ")
    if key.endswith("_error"):
        return Column(f"{header} %", lambda record: f"{100 * record[key]:.1f}")
    if unit:
        return scaled_column(header, unit, records, key)
    if isinstance(records[0][key], str):
        return text_column(header, key)
    return Column(header, lambda record: str(record[key]))


def render_accuracy(page: Page, document: Record) -> None:
    """The evidence: a line a measured pass, then a line a device."""

    def seconds(key: str) -> Callable[[Record], str]:
        return lambda record: format_quantity(record[key], "s")

    def percent(key: str) -> Callable[[Record], str]:
        return lambda record: f"{100 * record[key]:+.1f}%"

    def sizes(record: Record) -> str:
        return f"{record['batch_size']}x{record['seq_len']}" + (
            f"+{record['cache_len']}" if record["cache_len"] else ""
        )

    cases = [
        text_column("device", "hardware"),
        text_column("model", "model"),
        text_column("dtype", "dtype"),
        text_column("attention", "attn"),
        text_column("runtime", "runtime"),
        Column("size", sizes),
        Column("measured", seconds("measured_s")),
        Column("predicted", seconds("predicted_s")),
        Column("error", percent("error")),
        Column("from", seconds("low_s")),
        Column("to", seconds("high_s")),
        Column("inside", lambda record: "yes" if record["inside"] else "NO"),
        Column("roofline", percent("roofline_error")),
        Column("host", lambda record: f"{record['host_factor']:.2f}x" if record["host_factor"] else ""),
    ]
    headers = {column.header: column for column in cases}
    medium = [column for column in cases if column.header not in ("dtype", "attention")]
    narrow = [headers[name] for name in ("device", "model", "size", "measured", "predicted", "error", "inside")]
    layouts = [grid(columns, document["evidence"]) for columns in (cases, medium, narrow)]
    page.table(layouts[first_fit(layouts, page.width)])
    page.line()
    devices = [
        text_column("device", "hardware"),
        Column("cases", lambda record: str(record["cases"])),
        Column("mean", lambda record: f"{100 * record['mean_absolute_error']:.1f}%"),
        Column("median", lambda record: f"{100 * record['median_absolute_error']:.1f}%"),
        Column("worst", lambda record: f"{100 * record['worst_absolute_error']:.1f}%"),
        Column("signed", percent("signed_mean_error")),
        Column("inside", lambda record: str(record["inside"])),
        Column("roofline", lambda record: f"{100 * record['roofline_mean_absolute_error']:.1f}%"),
    ]
    page.table(grid(devices, document["devices"]))
    page.line("\nerror: predicted / measured - 1; host: the factor on the host's constants at which they would meet")


def residual_record(residual: FitResidual) -> Record:
    """One kind of kernel. Errors are of log(predicted / measured): 0.05 is 5 %."""
    return {
        "kind": residual.kind,
        "count": residual.count,
        "median_error": residual.median_error,
        "p90_error": residual.p90_error,
        "bias_error": residual.bias,
    }
