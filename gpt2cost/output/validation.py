"""Measured passes, and validations, as rows and as text."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, TypeAlias, TypeVar

from gpt2cost.measure.evidence import as_evidence, run_of
from gpt2cost.measure.profile_records import observed_passes
from gpt2cost.measure.profile_score import KernelScore, ProfileScore
from gpt2cost.measure.records import Measurement, machine, of_kind, repeat_difference
from gpt2cost.measure.score import STEADY, Summary, Validation
from gpt2cost.output.accuracy import (
    FIGURES,
    INSIDE,
    RANGE,
    REPEAT,
    RUN,
    SCORED_COLUMNS,
    SIZE,
    SUMMARY,
    TRUST,
    MeasuredRun,
    run_of_case,
    scored_rows,
)
from gpt2cost.output.field import Field, Record, attribute, column, record_of, titled, within
from gpt2cost.output.page import Page, cut
from gpt2cost.output.record import View, envelope
from gpt2cost.table.kernel import short_path
from gpt2cost.units import format_quantity

T = TypeVar("T")

NAME_WIDTH = 40
"""Longest name of a kernel that is no row of the table, in characters."""
MOST_UNMAPPED = 20
"""How many ops or kernels that the table lacks the text names."""
NO_CACHE: Field[MeasuredRun] = Field("use_cache", "KV cache", "", lambda run: "" if run.how.use_cache else "no cache")
CHOICES: tuple[Field[MeasuredRun], ...] = (*RUN[:4], NO_CACHE)
"""What a heading or a column says of a run, beside its size."""

# ---------------------------------------------------------------------------------------------- measured


Measured: TypeAlias = tuple[MeasuredRun, Measurement]
"""A measured pass, or the profile of one."""
TIMES: tuple[Field[Measured], ...] = (
    Field("latency_s", "latency", "own s", lambda measured: as_evidence(measured[1], "").latency_s),
    Field("least_s", "least", "own s", lambda measured: 1e-6 * measured[1]["wall_min_us"]),
    Field("runs", "runs", "", lambda measured: measured[1]["runs"]),
    Field("repeat_difference", "repeat", "%", lambda measured: repeat_difference(measured[1])),
)
PASS: tuple[Field[Measured], ...] = (*within(itemgetter(0), RUN), *TIMES)
"""The fields of a measured pass. `repeat_difference`: by how much the two halves of the measurement differ."""
OP = ("op", "count", "measured_s", "share")
"""The keys of an op of a profiled pass, after those of the pass: the median seconds of all its launches in a pass."""
OP_TEXT: tuple[Field[Record], ...] = (
    Field("op", "op", "", lambda op: cut(op["op"], NAME_WIDTH)), column("count", "count"),
    column("measured_s", "measured", "s"), column("share", "share", "%"),
)  # fmt: skip


def _measured(records: Iterable[Measurement], kind: str) -> list[Measured]:
    """The records of a kind, without those that failed."""
    fine = (record for record in of_kind(records, kind) if "error" not in record)
    return [(MeasuredRun(record["model"], *run_of(record)), record) for record in fine]


def _ops(record: Measurement) -> list[Record]:
    """The ops of a profiled pass, the longest first."""
    recordings = observed_passes(record)
    seconds: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(recordings))
    counts: dict[str, int] = defaultdict(int)
    for index, recording in enumerate(recordings):
        for observed in recording:
            name = observed.op or ", ".join(observed.kernels)
            seconds[name][index] += observed.seconds
            counts[name] += index == 0
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    total_s = sum(medians.values())
    rows = ((name, counts[name], median_s, median_s / total_s) for name, median_s in medians.items())
    return sorted((dict(zip(OP, row, strict=True)) for row in rows), key=lambda op: -op["measured_s"])


def measured_on(records: Iterable[Measurement]) -> Record:
    """The name of the device that was measured, as the driver or the processor gives it: the first cell of a row."""
    known = machine(records)
    return {"gpu": known.get("gpu") or known.get("cpu_model") or known.get("device")}


def _pass_records(records: Iterable[Measurement]) -> list[Record]:
    records = list(records)
    return [{**measured_on(records), **record_of(PASS, measured)} for measured in _measured(records, "pass")]


def _op_records(records: Iterable[Measurement]) -> list[Record]:
    records = list(records)
    on = measured_on(records)
    profiles = _measured(records, "profile")
    return [{**on, **record_of(RUN, run), **op} for run, record in profiles for op in _ops(record)]


def _measured_document(records: Sequence[Measurement]) -> Record:
    passes, ops = _pass_records(records), _op_records(records)
    return {**envelope(), "machine": dict(machine(records)), "passes": passes, "ops": ops}


def _measured_text(page: Page, records: Sequence[Measurement]) -> None:
    """Measured passes, then the ops of profiled ones."""
    if passes := _measured(records, "pass"):
        varying_table(page, passes, within(itemgetter(0), CHOICES), within(itemgetter(0), [SIZE]), [TIMES])
        page.line("\nlatency: mean of the rounds, without the outer fifths; least: of all runs")
        page.line("repeat: by how much two halves of the measurement differ")
    for run, record in _measured(records, "profile"):
        ops = _ops(record)
        total_s = sum(op["measured_s"] for op in ops)
        page.line(f"\n{_head(run)}: {format_quantity(total_s, 's')} in ops")
        page.fields(ops, OP_TEXT)


MEASURED: View[Sequence[Measurement]] = View(
    _pass_records, _measured_document, _measured_text, columns=("gpu", *(field.key for field in PASS))
)
"""What `measure` recorded: the machine, passes, profiles. A row per pass."""
MEASURED_OPS = replace(MEASURED, rows=_op_records, columns=("gpu", *(field.key for field in RUN), *OP))
"""The same with a row per op of the profiled passes."""

# ---------------------------------------------------------------------------------------------- scored

COUNT: Field[KernelScore] = Field("count", "count", "right", lambda kernel: _launches(kernel.count))
KERNEL: tuple[Field[KernelScore], ...] = (
    attribute("name", "kernel"), attribute("op"), attribute("kind"), COUNT, attribute("expected"), *FIGURES,
)  # fmt: skip
"""The fields of a kernel of a profiled pass, or of all kernels of a kind."""


def _launches(count: float) -> float:
    """Launches per pass: mostly a whole number."""
    return int(count) if count == int(count) else round(count, 2)


def _run_of_profile(profile: ProfileScore) -> MeasuredRun:
    return MeasuredRun(profile.model.name, profile.how, profile.sizes)


def _kernel_rows(validation: Validation) -> list[Record]:
    return [
        {"gpu": validation.hardware.name, **record_of(RUN, _run_of_profile(profile)), **record_of(KERNEL, kernel)}
        for profile in validation.profiles
        for kernel in profile.kernels
    ]


def _document(validation: Validation) -> Record:
    """The whole validation."""
    summaries = {"summary": validation.summary, "steady_summary": validation.steady_summary}
    return {
        **envelope(),
        "gpu": validation.hardware.name,
        **{name: summary and record_of(SUMMARY, summary) for name, summary in summaries.items()},
        "slowdown": validation.slowdown,
        "passes": scored_rows(validation.passes),
        "profiles": [_profile_record(profile) for profile in validation.profiles],
        "skipped": dict(validation.skipped),
    }


def _profile_record(profile: ProfileScore) -> Record:
    """A profiled pass: what was found of the table in it, and its kernels, by kind and one by one."""
    return {
        **record_of(RUN, _run_of_profile(profile)),
        "recorded_passes": profile.passes,
        "mapped_share": profile.mapped_share,
        "in_order": profile.in_order,
        "total": record_of(KERNEL, profile.total),
        "kinds": [record_of(KERNEL, kind) for kind in profile.kinds],
        "kernels": [record_of(KERNEL, kernel) for kernel in profile.kernels],
        "unmapped": [{"name": name, "measured_s": seconds} for name, seconds in profile.unmapped.items()],
        "missing": list(profile.missing),
    }


def _text(page: Page, validation: Validation, kernels: bool) -> None:
    """Passes, their summary, and the kinds of kernels of profiled passes; with `kernels` every kernel."""
    if summary := validation.summary:
        layouts = ((*FIGURES, *RANGE, INSIDE, TRUST, REPEAT), (*FIGURES, INSIDE, REPEAT), (*FIGURES, INSIDE), FIGURES)
        inputs, size = within(run_of_case, CHOICES), within(run_of_case, [SIZE])
        varying_table(page, validation.passes, inputs, size, layouts, f"on {validation.hardware.name}")
        summary_lines(page, summary, validation.steady_summary, ("pass", "passes"))
        slowdown_line(page, validation.slowdown)
    for profile in validation.profiles:
        _profile(page, profile, kernels)
    for reason, count in validation.skipped.items():
        page.line(f"\nskipped {counted(count, 'record', 'records')}: {reason}")
    page.line("\nerror: predicted / measured - 1")


def summary_lines(page: Page, summary: Summary, steady: Summary | None, what: tuple[str, str]) -> None:
    """The errors of all that was scored, and of what repeats itself. `what` it is: one of it, and several."""
    page.line(f"\n{counted(summary.cases, *what)}: {errors_text(summary)}")
    page.line(f"{summary.inside / summary.cases:.0%} inside the predicted range")
    if summary.median_repeat is not None and summary.worst_repeat is not None:
        median, worst = summary.median_repeat, summary.worst_repeat
        page.line(f"two halves of a measurement differ by {median:.1%} median, {worst:.1%} worst")
    if steady is not None:
        page.line(f"{counted(steady.cases, *what)} whose halves differ by at most {STEADY:.0%}: {errors_text(steady)}")


def slowdown_line(page: Page, slowdown: float | None) -> None:
    """How the machine ran beside its calibration, if that is known."""
    if slowdown is not None:
        page.line(f"time of a reference product, against the calibration: {slowdown:+.1%}")


def errors_text(summary: Summary) -> str:
    return (
        f"error {summary.median_absolute_error:.1%} median, {summary.mean_absolute_error:.1%} mean,"
        f" {summary.worst_absolute_error:.1%} worst, {summary.signed_mean_error:+.1%} signed"
    )


def _profile(page: Page, profile: ProfileScore, kernels: bool) -> None:
    page.line(f"\nkernels of {_head(_run_of_profile(profile))}", style="bold")
    order = "all in the table's order" if profile.in_order else "not in the table's order"
    recorded = counted(profile.passes, "pass", "passes")
    page.line(f"{profile.mapped_share:.1%} of the time mapped, {recorded} recorded, {order}\n")
    figures = titled(KERNEL)[1:]
    page.fields([*profile.kinds, profile.total], (attribute("name", "kind"), *figures))
    if kernels:
        page.line()
        name: Field[KernelScore] = Field("name", "kernel", "", lambda kernel: short_path(kernel.name))
        page.fields(profile.kernels, (name, *figures))
    for left, seconds in islice(profile.unmapped.items(), MOST_UNMAPPED):
        page.line(f"unmapped: {cut(left, NAME_WIDTH)}, {format_quantity(seconds, 's')} per pass")
    if len(profile.unmapped) > MOST_UNMAPPED:
        rest_s = sum(islice(profile.unmapped.values(), MOST_UNMAPPED, None))
        page.line(f"unmapped: {len(profile.unmapped) - MOST_UNMAPPED} more, {format_quantity(rest_s, 's')} per pass")
    for kernel in profile.kernels:
        if kernel.name in profile.missing:
            page.line(f"missing: {short_path(kernel.name)}, {kernel.count:.3g} of {kernel.expected} launches seen")


def varying_table(
    page: Page,
    items: Sequence[T],
    inputs: Sequence[Field[T]],
    size: Sequence[Field[T]],
    layouts: Iterable[Sequence[Field[T]]],
    where: str = "",
) -> None:
    """What all items share of `inputs` in a line; then the first of the layouts that fits, after what varies between
    them and `size`."""
    values = {field.key: {field.get(item) for item in items} for field in inputs}
    shared = [text for texts in values.values() if len(texts) == 1 for text in texts]
    page.line(" ".join(filter(None, [*shared, where])), "\n")
    varying = [*(field for field in inputs if len(values[field.key]) > 1), *size]
    page.fields(items, *((*varying, *layout) for layout in layouts))


def _head(run: MeasuredRun) -> str:
    return " ".join(filter(None, (field.get(run) for field in (*CHOICES, SIZE))))


def counted(count: int, singular: str, plural: str) -> str:
    """So many of something."""
    return f"{count} {singular if count == 1 else plural}"


def _validation_summary(validation: Validation) -> tuple[str, str]:
    passes = counted(len(validation.passes), "pass", "passes")
    profiles = counted(len(validation.profiles), "profile", "profiles")
    errors = f": {errors_text(validation.summary)}" if validation.summary else ""
    return f"<Validation of {validation.hardware.name}:", f" {passes}{errors}; {profiles}>"


def validation_view(kernels: bool = False) -> View[Validation]:
    """A validation with a row per pass, or with `kernels` per kernel of the profiled passes."""
    return View(
        rows=_kernel_rows if kernels else lambda validation: scored_rows(validation.passes),
        document=_document,
        text=partial(_text, kernels=kernels),
        summary=_validation_summary,
        columns=("gpu", *(field.key for field in RUN), *(field.key for field in KERNEL)) if kernels else SCORED_COLUMNS,
    )


VIEWS: dict[type, View[Any]] = {Validation: validation_view()}
