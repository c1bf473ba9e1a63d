"""Measured passes, and validations, as rows and as text."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from gpt2cost.measure.records import Measurement, repeat_difference
from gpt2cost.measure.score import (
    STEADY,
    KernelScore,
    PassScore,
    ProfileScore,
    Validation,
    as_evidence,
    observed_passes,
    settings_of,
)
from gpt2cost.output.page import Column, Page, first_fit, grid, scaled_column, text_column
from gpt2cost.output.record import Record, envelope
from gpt2cost.prediction.settings import Settings
from gpt2cost.units import format_quantity

INPUTS = ("model", "dtype", "attn", "runtime", "use_cache", "batch_size", "seq_len", "cache_len")
"""The fields that say what was run; every row begins with them."""


def _inputs(model: str, settings: Settings) -> Record:
    return {"model": model, **{name: getattr(settings, name) for name in INPUTS[1:]}}


# ------------------------------------------------------------------------------------------------ measured


def measured_rows(records: Iterable[Measurement]) -> list[Record]:
    """A row a measured pass. `repeat_difference`: by how much the two halves of the measurement differ."""
    return [
        {
            **_inputs(record["model"], settings_of(record)),
            "latency_s": as_evidence(record, "").latency_s,
            "least_s": 1e-6 * record["wall_min_us"],
            "runs": record["runs"],
            "repeat_difference": repeat_difference(record),
        }
        for record in records
    ]


def measured_op_rows(records: Iterable[Measurement]) -> list[Record]:
    """A row an op of a profiled pass: median seconds of all its launches in a pass. The longest comes first."""
    return [{**_inputs(record["model"], settings_of(record)), **row} for record in records for row in _op_rows(record)]


def _op_rows(record: Measurement) -> list[Record]:
    recordings = observed_passes(record)
    seconds: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(recordings))
    counts: dict[str, int] = defaultdict(int)
    for index, recording in enumerate(recordings):
        for one in recording:
            name = one.op or ", ".join(one.kernels)
            seconds[name][index] += one.seconds
            counts[name] += index == 0
    total_s = sum(map(statistics.median, seconds.values()))
    rows = [
        {
            "op": op,
            "count": counts[op],
            "measured_s": statistics.median(each),
            "share": statistics.median(each) / total_s,
        }
        for op, each in seconds.items()
    ]
    return sorted(rows, key=lambda row: -float(row["measured_s"]))


# ------------------------------------------------------------------------------------------------ scored


def validation_record(validation: Validation) -> Record:
    """The whole validation as a JSON-ready object. Errors are predicted / measured - 1."""
    summary, steady = validation.summary, validation.steady_summary
    return {
        **envelope(),
        "hardware": validation.hardware.name,
        "summary": None if summary is None else dataclasses.asdict(summary),
        "steady_summary": None if steady is None else dataclasses.asdict(steady),
        "slowdown": validation.slowdown,
        "passes": pass_rows(validation.passes),
        "profiles": [profile_score_record(profile) for profile in validation.profiles],
        "skipped": dict(validation.skipped),
    }


def pass_rows(passes: Iterable[PassScore]) -> list[Record]:
    """A row a measured pass beside its prediction."""
    return [
        {
            "model": one.case.row.model,
            "dtype": one.case.row.dtype,
            "attn": one.case.row.attn,
            "runtime": one.case.row.runtime,
            "use_cache": one.case.row.use_cache,
            "batch_size": one.case.row.batch,
            "seq_len": one.case.row.seq,
            "cache_len": one.case.row.cache,
            "measured_s": one.measured_s,
            "predicted_s": one.predicted_s,
            "error": one.error,
            "low_s": one.low_s,
            "high_s": one.high_s,
            "inside": one.inside,
            "repeat_difference": one.repeat,
            "host_factor": one.case.host_factor,
        }
        for one in passes
    ]


def profile_score_record(profile: ProfileScore) -> Record:
    """A profiled pass: what was found of the table in it, and its kernels, by kind and one by one."""
    return {
        **_inputs(profile.model.name, profile.settings),
        "recorded_passes": profile.passes,
        "mapped_share": profile.mapped_share,
        "in_order": profile.in_order,
        "total": _kernel_row(profile.total),
        "kinds": [_kernel_row(kind) for kind in profile.kinds],
        "kernels": [_kernel_row(kernel) for kernel in profile.kernels],
        "unmapped": [{"name": name, "measured_s": seconds} for name, seconds in profile.unmapped.items()],
        "missing": list(profile.missing),
    }


def _kernel_row(kernel: KernelScore) -> Record:
    return {**dataclasses.asdict(kernel), "error": kernel.error}


def kernel_rows(profiles: Sequence[ProfileScore]) -> list[Record]:
    """A flat row a kernel of every profiled pass."""
    return [
        {**_inputs(profile.model.name, profile.settings), **_kernel_row(kernel)}
        for profile in profiles
        for kernel in profile.kernels
    ]


CHOICES = ("model", "dtype", "attn", "runtime", "use_cache")


NAME_WIDTH = 40
"""Longest name of a kernel that is no row of the table, in characters."""


def render_measured(page: Page, passes: Sequence[Record], ops: Sequence[Record]) -> None:
    """Measured passes, then the ops of profiled ones."""
    if passes:
        figures = [
            _seconds("latency", "latency_s"),
            _seconds("least", "least_s"),
            Column("runs", lambda row: str(row["runs"])),
            Column("repeat", lambda row: _unsigned(row["repeat_difference"])),
        ]
        _varying_table(page, passes, [figures])
        page.line("\nlatency: mean of the rounds, without the outer fifths; least: of all runs")
        page.line("repeat: by how much two halves of the measurement differ")
    for head in dict.fromkeys(_head(row) for row in ops):
        rows = [row for row in ops if _head(row) == head]
        page.line(f"\n{head}: {format_quantity(sum(row['measured_s'] for row in rows), 's')} in ops")
        columns = [
            Column("op", lambda row: _short(row["op"]), "left"),
            Column("count", lambda row: str(row["count"])),
            scaled_column("measured", "s", rows, "measured_s"),
            Column("share", lambda row: _unsigned(row["share"])),
        ]
        page.table(grid(columns, rows))


def render_validation(page: Page, document: Record, kernels: bool) -> None:
    """A validation: passes, their summary, and the kinds of kernels of profiled passes; with `kernels` every kernel."""
    rows = document["passes"]
    if rows:
        inside = Column("inside", lambda row: "yes" if row["inside"] else "NO")
        ends = [inside, Column("repeat", lambda row: _unsigned(row["repeat_difference"]))]
        figures = [_seconds("measured", "measured_s"), _seconds("predicted", "predicted_s"), _error()]
        ranged = [_seconds("from", "low_s"), _seconds("to", "high_s")]
        layouts = [[*figures, *ranged, *ends], [*figures, *ends], [*figures, inside], figures]
        _varying_table(page, rows, layouts, f"on {document['hardware']}")
        page.line()
        _summary(page, document["summary"], document["steady_summary"])
        if (slowdown := document["slowdown"]) is not None:
            page.line(f"time of a reference product, against the calibration: {_signed(slowdown)}")
    for profile in document["profiles"]:
        page.line()
        _profile(page, profile, kernels)
    for reason, count in document["skipped"].items():
        page.line(f"\nskipped {_counted(count, 'record', 'records')}: {reason}")
    page.line("\nerror: predicted / measured - 1")


def _summary(page: Page, summary: Record, steady: Record | None) -> None:
    page.line(f"{_counted(summary['count'], 'pass', 'passes')}: {_errors(summary)}")
    page.line(f"{100 * summary['inside_share']:.0f}% inside the predicted range")
    if summary["median_repeat"] is not None:
        median, worst = (_unsigned(summary[name]) for name in ("median_repeat", "worst_repeat"))
        page.line(f"two halves of a measurement differ by {median} median, {worst} worst")
    if steady is not None:
        passes = _counted(steady["count"], "pass", "passes")
        page.line(f"{passes} whose halves differ by at most {100 * STEADY:.0f}%: {_errors(steady)}")


def _errors(summary: Record) -> str:
    median, mean, worst = (_unsigned(summary[f"{name}_absolute_error"]) for name in ("median", "mean", "worst"))
    return f"error {median} median, {mean} mean, {worst} worst, {_signed(summary['signed_mean_error'])} signed"


def _profile(page: Page, profile: Record, kernels: bool) -> None:
    total = profile["total"]
    page.line(f"kernels of {_head(profile)}", style="bold")
    order = "all in the table's order" if profile["in_order"] else "not in the table's order"
    recorded = _counted(profile["recorded_passes"], "pass", "passes")
    page.line(f"{100 * profile['mapped_share']:.1f}% of the time mapped, {recorded} recorded, {order}")
    page.line()
    page.table(grid(_kernel_columns("kind"), [*profile["kinds"], total]))
    if kernels:
        page.line()
        page.table(grid(_kernel_columns("kernel"), profile["kernels"]))
    for left in profile["unmapped"]:
        page.line(f"unmapped: {_short(left['name'])}, {format_quantity(left['measured_s'], 's')} a pass")
    for name in profile["missing"]:
        page.line(f"missing: {name}")


def _kernel_columns(header: str) -> list[Column]:
    return [
        text_column(header, "name"),
        Column("count", lambda row: str(row["count"])),
        _seconds("measured", "measured_s"),
        _seconds("predicted", "predicted_s"),
        _error(),
    ]


def _varying_table(page: Page, rows: Sequence[Record], layouts: Sequence[list[Column]], where: str = "") -> None:
    """The first of the layouts that fits, after what varies between the rows."""
    varying = [name for name in CHOICES if any(row[name] != rows[0][name] for row in rows)]
    same = [_choice(name, rows[0]) for name in CHOICES if name not in varying]
    page.line(" ".join(filter(None, [*same, where])))
    page.line()
    inputs = [Column(name, lambda row, name=name: _choice(name, row), "left") for name in varying]  # type: ignore[misc]
    tables = [grid([*inputs, Column("size", _size, "left"), *figures], rows) for figures in layouts]
    page.table(tables[first_fit(tables, page.width)])


def _choice(name: str, row: Record) -> str:
    value = row[name]
    return str(value) if name != "use_cache" else "" if value else "no cache"


def _head(row: Record) -> str:
    return " ".join(filter(None, [*(_choice(name, row) for name in CHOICES), _size(row)]))


def _size(row: Record) -> str:
    return f"{row['batch_size']}x{row['seq_len']}" + (f"+{row['cache_len']}" if row["cache_len"] else "")


def _short(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."


def _seconds(header: str, key: str) -> Column:
    return Column(header, lambda row: format_quantity(row[key], "s"))


def _error() -> Column:
    return Column("error", lambda row: "" if row["error"] is None else _signed(row["error"]))


def _counted(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}%"


def _unsigned(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"
