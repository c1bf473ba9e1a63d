"""A generation as rows, as text, and as Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from gpt2cost.output.field import Field, Record, attribute, attributes, column, record_of
from gpt2cost.output.formats import figures, sections
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.output.shared import (
    CHOICE,
    HOW,
    hardware_head,
    model_record,
    range_text,
    repeat_warnings,
    run_text,
    size_text,
    trust_text,
)
from gpt2cost.output.with_range import Ranged, cost_text
from gpt2cost.prediction.generate import RANGE, Generation, Stretch
from gpt2cost.prediction.one_pass import as_python
from gpt2cost.units import format_quantity

SHOWN = 9
"""How many later tokens the table shows."""

TURN = (
    "latency_s", "latency_low_s", "latency_high_s", "pass_s", "generate_s", "host_s", "device_s", "bound", "trust",
    "trust_from",
)  # fmt: skip
"""What is known of every token."""
CURVE = ("position", *TURN[:5], "bound")
"""A point of the curve in JSON."""
TEXT = (
    column("position", "position"), column("latency_s", "latency", "s"), column("latency_low_s", "low", "s"),
    column("latency_high_s", "high", "s"), column("pass_s", "pass", "s"), column("generate_s", "generate", "s"),
    column("bound", "bound"),
)  # fmt: skip
"""The columns of the text."""


def _tokens(run: Generation) -> list[Record]:
    """The rows, without the inputs: one per new token. `position`: how many tokens precede it."""
    columns = {
        "token": range(1, run.settings.new_tokens + 1),
        "position": [run.settings.prompt_tokens, *run.positions.tolist()],
        "phase": ["prefill"] + ["decode"] * len(run.positions),
        **{name: [as_python(getattr(run.first, name)), *getattr(run.rest, name).tolist()] for name in TURN},
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _part(row: Record, names: Sequence[str]) -> Record:
    return {name: row[name] for name in names}


SETTINGS = (
    *attributes("batch_size", "prompt_tokens", "new_tokens", "sample", "padded", of="settings"),
    *attributes(*HOW, of="settings.how"),
)
"""How text is generated, flat."""
PRICE = attributes("price_per_hour", "cost_per_million_tokens")
"""What the device costs, and a token of the whole run."""
IMPL = attributes("impl", of="settings.how")
"""Whose `generate` it is: the last field of a row."""


def _summed(key: str, name: str) -> Field[Generation]:
    return Field(key, "", "", lambda run: run.summed(name))


FIGURES: tuple[Field[Generation], ...] = (
    attribute("ttft_s"), Field("ttft_low_s", "", "", lambda run: float(run.first.latency_low_s)),
    Field("ttft_high_s", "", "", lambda run: float(run.first.latency_high_s)),
    *attributes("tpot_first_s", "tpot_mean_s", "tpot_last_s", "tpot_low_s", "tpot_high_s", "total_s"),
    _summed("total_low_s", "latency_low_s"), _summed("total_high_s", "latency_high_s"), _summed("passes_s", "pass_s"),
    _summed("generate_s", "generate_s"), attribute("tokens_per_s"),
    Field("tokens_per_s_per_request", "", "", lambda run: run.tokens_per_s / run.gpus / run.settings.batch_size),
    *attributes("peak_bytes", "fits", "price_per_hour", "cost_per_million_tokens"),
    Field("cost_low_per_million_tokens", "", "", lambda run: run.cost_at("latency_low_s")),
    Field("cost_high_per_million_tokens", "", "", lambda run: run.cost_at("latency_high_s")),
    *attributes("tokens_per_dollar", "gpus"),
)  # fmt: skip
"""The figures of a whole run. The range of the time per token is that of its mean."""

# ---------------------------------------------------------------------------------------------- records


def _rows(run: Generation) -> Iterator[Record]:
    """One flat row per new token, with every input."""
    inputs, impl = (record_of(fields, run) for fields in ((*CHOICE[:2], *SETTINGS, *PRICE), IMPL))
    return ({**inputs, **token, **impl} for token in _tokens(run))


def _document(run: Generation) -> Record:
    """The whole run. The curve has a point for each token after the first."""
    first, *later = _tokens(run)
    head = hardware_head(run.hardware, run.settings.how.dtype)
    return {
        **envelope(run.model, run.hardware),
        "model": model_record(run.model, run.settings.how),
        "hardware": {**head, "capacity_bytes": round(run.hardware.memory.usable_bytes)},
        "settings": record_of((*SETTINGS, *IMPL), run),
        **record_of(FIGURES, run),
        "first_token": _part(first, TURN),
        "curve": [_part(token, CURVE) for token in later],
        "stretches": list(map(dataclasses.asdict, run.stretches)),
        "loop": list(map(dataclasses.asdict, run.loop)),
        "warnings": list(run.warnings),
    }


def _some(later: Sequence[Record]) -> Sequence[Record]:
    """The first, the last, and some between them at equal distances."""
    last = len(later) - 1
    return later if last < SHOWN else [later[round(index * last / (SHOWN - 1))] for index in range(SHOWN)]


def _markdown(run: Generation) -> str:
    """The figures, the stretches, the curve at some positions, and the steps of the loop."""
    document = _document(run)
    return sections(
        ("## generation", figures(record_of(FIGURES, run))),
        ("## stretches", document["stretches"]),
        ("## curve", _some(document["curve"])),
        ("## one turn of the loop", document["loop"]),
    )


# ---------------------------------------------------------------------------------------------- text


def _heading(run: Generation) -> str:
    settings, how = run.settings, run.settings.how
    parts = [
        "sampling" if settings.sample else "greedy",
        how.cache_text,
        *["padded"] * settings.padded,
    ]
    return f"{run_text(run.model, run.hardware, how)}; {', '.join(parts)}"


def _new_tokens(run: Generation) -> str:
    return f"{run.settings.batch_size} x {run.settings.new_tokens} new tokens"


def _encoder(run: Generation) -> str:
    states = run.model.encoder_len
    return f", with {states} states of an encoder, whose own pass is not part of it" if states else ""


def _text(page: Page, run: Generation) -> None:
    """A run: what it is, the curve at some positions, what bounds each stretch, and a summary to act on."""
    page.line(_heading(run))
    page.line(f"\n{_new_tokens(run)} after prompts of {run.settings.prompt_tokens}{_encoder(run)}\n", style="bold")
    first, *later = _tokens(run)
    page.fields([first, *_some(later)], TEXT)
    page.line("\npass: the forward pass as `predict` gives it; generate: what the loop around it adds\n")
    for stretch in run.stretches:
        page.line(_stretch(stretch))
    page.line()
    for line in _conclusions(run):
        page.line(line)
    page.line(size_text(run.model, run.settings.how))
    repeat_warnings(page, run.warnings)


def _stretch(stretch: Stretch) -> str:
    latency = _ranged(stretch, 1)
    if stretch.tokens == 1:
        return f"{stretch.phase} of position {stretch.first_position}: {latency}, {stretch.bound}-bound"
    where = f"positions {stretch.first_position} to {stretch.last_position}"
    per_token = f"{_ranged(stretch, stretch.tokens)} per token"
    return f"{stretch.phase} of {where}: {per_token}, {latency} in all, {stretch.bound}-bound"


def _ranged(stretch: Stretch, tokens: int) -> str:
    middle, low, high = (getattr(stretch, name) / tokens for name in RANGE)
    return f"{format_quantity(middle, 's')} ({range_text(low, high)})"


def _conclusions(run: Generation) -> Iterator[str]:
    figure = record_of(FIGURES, run)

    def shown(key: str, unit: str = "s") -> str:
        return format_quantity(figure[key], unit)

    def ranged(key: str, *tokens: Record, middle: str = "") -> str:
        words = dict.fromkeys(trust_text(token["trust"], token["trust_from"], run.hardware) for token in tokens)
        range_ = range_text(figure[f"{key}_low_s"], figure[f"{key}_high_s"])
        return f"{shown(middle or f'{key}_s')} ({range_}, {', '.join(words)})"

    every = _tokens(run)
    yield f"time to first token: {ranged('ttft', every[0])}"
    later = ranged("tpot", *every[1:], middle="tpot_mean_s") if len(run.positions) else "none"
    yield f"time per later token: {later}"
    yield f"total: {ranged('total', *every)}, of which passes {shown('passes_s')}, generate {shown('generate_s')}"
    per_request = shown("tokens_per_s_per_request", "")
    replicas = f" of {run.gpus} replicas" if run.gpus > 1 else ""
    yield f"throughput: {shown('tokens_per_s', '')} tokens/s{replicas}, {per_request} tokens/s per request"
    capacity = format_quantity(run.hardware.memory.usable_bytes, "B")
    yield f"memory: {shown('peak_bytes', 'B')} at the peak of {capacity}, {'fits' if run.fits else 'does NOT fit'}"
    if run.price_per_hour is not None:
        yield f"cost: {cost_text(cost_range(run), run.price_per_hour)}"


def cost_range(run: Generation) -> Ranged:
    """What a million tokens cost, and the range of it."""
    return tuple(map(run.cost_at, RANGE))


def _summary(run: Generation) -> tuple[str, str]:
    seconds = f"first {format_quantity(run.ttft_s, 's')}, all {format_quantity(run.total_s, 's')}"
    sizes = f"{_new_tokens(run)} after {run.settings.prompt_tokens}"
    return f"<Generation: {_heading(run)}", f" {sizes}: {seconds}>"


VIEWS: dict[type, View[Any]] = {Generation: View(_rows, _document, _text, _summary, _markdown)}
