"""Predictions beside measurements, and residuals of fits, as rows and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from gpt2cost.calibration.forms import Calibrated
from gpt2cost.measure.kernel_files import KernelResult
from gpt2cost.measure.records import grouped
from gpt2cost.measure.residuals import Transfer
from gpt2cost.measure.score import Scored, Summary, summary_of
from gpt2cost.output.field import Field, Record, attribute, attributes, record_of, titled, within
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope, listing
from gpt2cost.output.shared import SIZES
from gpt2cost.prediction.evidence_pass import evidence_how, evidence_name
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.prediction.trust import MEANING

# ---------------------------------------------------------------------------------------------- what was run


@dataclass(frozen=True)
class MeasuredRun:
    """A measured pass: the model's name, how it was run, and its sizes."""

    model: str
    how: How
    sizes: Sizes


RUN: tuple[Field[MeasuredRun], ...] = (
    attribute("model", "model"), attribute("dtype", "dtype", of="how"), attribute("attn", "attention", of="how"),
    attribute("runtime", "runtime", of="how"), attribute("use_cache", of="how"),
    *attributes(*SIZES, of="sizes"), *attributes("logits", "cache_type", "impl", of="how"),
)  # fmt: skip
"""With what every row of a measured pass begins."""


SIZE: Field[MeasuredRun] = Field("size", "size", "right", lambda run: run.sizes.text)

# ---------------------------------------------------------------------------------------------- evidence


def run_of_case(scored: Scored) -> MeasuredRun:
    """What was run where a prediction was scored."""
    row = scored.case.row
    return MeasuredRun(evidence_name(row), evidence_how(row), Sizes(row.batch, row.seq, row.cache))


GPU = attribute("gpu", "device", path="hardware.name")
REPEAT = attribute("repeat_difference", "repeat", "%", path="repeat")
FIGURES = (
    attribute("measured_s", "measured", "own s"), attribute("predicted_s", "predicted", "own s"),
    attribute("error", "error", "+%"),
)  # fmt: skip
RANGE = (
    attribute("latency_low_s", "from", "own s", path="low_s"),
    attribute("latency_high_s", "to", "own s", path="high_s"),
)  # fmt: skip
TRUST, FITTED = attribute("trust", "trust", of="range"), attribute("fitted", "fitted")
ROOFLINE, HOST = attribute("roofline_error", "roofline", "+%"), attribute("host_factor", "host", "x", of="case")
SCORED: tuple[Field[Scored], ...] = (
    GPU, *within(run_of_case, RUN), *FIGURES, *RANGE, attribute("inside"), TRUST,
    attribute("trust_from", of="range"), FITTED, ROOFLINE, REPEAT, HOST, *attributes("box", "source", of="case.row"),
)  # fmt: skip
"""A measured pass beside its prediction. Errors are predicted / measured - 1; ranges have not seen its source."""
INSIDE: Field[Scored] = Field("inside", "inside", "right", lambda scored: "yes" if scored.inside else "NO")

SUMMARY: tuple[Field[Summary], ...] = (
    attribute("cases", "cases"), attribute("mean_absolute_error", "mean", "%"),
    attribute("median_absolute_error", "median", "%"), attribute("worst_absolute_error", "worst", "%"),
    attribute("signed_mean_error", "signed", "+%"), attribute("inside", "inside"),
    attribute("median_width", "width", "x"),
    attribute("roofline_mean_absolute_error", "roofline", "%"), attribute("median_repeat"), attribute("worst_repeat"),
)  # fmt: skip
"""The fields of a summary of such passes."""
DEVICE = (Field("gpu", "device", "", itemgetter(0)), *within(itemgetter(1), SUMMARY))
"""The same, after the device's name."""
GROUP = (Field("passes", "passes", "", itemgetter(0)), *within(itemgetter(1), SUMMARY))
"""The same, after what the passes have in common."""


def summaries(scored: Sequence[Scored]) -> dict[str, Summary]:
    """A summary per device, by its name."""
    devices = grouped(scored, lambda case: case.hardware.name)
    return {name: summary for name, cases in devices.items() if (summary := summary_of(cases))}


def scored_rows(scored: Sequence[Scored]) -> list[Record]:
    """A row per measured pass."""
    return [record_of(SCORED, case) for case in scored]


def _groups(scored: Sequence[Scored]) -> dict[str, Summary]:
    """Summaries of the passes to which no constant was fitted, of those to which one was, and of all."""
    fitted = [case for case in scored if case.fitted]
    groups = {"not fitted": [case for case in scored if not case.fitted], "fitted": fitted, "all": scored}
    return {name: summary for name, cases in groups.items() if (summary := summary_of(cases))}


def _evidence_document(scored: Sequence[Scored]) -> Record:
    return {
        **envelope(),
        "evidence": scored_rows(scored),
        "devices": [record_of(DEVICE, item) for item in summaries(scored).items()],
        "summaries": [record_of(GROUP, item) for item in _groups(scored).items()],
        "trust": dict(MEANING),
    }


