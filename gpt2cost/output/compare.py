"""Comparisons as rows and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from gpt2cost.output.page import Column, Page, first_fit, grid, scaled_column, short_number, text_column
from gpt2cost.output.record import FLOPS_CONVENTION, Record, calibration, envelope
from gpt2cost.prediction.compare import WAITING, Candidate, Comparison, Work, seconds_by_kind
from gpt2cost.prediction.predict import Phase, Prediction
from gpt2cost.prediction.sweep import Combination
from gpt2cost.units import scale_for

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


def render_comparison(page: Page, document: Record) -> None:
    """A table a phase, where the time goes by kind, and where the ranking changes."""
    for phase in document["phases"]:
        rows = phase["candidates"]
        first = rows[0]
        sizes = f"{first['batch_size']} x {first['seq_len']} new tokens on {first['cache_len']} cached"
        same = [first[key] for key in ("model", "gpu", "dtype", "attn", "runtime") if len({r[key] for r in rows}) == 1]
        page.line(f"{phase['phase']}: {sizes}; {', '.join(same)}\n", style="bold")
        page.table(grid(_candidate_columns(page, rows), rows))
        page.line(f"\nwhere the time goes, and the difference from {first['label']}\n")
        _kinds(page, rows)
        page.line()
    for each in document["crossovers"]:
        axis = {"batch": "batch size", "seq": "sequence length", "cache": "cache length"}[each["axis"]]
        full = "" if each["fits"] else " (which does not fit the memory)"
        page.line(
            f"{each['phase']}: from {axis} {each['size']}{full} on {each['after']} is faster than {each['before']}"
        )
    if not document["crossovers"]:
        page.line("the ranking is the same at every batch size and sequence length")


def _candidate_columns(page: Page, rows: Sequence[Record]) -> list[Column]:
    label, latency = text_column("", "label"), scaled_column("latency", "s", rows, "latency_s")
    ratio = Column("ratio", lambda row: f"{row['latency_ratio']:.2f}x")
    ends = [scaled_column(end, "s", rows, f"latency_{end}_s") for end in ("low", "high")]
    rate = Column("tokens/s", lambda row: f"{row['tokens_per_s']:,.0f}")
    memory, bound = scaled_column("memory", "B", rows, "total_bytes"), text_column("bound", "bound")
    marks = Column("", lambda row: ("" if row["fits"] else "does not fit ") + ("" if row["valid"] else "*"), "left")
    basis = text_column("constants", "calibration")
    layouts = [
        [label, latency, ratio, *ends, rate, memory, bound, basis, marks],
        [label, latency, ratio, *ends, rate, memory, bound, marks],
        [label, latency, ratio, rate, bound, marks],
    ]
    return layouts[first_fit([grid(layout, rows) for layout in layouts], page.width)]


def _kinds(page: Page, candidates: Sequence[Record]) -> None:
    """A line a kernel kind: the first's seconds, and what each other adds or saves."""
    first, *others = (each["seconds_by_kind"] for each in candidates)
    kinds = [kind for kind in KINDS if any(each["seconds_by_kind"][kind] for each in candidates)]
    divisor, unit = scale_for([each["latency_s"] for each in candidates], "s")
    lines = [{"kind": kind, "seconds": [first[kind], *(each[kind] - first[kind] for each in others)]} for kind in kinds]
    whole = [candidates[0]["latency_s"], *(each["latency_s"] - candidates[0]["latency_s"] for each in candidates[1:])]
    lines.append({"kind": "latency", "seconds": whole})

    def column(number: int) -> Column:
        def cell(line: Record) -> str:
            value = line["seconds"][number] / divisor
            return short_number(value) if number == 0 else f"{'+' if value > 0 else ''}{short_number(value)}"

        return Column(f"{candidates[number]['label']} {unit}" if number == 0 else candidates[number]["label"], cell)

    page.table(grid([text_column("kind", "kind"), *map(column, range(len(candidates)))], lines))
