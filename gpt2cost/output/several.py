"""What several devices answer to one question, side by side: predictions, generations, capacities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

from gpt2cost.output import capacity as of_capacity
from gpt2cost.output import shared
from gpt2cost.output.energy import energy_table, energy_view, of_each
from gpt2cost.output.field import Field, Record, attribute, within
from gpt2cost.output.formats import sections, to_markdown
from gpt2cost.output.generate import cost_range
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.output.with_range import Ranged, cost_column, cost_text, with_range
from gpt2cost.prediction.capacity import Answer, Capacity
from gpt2cost.prediction.generate import Generation
from gpt2cost.prediction.predict import Phase, Prediction, Totals
from gpt2cost.prediction.several import Several

# ---------------------------------------------------------------------------------------------- what passes cost


@dataclass(frozen=True)
class Priced:
    """A pass on one of the devices: of a prediction, or of an answer to what a device can hold."""

    result: Any
    part: Phase | Answer
    totals: Totals | None
    price_per_hour: float | None

    @property
    def cost(self) -> Ranged:
        """Of a million tokens: the middle, the least and the most. A prefill's tokens are those of the prompt."""
        if self.totals is None or self.price_per_hour is None:
            return ()
        totals = self.totals
        tokens = totals.tokens_per_s * totals.latency_s
        seconds = totals.latency_s, totals.latency_low_s, totals.latency_high_s
        return tuple(self.price_per_hour / 3600 * each / tokens * 1e6 for each in seconds)

    @property
    def columns(self) -> Record:
        """What it costs, as columns of flat rows."""
        middle, low, high = self.cost or (None, None, None)
        return {
            "price_per_hour": self.price_per_hour, "cost_per_million_tokens": middle,
            "cost_low_per_million_tokens": low, "cost_high_per_million_tokens": high,
        }  # fmt: skip


def _parts(several: Several) -> Iterator[Priced]:
    """The passes of all devices, device by device."""
    for result, price in zip(several.results, several.prices, strict=True):
        if isinstance(result, Capacity):
            for answer in result.answers:
                totals = answer.prediction.phases[0].totals if answer.prediction else None
                yield Priced(result, answer, totals, price)
        elif isinstance(result, Prediction):
            for phase in result.phases:
                yield Priced(result, phase, phase.totals, price)


# ---------------------------------------------------------------------------------------------- records


def _rows(several: Several, inner: View[Any]) -> Iterator[Record]:
    """The rows of each device's own result; where there are prices, with what a token costs."""
    parts = list(_parts(several)) if several.priced else []
    for result in several.results:
        own = [part for part in parts if part.result is result]
        phases = {part.part.phase: part for part in own}
        for number, row in enumerate(inner.rows(result)):
            priced = own[number] if own and isinstance(result, Capacity) else phases.get(row.get("phase", ""))
            yield {**row, **(priced.columns if priced else {})}


def _document(several: Several, inner: View[Any]) -> Record:
    """The documents of each device's own result under `runs`, each with its device's price and costs."""
    runs = []
    for result, price in zip(several.results, several.prices, strict=True):
        own = _cost_records(several, result)
        costs = {"costs": own} if own and several.priced else {}
        runs.append({**inner.document(result), "price_per_hour": price, **costs})
    return {**envelope(), "runs": runs, "warnings": list(several.warnings)}


def _cost_records(several: Several, result: Any) -> list[Record]:
    """What a token of each pass of one result costs."""
    return [{"phase": part.part.phase, **part.columns} for part in _parts(several) if part.result is result]


def _markdown(several: Several, inner: View[Any]) -> str:
    """One device's own sections, and what a token costs; of several devices the rows."""
    if len(several.results) > 1 or inner.markdown is None:
        return to_markdown(_rows(several, inner))
    (result,) = several.results
    return f"{inner.markdown(result)}\n{sections(('## cost', _cost_records(several, result)))}"


# ---------------------------------------------------------------------------------------------- text

DEVICE: Field[Priced] = Field("gpu", "device", "", lambda row: getattr(row.result, "choice", row.result).hardware.name)
LATENCY, LOW, HIGH, RATE, BOUND = within(lambda row: row.totals, shared.TOTALS)
MEMORY: Field[Priced] = attribute("total_bytes", "memory", "own B", of="result.memory")
FITS: Field[Any] = Field("", "", "", lambda row: "" if row.result.memory.fits else "does not fit")
TRUST = replace(within(lambda row: row.totals, shared.TRUST)[0], header="trust")
COST = cost_column(lambda row: row.cost)


def _text(page: Page, several: Several, inner: View[Any], energy: bool) -> None:
    _table(page, several, inner)
    if energy:
        energy_table(page, of_each(several.results))


def _table(page: Page, several: Several, inner: View[Any]) -> None:
    first = several.results[0]
    if len(several.results) == 1 and not isinstance(first, Capacity):
        inner.text(page, first)
        for line in _costs(list(_parts(several))):
            page.line(line)
        return
    if isinstance(first, Generation):
        _generations(page, several)
    elif isinstance(first, Capacity):
        _capacities(page, several)
    else:
        _predictions(page, several)
    shared.repeat_warnings(page, several.warnings)


def _costs(parts: Sequence[Priced]) -> Iterator[str]:
    for part in parts:
        if cost := cost_text(part.cost, part.price_per_hour):
            yield f"{part.part.phase}: {cost}"


