"""A generation as rows, as text, and as Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from gpt2cost.output.formats import figures, sections
from gpt2cost.output.page import Page
from gpt2cost.output.record import (
    MODEL,
    Field,
    Record,
    View,
    attribute,
    calibration,
    envelope,
    hardware_head,
    how_record,
    record_of,
    within,
)
from gpt2cost.prediction.generate import Generation, Stretch
from gpt2cost.prediction.one_pass import as_python
from gpt2cost.prediction.turns import GenerateSettings, Turn
from gpt2cost.units import format_quantity

SHOWN = 9
"""Later tokens in the table."""


@dataclass(frozen=True)
class NewToken:
    """One row: a token of the text. `position`: how many tokens precede it."""

    token: int
    position: int
    phase: str
    turn: Turn


def _tokens(run: Generation) -> list[NewToken]:
    names = [field.name for field in dataclasses.fields(Turn)]
    first = Turn(*(as_python(getattr(run.first, name)) for name in names))
    columns = (getattr(run.rest, name).tolist() for name in names)
    later = zip(run.positions.tolist(), *columns, strict=True)
    return [
        NewToken(1, run.settings.prompt_tokens, "prefill", first),
        *(NewToken(token, position, "decode", Turn(*turn)) for token, (position, *turn) in enumerate(later, 2)),
    ]


# ---------------------------------------------------------------------------------------------- fields

POSITION = attribute("position", "position")
LATENCY, LOW, HIGH, PASS_S, GENERATE_S, HOST_S, DEVICE_S, BOUND = TURN = within(
    attrgetter("turn"),
    (
        attribute("latency_s", "latency", "s"), attribute("latency_low_s"), attribute("latency_high_s"),
        attribute("pass_s", "pass", "s"), attribute("generate_s", "generate", "s"), attribute("host_s"),
        attribute("device_s"), attribute("bound", "bound"),
    ),
)  # fmt: skip
CURVE: tuple[Field[NewToken], ...] = (POSITION, LATENCY, LOW, HIGH, PASS_S, GENERATE_S, BOUND)
"""A point of the curve in JSON."""
TOKEN: tuple[Field[NewToken], ...] = (attribute("token"), POSITION, attribute("phase"), *TURN)
"""The fields of every row, after the inputs."""


def _summed(key: str, name: str) -> Field[Generation]:
    return Field(key, "", "", lambda run: run.summed(name))


FIGURES: tuple[Field[Generation], ...] = (
    attribute("ttft_s"),
    Field("ttft_low_s", "", "", lambda run: float(run.first.latency_low_s)),
    Field("ttft_high_s", "", "", lambda run: float(run.first.latency_high_s)),
    *map(attribute, ("tpot_first_s", "tpot_mean_s", "tpot_last_s", "total_s")),
    _summed("total_low_s", "latency_low_s"), _summed("total_high_s", "latency_high_s"), _summed("passes_s", "pass_s"),
    _summed("generate_s", "generate_s"), attribute("tokens_per_s"),
    Field("tokens_per_s_per_request", "", "", lambda run: run.tokens_per_s / run.settings.batch_size),
    *map(attribute, ("peak_bytes", "fits", "price_per_hour", "cost_per_million_tokens")),
)  # fmt: skip
"""The figures of a whole run."""

# ---------------------------------------------------------------------------------------------- records


def _settings(settings: GenerateSettings) -> Record:
    """How text is generated, flat."""
    own = ("batch_size", "prompt_tokens", "new_tokens", "sample", "cache_type", "padded")
    return {**{name: getattr(settings, name) for name in own}, **how_record(settings.how)}


def _rows(run: Generation) -> Iterator[Record]:
    """One flat row per new token, with every input."""
    inputs = {"model": run.model.name, "gpu": run.hardware.name, **_settings(run.settings)}
    return ({**inputs, **record_of(TOKEN, token)} for token in _tokens(run))


def _document(run: Generation) -> Record:
    """The whole run. The curve has a point for each token after the first."""
    first, *later = _tokens(run)
    head = hardware_head(run.hardware, run.settings.how.dtype)
    return {
        **envelope(run.model, run.hardware),
        "model": record_of(MODEL, run.model),
        "hardware": {**head, "capacity_bytes": round(run.hardware.memory.capacity_bytes)},
        "settings": _settings(run.settings),
        **record_of(FIGURES, run),
        "first_token": record_of(TURN, first),
        "curve": [record_of(CURVE, token) for token in later],
        **_steps(run),
        "warnings": list(run.warnings),
    }


def _steps(run: Generation) -> Record:
    """What bounds the tokens, and what `generate` does in one turn around the pass."""
    return {"stretches": list(map(dataclasses.asdict, run.stretches)), "loop": list(map(dataclasses.asdict, run.loop))}


def _some(later: Sequence[NewToken]) -> Sequence[NewToken]:
    """The first, the last, and some between them at equal distances."""
    last = len(later) - 1
    return later if last < SHOWN else [later[round(index * last / (SHOWN - 1))] for index in range(SHOWN)]


def _markdown(run: Generation) -> str:
    """The figures, the stretches, the curve at some positions, and the steps of the loop."""
    steps = _steps(run)
    return sections(
        {
            "generation": figures(record_of(FIGURES, run)),
            "stretches": steps["stretches"],
            "curve": [record_of(CURVE, token) for token in _some(_tokens(run)[1:])],
            "one turn of the loop": steps["loop"],
        }
    )


# ---------------------------------------------------------------------------------------------- text


def _heading(run: Generation) -> str:
    settings, how = run.settings, run.settings.how
    parts = [
        "sampling" if settings.sample else "greedy",
        f"{settings.cache_type} KV cache" if how.use_cache else "no KV cache",
        *["padded"] * settings.padded,
    ]
    return (
        f"{run.model.name} ({format_quantity(run.model.parameters, '')} parameters) on {run.hardware.name},"
        f" {how.dtype}, {how.attn} attention, {how.runtime} runtime; {', '.join(parts)}"
    )


def _text(page: Page, run: Generation) -> None:
    """A run: what it is, the curve at some positions, what bounds each stretch, and a summary to act on."""
    settings = run.settings
    page.line(_heading(run))
    page.line(
        f"\n{settings.batch_size} x {settings.new_tokens} new tokens after prompts of {settings.prompt_tokens}\n",
        style="bold",
    )
    first, *later = _tokens(run)
    page.fields([first, *_some(later)], (POSITION, LATENCY, PASS_S, GENERATE_S, BOUND))
    page.line("\npass: the forward pass as `predict` gives it; generate: what the loop around it adds\n")
    for stretch in run.stretches:
        page.line(_stretch(stretch))
    page.line()
    for line in _conclusions(run):
        page.line(line)


def _stretch(stretch: Stretch) -> str:
    latency = format_quantity(stretch.latency_s, "s")
    if stretch.tokens == 1:
        return f"{stretch.phase} of position {stretch.first_position}: {latency}, {stretch.bound}-bound"
    where = f"positions {stretch.first_position} to {stretch.last_position}"
    per_token = format_quantity(stretch.latency_s / stretch.tokens, "s")
    return f"{stretch.phase} of {where}: {latency}, {per_token} per token, {stretch.bound}-bound"


def _conclusions(run: Generation) -> Iterator[str]:
    figure = record_of(FIGURES, run)

    def shown(key: str, unit: str = "s") -> str:
        return format_quantity(figure[key], unit)

    def ranged(key: str) -> str:
        trust = calibration(run.hardware, run.settings.how.dtype)
        return f"{shown(f'{key}_s')} ({shown(f'{key}_low_s')} to {shown(f'{key}_high_s')}, {trust})"

    later = [f"{name} {shown(f'tpot_{name}_s')}" for name in ("first", "mean", "last") if len(run.positions)]
    yield f"time to first token: {ranged('ttft')}"
    yield f"time per later token: {', '.join(later) or 'none'}"
    yield f"total: {ranged('total')}, of which passes {shown('passes_s')}, generate {shown('generate_s')}"
    per_request = shown("tokens_per_s_per_request", "")
    yield f"throughput: {shown('tokens_per_s', '')} tokens/s, {per_request} tokens/s per request"
    capacity = format_quantity(run.hardware.memory.capacity_bytes, "B")
    yield f"memory: {shown('peak_bytes', 'B')} at the peak of {capacity}, {'fits' if run.fits else 'does NOT fit'}"
    if run.price_per_hour is not None:
        yield f"cost: {run.cost_per_million_tokens:.4g} per million new tokens at {run.price_per_hour:g} per hour"


def _summary(run: Generation) -> tuple[str, ...]:
    settings = run.settings
    seconds = f"first {format_quantity(run.ttft_s, 's')}, all {format_quantity(run.total_s, 's')}"
    return (
        f"<Generation: {_heading(run)}",
        f" {settings.batch_size} x {settings.new_tokens} new tokens after {settings.prompt_tokens}: {seconds}>",
    )


GENERATION: View[Generation] = View(_rows, _document, _text, _summary, _markdown)
VIEWS: dict[type, View[Any]] = {Generation: GENERATION}
