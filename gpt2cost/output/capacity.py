"""Capacities as rows and as text."""

from __future__ import annotations

from gpt2cost.output.compare import (
    _figures,
    _inputs,
    _what_if,
    _work,
)
from gpt2cost.output.page import Column, Page, grid, text_column
from gpt2cost.output.record import Record, envelope
from gpt2cost.prediction.capacity import Capacity
from gpt2cost.prediction.compare import Work
from gpt2cost.prediction.sweep import Combination
from gpt2cost.units import format_quantity

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


def render_capacity(page: Page, document: Record) -> None:
    """The answers, a line each, and what limits them."""
    rows, limit = document["answers"], document["settings"]["max_latency_s"]
    first = rows[0]
    bound = "" if limit is None else f", latency up to {format_quantity(limit, 's')}"
    page.line(f"{first['model']} on {first['gpu']}, {first['dtype']}, {first['attn']}, {first['runtime']}{bound}\n")

    def figure(header: str, unit: str, key: str) -> Column:
        return Column(header, lambda row: "-" if row[key] is None else format_quantity(row[key], unit))

    columns = [
        text_column("phase", "phase"),
        text_column("goal", "goal"),
        Column("batch", lambda row: f"{row['batch_size']:,}"),
        Column("new tokens", lambda row: str(row["seq_len"])),
        Column("cached", lambda row: str(row["cache_len"])),
        figure("latency", "s", "latency_s"),
        Column("range", _range, "left"),
        Column("tokens/s", lambda row: "-" if row["tokens_per_s"] is None else f"{row['tokens_per_s']:,.0f}"),
        figure("memory", "B", "total_bytes"),
        text_column("limited by", "limited_by"),
    ]
    page.table(grid(columns, rows))
    if any(row["limited_by"] == "positions" for row in rows):
        page.line(f"\npositions: the model has {document['positions']} learned ones, and cannot run beyond them")


def _range(row: Record) -> str:
    if row["latency_s"] is None:
        return "-"
    return " to ".join(format_quantity(row[f"latency_{end}_s"], "s") for end in ("low", "high"))
