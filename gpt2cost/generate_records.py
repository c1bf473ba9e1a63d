"""`Generation` to plain rows: the only list of its output fields. Keys carry their unit; values are SI."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpt2cost.citations import transformers_version
from gpt2cost.generate_run import Generation
from gpt2cost.records import Record, calibration, envelope, model_record
from gpt2cost.turns import Turn

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
