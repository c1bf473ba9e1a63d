"""Measured passes, and validations, to plain rows: the output fields of `gpt2cost measure` and `validate`."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from gpt2cost.measurement_records import Measurement, repeat_difference
from gpt2cost.records import Record, envelope
from gpt2cost.settings import Settings
from gpt2cost.validation import (
    KernelScore,
    PassScore,
    ProfileScore,
    Validation,
    as_evidence,
    observed_passes,
    settings_of,
)

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