NONE = "no measured pass is in the files of these devices"


def _evidence_text(page: Page, scored: Sequence[Scored]) -> None:
    """A line per measured pass, one per device, one for the fitted and one for the others, and the coverage."""
    if not scored:
        page.line(NONE)
        return
    model, dtype, attn, runtime, size = within(run_of_case, (*RUN[:4], SIZE))
    full = (GPU, model, dtype, attn, runtime, size, *FIGURES, *RANGE, INSIDE, TRUST, FITTED, ROOFLINE, HOST)
    narrow = (GPU, dtype, size, FIGURES[0], FIGURES[2], INSIDE, TRUST, FITTED)
    page.fields(
        scored,
        full,
        (GPU, model, *full[4:-2]),
        (GPU, model, dtype, size, *full[6:9], *full[11:14]),
        narrow,
        narrow[:-1],
    )
    page.line()
    page.fields(summaries(scored).items(), titled(DEVICE))
    page.line()
    groups = _groups(scored)
    page.fields(groups.items(), titled(GROUP))
    if whole := groups.get("all"):
        inside = f"{whole.inside / whole.cases:.0%} of {whole.cases} passes inside"
        page.line(f"\nranges with each source left out: {inside}")
        page.line(f"median range: a factor of {whole.median_width:.2f} from end to end")
    page.line("\nerror: predicted / measured - 1; fitted: the constants that were fitted to the pass")
    page.line("trust: of a prediction that has not seen the pass's source")
    page.line("host: what the host's times would have to be multiplied by for them to agree")
    for word, meaning in MEANING.items():
        page.line(f"{word}: {meaning}")


SCORED_COLUMNS = tuple(field.key for field in SCORED)
EVIDENCE: View[Sequence[Scored]] = View(scored_rows, _evidence_document, _evidence_text, columns=SCORED_COLUMNS)
"""Measured passes beside their predictions, and a summary per device."""

# ---------------------------------------------------------------------------------------------- lists

KERNEL: tuple[Field[KernelResult], ...] = (
    attribute("file", "file"), attribute("gpu", "device"), attribute("dtype", "dtype"),
    attribute("operation", "operation"), attribute("count", "count"), attribute("constant_s", "constant", "s"),
    attribute("mean_absolute_error", "mean", "%"),
    Field("median_absolute_error", "median", "%", lambda result: float(np.median(np.abs(result.errors)))),
    Field("p95_absolute_error", "p95", "%", lambda result: float(np.percentile(np.abs(result.errors), 95))),
    Field("signed_mean_error", "signed mean", "+%", lambda result: float(np.mean(result.errors))),
)  # fmt: skip
"""The fields of measured kernels of a file, a device and an operation."""


def _kernels(page: Page, results: Sequence[KernelResult]) -> None:
    """A table, without the constant where none was fitted."""
    fitted = any(result.constant_s is not None for result in results)
    shown = [field for field in titled(KERNEL) if fitted or field.key != "constant_s"]
    page.fields(results, shown, [field for field in shown if field.header not in ("median", "signed mean")])
    if fitted:
        page.line("\nconstant: fitted to the very rows that are scored, and added to each prediction")


KERNELS: View[Sequence[KernelResult]] = listing("kernels", KERNEL, _kernels)
"""Measured kernels in files, a row per file, device and operation."""
TRANSFERRED: tuple[Field[Transfer], ...] = (
    attribute("gpu", "device"), attribute("constants_of", "constants of", path="donor"),
    attribute("dtype", "dtype"), Field("cases", "cases", "", lambda transfer: len(transfer.errors)),
    attribute("mean_absolute_error", "mean", "%"), attribute("signed_mean_error", "signed mean", "+%"),
)  # fmt: skip


def _transfers(page: Page, results: Sequence[Transfer]) -> None:
    if results:
        page.fields(results, TRANSFERRED)
    else:
        page.line("no pass whose device sets the pace is in the files of these devices")


TRANSFER: View[Sequence[Transfer]] = listing("transfer", TRANSFERRED, _transfers)
"""Devices predicted with the constants of others."""


def _calibrated_summary(calibrated: Calibrated) -> tuple[str, str]:
    counts = f"{len(calibrated.residuals)} kinds of kernels, {len(calibrated.warnings)} warnings"
    return f"<Calibrated {calibrated.hardware.name}:", f" {counts}>"


CALIBRATED: View[Calibrated] = listing(
    "residuals",
    (
        attribute("kind", "kind"), attribute("count", "count"), attribute("median_error", "median", "%"),
        attribute("p90_error", "p90", "%"), attribute("bias_error", "bias", "+%", path="bias"),
    ),
    of="residuals",
    summary=_calibrated_summary,
)  # fmt: skip
"""How well a fit reproduces each kind of kernel. Errors are of log(predicted / measured): 0.05 is 5 %."""
VIEWS: dict[type, View[Any]] = {Calibrated: CALIBRATED}