def _predictions(page: Page, several: Several) -> None:
    """A table per phase, and which device is the fastest and the cheapest."""
    first: Prediction = several.results[0]
    page.line(f"{first.model.name}, {shared.how_text(first.how)}; logits of {first.how.logits_text}")
    passes = list(_parts(several))
    for phase in first.phases:
        rows = [row for row in passes if row.part.phase == phase.phase]
        page.line(f"\n{phase.phase}: {shared.sizes_text(phase)}\n", style="bold")
        cost = [COST] if several.priced else []
        start = [DEVICE, LATENCY, LOW, HIGH]
        page.fields(
            rows,
            [*start, RATE, MEMORY, *cost, BOUND, TRUST, FITS],
            [*start, RATE, *cost, BOUND, FITS],
            [*start, *cost, FITS],
        )
        page.line()
        for line in _best(rows):
            page.line(line)
    page.line(
        "\none device alone shows its kernels; `gpt2cost compare` where the time goes and where the ranking changes"
    )


def _best(rows: Sequence[Priced]) -> Iterator[str]:
    """The fastest device of a phase, and the cheapest."""
    able = [row for row in rows if row.totals is not None and row.result.memory.fits]
    if not able:
        return
    fastest = min(able, key=LATENCY.get)
    yield f"fastest: {DEVICE.get(fastest)}"
    if priced := [row for row in able if row.cost]:
        cheapest = min(priced, key=lambda row: row.cost[0] or 0.0)
        yield f"cheapest: {DEVICE.get(cheapest)}: {cost_text(cheapest.cost, cheapest.price_per_hour)}"


def _capacities(page: Page, several: Several) -> None:
    """The answers of all devices, a line each."""
    first: Capacity = several.results[0]
    page.line(f"{of_capacity.asked_text(first)}\n")
    rows = list(_parts(several))

    columns = within(attrgetter("part"), of_capacity.COLUMNS)
    cost = [COST] if several.priced else []
    left_out: list[set[str]] = [set(), {"new tokens", "cached", "memory"}]
    left_out.append(left_out[-1] | {"latency", "limited by"})
    if cost:
        left_out.append(left_out[-1] | {"range", "tokens/s"})
    page.fields(rows, *([DEVICE, *(one for one in columns if one.header not in out), *cost] for out in left_out))
    of_capacity.explain_positions(page, first)
    best = [row for row in rows if row.part.goal == "best throughput" and row.cost]  # type: ignore[union-attr]
    for phase in dict.fromkeys(row.part.phase for row in best):
        cheapest = min((row for row in best if row.part.phase == phase), key=lambda row: row.cost[0] or 0.0)
        cost_said = cost_text(cheapest.cost, cheapest.price_per_hour)
        page.line(f"\ncheapest {phase}: {DEVICE.get(cheapest)}: {cost_said}")


def _generations(page: Page, several: Several) -> None:
    """A line per device, and which is the fastest and the cheapest."""
    runs: Sequence[Generation] = several.results
    settings, how = runs[0].settings, runs[0].settings.how
    page.line(f"{runs[0].model.name}, {shared.how_text(how)}; {how.cache_text}")
    tokens = f"{settings.batch_size} x {settings.new_tokens} new tokens after prompts of {settings.prompt_tokens}"
    page.line(f"\n{tokens}\n", style="bold")
    first, later, whole = (with_range(header, "s", runs, partial(_figures, names)) for header, names in RANGES.items())
    start = [attribute("gpu", "device", path="hardware.name")]
    rate, memory = attribute("tokens_per_s", "tokens/s", ","), attribute("peak_bytes", "memory", "own B")
    fits: Field[Generation] = Field("", "", "", lambda run: "" if run.fits else "does not fit")
    cost = [cost_column(cost_range)] if several.priced else []
    page.fields(
        runs,
        [*start, first, later, whole, rate, memory, *cost, fits],
        [*start, first, later, rate, *cost, fits],
        [*start, first, later, *cost, fits],
    )
    page.line("\nin brackets the range\n")
    able = [run for run in runs if run.fits]
    if able:
        fastest = min(able, key=lambda run: run.total_s)
        page.line(f"fastest: {fastest.hardware.name}")
    if priced := [run for run in able if run.price_per_hour is not None]:
        cheapest = min(priced, key=lambda run: run.cost_per_million_tokens or 0.0)
        page.line(f"cheapest: {cheapest.hardware.name}: {cost_text(cost_range(cheapest), cheapest.price_per_hour)}")


RANGES = {
    "first token": ("ttft_s", "first.latency_low_s", "first.latency_high_s"),
    "per token": ("tpot_mean_s", "tpot_low_s", "tpot_high_s"),
    "in all": ("latency_s", "latency_low_s", "latency_high_s"),
}


def _figures(names: Sequence[str], run: Generation) -> Ranged:
    if names == RANGES["in all"]:
        return tuple(map(run.summed, names))
    return tuple(attribute(name, path=name).get(run) for name in names)


# ---------------------------------------------------------------------------------------------- the view


def several_view(inner: View[Any], energy: bool = False) -> View[Several]:
    """The view of several results, of which each has the view `inner`; with `energy`, and their energy."""
    each = energy_view(inner) if energy else inner
    return View(
        partial(_rows, inner=each),
        partial(_document, inner=each),
        partial(_text, inner=inner, energy=energy),
        markdown=partial(_markdown, inner=each),
    )
