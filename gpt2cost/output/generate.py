"""A generation as rows, as text, and as Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2cost.output.catalog import model_record
from gpt2cost.output.formats import to_markdown
from gpt2cost.output.page import Column, Page, grid, scaled_column, text_column
from gpt2cost.output.record import Record, calibration, envelope
from gpt2cost.prediction.generate import Generation
from gpt2cost.prediction.turns import Turn
from gpt2cost.table.citations import transformers_version
from gpt2cost.units import format_quantity

TURN_FIELDS = ("latency_s", "latency_low_s", "latency_high_s", "pass_s", "generate_s", "host_s", "device_s", "bound")


CURVE_FIELDS = ("latency_s", "latency_low_s", "latency_high_s", "pass_s", "generate_s", "bound")


def generation_record(run: Generation) -> Record:
    """The whole run as a JSON-ready object. The curve has a point for each token after the first."""
    first = turn_record(run.first)
    rest = {name: float(np.sum(getattr(run.rest, name))) for name in ("pass_s", "generate_s")}
    low, high = (
        float(getattr(run.first, name)) + float(np.sum(getattr(run.rest, name)))
        for name in ("latency_low_s", "latency_high_s")
    )
    return {
        **envelope(),
        "transformers_version": transformers_version(),
        "model": model_record(run.model),
        "hardware": {
            "name": run.hardware.name,
            "calibration": calibration(run.hardware, run.settings.dtype),
            "capacity_bytes": round(run.hardware.memory.capacity_bytes),
        },
        "what_if": {"model": dict(run.model.changes), "hardware": dict(run.hardware.changes)},
        "settings": dataclasses.asdict(run.settings),
        "ttft_s": run.ttft_s,
        "ttft_low_s": first["latency_low_s"],
        "ttft_high_s": first["latency_high_s"],
        "tpot_s": run.tpot_s,
        "total_s": run.total_s,
        "total_low_s": low,
        "total_high_s": high,
        "passes_s": first["pass_s"] + rest["pass_s"],
        "generate_s": first["generate_s"] + rest["generate_s"],
        "tokens_per_s": run.tokens_per_s,
        "tokens_per_s_per_request": run.tokens_per_s / run.settings.batch_size,
        "peak_bytes": run.peak_bytes,
        "fits": run.peak_bytes <= run.hardware.memory.capacity_bytes,
        "price_per_hour": run.price_per_hour,
        "cost_per_million_tokens": run.cost_per_million_tokens,
        "first_token": first,
        "curve": [
            {"position": position, **{name: row[name] for name in CURVE_FIELDS}} for position, row in later_records(run)
        ],
        "stretches": [dataclasses.asdict(stretch) for stretch in run.stretches],
        "loop": [dataclasses.asdict(step) for step in run.loop],
        "warnings": list(run.warnings),
    }


def turn_record(turn: Turn, index: int | None = None) -> Record:
    """One turn: a single one, or number `index` of many."""

    def plain(value: Any) -> Any:
        one = value if index is None else value[index]
        return str(one) if isinstance(one, str) else float(one)

    return {name: plain(getattr(turn, name)) for name in TURN_FIELDS}


def later_records(run: Generation) -> Iterator[tuple[int, Record]]:
    """The position and the turn of each token after the first."""
    columns = {name: getattr(run.rest, name).tolist() for name in TURN_FIELDS}
    for position, *values in zip(run.positions.tolist(), *columns.values(), strict=True):
        yield position, dict(zip(TURN_FIELDS, values, strict=True))


def token_records(run: Generation) -> Iterator[Record]:
    """One flat row a new token, every input echoed: for CSV and JSON lines."""
    inputs = {"model": run.model.name, "gpu": run.hardware.name, **dataclasses.asdict(run.settings)}
    yield {**inputs, "token": 1, "position": run.settings.prompt, "phase": "prefill", **turn_record(run.first)}
    for token, (position, row) in enumerate(later_records(run), 2):
        yield {**inputs, "token": token, "position": position, "phase": "decode", **row}


SHOWN = 9
"""Points of the curve in the table."""


def render_generation(page: Page, document: Record) -> None:
    """A run: what it is, the curve at some positions, what bounds each stretch, and a summary to act on."""
    settings, model = document["settings"], document["model"]
    page.line(
        f"{model['name']} ({format_quantity(model['parameters'], '')} parameters) on {document['hardware']['name']},",
        f" {settings['dtype']}, {settings['attn']} attention, {settings['runtime']} runtime; {_loop(settings)}",
    )
    page.line(
        f"\n{settings['batch_size']} x {settings['new_tokens']} new tokens after prompts of {settings['prompt']}\n",
        style="bold",
    )
    first = {"position": settings["prompt"], **document["first_token"]}
    rows = [first, *_some(document["curve"])]
    page.table(
        grid(
            [
                Column("position", lambda record: str(record["position"]), "right"),
                scaled_column("latency", "s", rows, "latency_s"),
                scaled_column("pass", "s", rows, "pass_s"),
                scaled_column("generate", "s", rows, "generate_s"),
                text_column("bound", "bound"),
            ],
            rows,
        )
    )
    page.line("\npass: the forward pass as `predict` gives it; generate: what the loop around it adds\n")
    for stretch in document["stretches"]:
        page.line(_stretch(stretch))
    page.line()
    for line in _summary(document):
        page.line(line)


def _loop(settings: Record) -> str:
    parts = ["sampling" if settings["sample"] else "greedy"]
    parts.append(f"{settings['cache_type']} KV cache" if settings["use_cache"] else "no KV cache")
    return ", ".join(parts + ["padded"] * settings["padded"])


def _some(curve: list[Record]) -> list[Record]:
    """The first, the last, and some between them at equal distances."""
    last = len(curve) - 1
    if last < SHOWN:
        return curve
    return [curve[round(index * last / (SHOWN - 1))] for index in range(SHOWN)]


def _stretch(stretch: Record) -> str:
    seconds = format_quantity(stretch["latency_s"], "s")
    if stretch["tokens"] == 1:
        return f"{stretch['phase']} of position {stretch['first_position']}: {seconds}, {stretch['bound']}-bound"
    where = f"positions {stretch['first_position']} to {stretch['last_position']}"
    each = format_quantity(stretch["latency_s"] / stretch["tokens"], "s")
    return f"{stretch['phase']} of {where}: {seconds}, {each} a token, {stretch['bound']}-bound"


def _summary(document: Record) -> list[str]:
    def seconds(key: str) -> str:
        return format_quantity(document[key], "s")

    known = document["hardware"]["calibration"]
    tpot = {name: value for name, value in document["tpot_s"].items() if value is not None}
    later = ", ".join(f"{name} {format_quantity(value, 's')}" for name, value in tpot.items()) or "none"
    per_request = format_quantity(document["tokens_per_s_per_request"], "")
    fits = "fits" if document["fits"] else "does NOT fit"
    lines = [
        f"time to first token: {seconds('ttft_s')} ({seconds('ttft_low_s')} to {seconds('ttft_high_s')}, {known})",
        f"time per later token: {later}",
        f"total: {seconds('total_s')} ({seconds('total_low_s')} to {seconds('total_high_s')}, {known}),"
        f" of which passes {seconds('passes_s')}, generate {seconds('generate_s')}",
        f"throughput: {format_quantity(document['tokens_per_s'], '')} tokens/s, {per_request} tokens/s a request",
        f"memory: {format_quantity(document['peak_bytes'], 'B')} at the peak of"
        f" {format_quantity(document['hardware']['capacity_bytes'], 'B')}, {fits}",
    ]
    if document["cost_per_million_tokens"] is not None:
        cost, price = document["cost_per_million_tokens"], document["price_per_hour"]
        lines.append(f"cost: {cost:.4g} a million new tokens at {price:g} an hour")
    return lines


def generation_markdown(document: Record) -> str:
    """The figures, the stretches, the curve at some positions, and the steps of the loop."""
    names = (
        "ttft_s", "total_s", "passes_s", "generate_s", "tokens_per_s", "tokens_per_s_per_request", "peak_bytes",
        "cost_per_million_tokens",
    )  # fmt: skip
    figures = {name: document[name] for name in names if document[name] is not None}
    figures |= {f"tpot_{name}_s": value for name, value in document["tpot_s"].items() if value is not None}
    parts = {
        "generation": [{"figure": name, "value": value} for name, value in figures.items()],
        "stretches": document["stretches"],
        "curve": _some(document["curve"]),
        "one turn of the loop": document["loop"],
    }
    return "\n".join(f"## {title}\n\n{to_markdown(rows)}" for title, rows in parts.items() if rows)
