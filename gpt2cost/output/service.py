"""A service level as rows and as text: a row per device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter

from gpt2cost.output import shared
from gpt2cost.output.field import Field, Record, attribute, attributes, record_of, within
from gpt2cost.output.generate import FIGURES, SETTINGS, cost_range
from gpt2cost.output.page import Page
from gpt2cost.output.record import View, envelope
from gpt2cost.output.with_range import Ranged, cost_column, cost_text, with_range
from gpt2cost.prediction.generate import Generation
from gpt2cost.prediction.service import Offer, Service
from gpt2cost.units import format_quantity

# ---------------------------------------------------------------------------------------------- fields

RUN = [field for field in FIGURES if field.key != "price_per_hour"]
ASKED = [field for field in SETTINGS if field.key != "batch_size"]
OFFER: tuple[Field[Offer], ...] = (
    attribute("gpu", path="hardware.name"), *attributes("batch_size", "limited_by", "price_per_hour"),
    *within(attrgetter("run"), RUN),
)  # fmt: skip
"""A row, after what was asked for. Where no batch holds the level there are no figures."""
LEVEL = attributes("max_ttft_s", "max_tpot_s", "at")


def _inputs(service: Service) -> Record:
    asked = {**record_of(ASKED, service), **record_of(LEVEL, service.level)}
    return {"model": service.model.name, **asked}


def _rows(service: Service) -> list[Record]:
    inputs, impl = _inputs(service), service.settings.how.impl
    return [{**inputs, **record_of(OFFER, offer), "impl": impl} for offer in service.offers]


def _document(service: Service) -> Record:
    cheapest, fastest = service.cheapest, service.fastest
    return {
        **envelope(service.model, service.offers[0].hardware),
        "model": shared.model_record(service.model, service.settings.how),
        "settings": {**record_of((*ASKED, *attributes("impl", of="settings.how")), service)},
        "level": dataclasses.asdict(service.level),
        "offers": _rows(service),
        "cheapest": None if cheapest is None else cheapest.hardware.name,
        "fastest": None if fastest is None else fastest.hardware.name,
        "warnings": list(service.warnings),
    }


# ---------------------------------------------------------------------------------------------- text


def _layouts(offers: Sequence[Offer]) -> list[list[Field[Offer]]]:
    """What the table shows, the fullest layout first."""
    rate, memory = (
        Field(key, header, unit, within(attrgetter("run"), [attribute(key)])[0].get)
        for key, header, unit in (("tokens_per_s", "tokens/s", ","), ("peak_bytes", "memory", "own B"))
    )
    first, later = (
        with_range(header, "s", offers, _of_run(attrgetter(*names)))
        for header, names in (
            ("first token", ("ttft_s", "first.latency_low_s", "first.latency_high_s")),
            ("per token", ("tpot_mean_s", "tpot_low_s", "tpot_high_s")),
        )
    )
    costs = [cost_column(_of_run(cost_range))] if any(offer.price_per_hour for offer in offers) else []
    limit = attribute("limited_by", "limited by")
    start = [attribute("gpu", "device", path="hardware.name"), attribute("batch_size", "batch", ",")]
    return [
        [*start, first, later, rate, memory, *costs, limit],
        [*start, first, later, rate, *costs, limit],
        [*start, first, later, *costs, limit],
        [*start, first, later, *costs],
    ]


def _of_run(ranged: Callable[[Generation], Ranged]) -> Callable[[Offer], Ranged]:
    return lambda offer: () if offer.run is None else ranged(offer.run)


def _heading(service: Service) -> str:
    settings, how = service.settings, service.settings.how
    parts = ["sampling" if settings.sample else "greedy", how.cache_text, *["padded"] * settings.padded]
    return f"{service.model.name}, {shared.how_text(how)}; {', '.join(parts)}"


def _asked(service: Service) -> str:
    settings, level = service.settings, service.level
    limits = [
        f"{what} within {format_quantity(limit, 's')}"
        for what, limit in (("first token", level.max_ttft_s), ("each later token", level.max_tpot_s))
        if limit is not None
    ]
    where = "at the upper end of the range" if level.at == "high" else "in the middle of the range"
    tokens = f"{settings.new_tokens} new tokens after prompts of {settings.prompt_tokens}"
    return f"{tokens}: {', '.join(limits)}, {where}" if limits else tokens


def _text(page: Page, service: Service) -> None:
    """The level, what each device offers, and which is the cheapest."""
    page.line(_heading(service))
    page.line(f"\n{_asked(service)}\n", style="bold")
    page.fields(service.offers, *_layouts(service.offers))
    page.line("\nin brackets the range; first and per token: seconds of one batch of `generate`\n")
    for line in _conclusions(service):
        page.line(line)
    shared.repeat_warnings(page, service.warnings)


def _conclusions(service: Service) -> Iterator[str]:
    cheapest, fastest = service.cheapest, service.fastest
    if cheapest and cheapest.run:
        cost = cost_text(cost_range(cheapest.run), cheapest.price_per_hour)
        yield f"cheapest: {cheapest.hardware.name} with batch {cheapest.batch_size:,}: {cost}"
    if fastest and fastest.run:
        rate = format_quantity(fastest.run.tokens_per_s, "")
        replicas = f" of {fastest.run.gpus} replicas" if fastest.run.gpus > 1 else ""
        yield f"fastest: {fastest.hardware.name} with batch {fastest.batch_size:,}: {rate} tokens/s{replicas}"
    for offer in service.offers:
        if offer.run is None:
            yield f"{offer.hardware.name}: not even a batch of 1 will do ({offer.limited_by})"


def _summary(service: Service) -> tuple[str, str]:
    batches = ", ".join(f"{offer.hardware.name} {offer.batch_size:,}" for offer in service.offers)
    return f"<Service of {_heading(service)}, {_asked(service)}:", f" batch {batches}>"


VIEWS: dict[type, View[Service]] = {Service: View(_rows, _document, _text, _summary)}
