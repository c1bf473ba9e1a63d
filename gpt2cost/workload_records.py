"""Comparisons and capacities to plain rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from gpt2cost.capacity import Capacity
from gpt2cost.comparison import WAITING, Candidate, Comparison, Work, seconds_by_kind
from gpt2cost.predict import Phase, Prediction
from gpt2cost.records import FLOPS_CONVENTION, Record, calibration, envelope
from gpt2cost.sweeps import Combination

KINDS = ("gemm", "bmm", "attention", "reduction", "elementwise", "copy", "gather", "fill", WAITING)
"""Where a pass's latency goes, in the order in which it is shown."""


def _inputs(choice: Combination) -> Record:
    return {
        "model": choice.model.name,
        "gpu": choice.gpu.name,
        "dtype": choice.dtype,
        "attn": choice.attn,
        "runtime": choice.runtime,
    }


def _figures(prediction: Prediction, phase: Phase) -> Record:
    totals, memory = phase.totals, prediction.memory
    names = ("latency_s", "latency_low_s", "latency_high_s", "device_s", "host_s", "tokens_per_s", "bound")
    return {
        **{name: getattr(totals, name) for name in names},
        "flops": totals.flops,
        "moved_bytes": totals.read_bytes + totals.write_bytes,
        "launches": totals.launches,
        "total_bytes": memory.total_bytes,
        "capacity_bytes": memory.capacity_bytes,
        "fits": memory.fits,
        "valid": phase.kv_len <= prediction.model.n_positions,
    }


def _what_if(choices: list[Combination]) -> Record:
    return {"model": dict(choices[0].model.changes), "hardware": choices[0].gpu.changes}


# ---------------------------------------------------------------------------------------------- compare


def comparison_record(comparison: Comparison) -> Record:
    """A comparison as a JSON-ready object."""
    candidates = comparison.candidates
    rows = list(comparison_rows(comparison))
    phases = [phase.phase for phase in candidates[0].prediction.phases]
    return {
        **envelope(),
        "flops_convention": FLOPS_CONVENTION,
        "settings": _work(comparison.work),
        "what_if": _what_if([each.choice for each in candidates]),
        "first": candidates[0].label,
        "phases": [
            {"phase": phase, "candidates": [_nested(row) for row in rows if row["phase"] == phase]} for phase in phases
        ],
        "crossovers": [dataclasses.asdict(each) for each in comparison.crossovers],
    }


def _work(work: Work) -> Record:
    return {
        "batch_size": work.batch, "seq_len": work.seq, "cache_len": work.cache, "phase": work.phase,
        "logits": work.logits, "use_cache": work.use_cache,
    }  # fmt: skip


def _nested(row: Record) -> Record:
    """A flat row with its seconds by kind as one mapping."""
    kinds = {kind: row[f"{kind}_s"] for kind in KINDS}
    others = {key: value for key, value in row.items() if key.removesuffix("_s") not in kinds}
    return {**others, "seconds_by_kind": kinds}


def comparison_rows(comparison: Comparison) -> Iterator[Record]:
    """One flat row a phase and candidate. `latency_ratio`: its latency over the first's. `<kind>_s` sum to the latency.

    `crossover_batch` and `crossover_context`: the smallest size at which the ranking against the first turns.
    """
    first = comparison.candidates[0]
    for number, phase in enumerate(first.prediction.phases):
        for candidate in comparison.candidates:
            own = candidate.prediction.phases[number]
            seconds = seconds_by_kind(own)
            yield {
                "label": candidate.label,
                **_inputs(candidate.choice),
                "calibration": calibration(candidate.choice.gpu, candidate.choice.dtype),
                "phase": phase.phase,
                "batch_size": own.batch_size,
                "seq_len": own.seq_len,
                "cache_len": own.cache_len,
                "kv_len": own.kv_len,
                **_figures(candidate.prediction, own),
                "latency_ratio": own.totals.latency_s / phase.totals.latency_s,
                **{f"{kind}_s": seconds.get(kind, 0.0) for kind in KINDS},
                **{
                    f"crossover_{name}": _first_crossover(comparison, candidate, phase.phase, axes)
                    for name, axes in (("batch", ("batch",)), ("context", ("seq", "cache")))
                },
            }


def _first_crossover(comparison: Comparison, candidate: Candidate, phase: str, axes: tuple[str, ...]) -> Any:
    pair = {comparison.candidates[0].label, candidate.label}
    sizes = [
        each.size
        for each in comparison.crossovers
        if each.phase == phase and each.axis in axes and {each.before, each.after} == pair
    ]
    return min(sizes, default=None)


# ---------------------------------------------------------------------------------------------- fit


def capacity_row(choice: Combination, capacity: Capacity) -> Record:
    """One flat row an answer; without a figure where nothing fits."""
    sizes = {
        "goal": capacity.goal,
        "phase": capacity.phase,
        "batch_size": capacity.batch_size,
        "seq_len": capacity.seq_len,
        "cache_len": capacity.cache_len,
        "kv_len": capacity.seq_len + capacity.cache_len,
        "limited_by": capacity.limited_by,
    }
    names = ("latency_s", "latency_low_s", "latency_high_s", "tokens_per_s", "bound", "total_bytes", "capacity_bytes")
    prediction = capacity.prediction
    figures = {} if prediction is None else _figures(prediction, prediction.phases[0])
    return {**_inputs(choice), **sizes, **{name: figures.get(name) for name in names}}


def capacity_record(choice: Combination, work: Work, max_latency_s: float | None, rows: list[Record]) -> Record:
    """All answers as a JSON-ready object."""
    return {
        **envelope(),
        "settings": _work(work) | {"max_latency_s": max_latency_s},
        "positions": choice.model.n_positions,
        "what_if": _what_if([choice]),
        "answers": rows,
    }
