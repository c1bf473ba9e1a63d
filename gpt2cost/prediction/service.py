"""A service level: the batch with which each device answers in time, and what a token then costs.

All sequences of a batch begin together, as in HuggingFace's `generate`. The level holds for the time to the first
token and for the mean time per later token, at the middle of the range or at its upper end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpt2cost.checks import check_choice, check_point, check_positive
from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.energy import EnergyBound
from gpt2cost.prediction.generate import Generation, check_generate, generate_run
from gpt2cost.prediction.grid import Axis
from gpt2cost.prediction.prices import Prices, prices_of, without_price
from gpt2cost.prediction.search import largest_where
from gpt2cost.prediction.several import devices_of, each_that_runs
from gpt2cost.prediction.turns import GenerateSettings, Turns
from gpt2cost.result import Result
from gpt2cost.table.config import Model, load_model

FIGURES = {"middle": "latency_s", "high": "latency_high_s"}
"""A point of a range -> what a `Turn` calls its seconds there."""
AT = tuple(FIGURES)
MOST_BATCH = 1 << 20
"""Batches are looked for up to this size."""
POINTS = 1 << 15
"""Batches x tokens that are evaluated together."""
RANKED = 2048
"""How many batches are ranked for their throughput; of more, some."""
SAMPLED = 5
"""Later tokens by which batches are ranked before the best are evaluated with all."""
FINALISTS = 16
"""How many of them are."""


@dataclass(frozen=True)
class Level:
    """What is asked of a service; None: no limit. `at`: the point of the range that must hold it."""

    max_ttft_s: float | None
    max_tpot_s: float | None
    at: str

    def seconds(self, turns: Turns, tokens: Any) -> Any:
        """The seconds at that point of some tokens after the first, or (0) of the first."""
        return turns.seconds(FIGURES[self.at], tokens)


@dataclass(frozen=True, eq=False)
class Offer:
    """What one device can do. Where not even a batch of one holds the level `run` is None.

    `limited_by`: why the batch is not larger: `memory`, `ttft`, `tpot`, `throughput` (a larger one brings no more
    tokens per second) or the `search limit`.
    """

    hardware: Hardware
    price_per_hour: float | None
    limited_by: str
    run: Generation | None

    @property
    def batch_size(self) -> int:
        return 0 if self.run is None else int(self.run.settings.batch_size)

    def cost(self, at: str) -> float | None:
        """The price of a million new tokens at a point of the range; None without a price or a run."""
        return None if self.run is None else self.run.cost_at(FIGURES[at])


@dataclass(frozen=True, eq=False, repr=False)
class Service(Result):
    """What `service` returns: an offer per device. `settings` are those asked for, but for the batch."""

    shown_by = "service"

    model: Model
    settings: GenerateSettings
    level: Level
    offers: tuple[Offer, ...]
    warnings: tuple[str, ...]

    @property
    def cheapest(self) -> Offer | None:
        """The offer with the lowest price of a token, at the level's point of the range; None without prices."""
        priced = [offer for offer in self.offers if offer.cost(self.level.at) is not None]
        return min(priced, key=lambda offer: offer.cost(self.level.at) or 0.0, default=None)

    @property
    def fastest(self) -> Offer | None:
        """The offer with the most tokens per second; None where no device holds the level."""
        able = [offer for offer in self.offers if offer.run is not None]
        return max(able, key=lambda offer: offer.run.tokens_per_s if offer.run else 0.0, default=None)

    def energy_bounds(self) -> tuple[EnergyBound, ...]:
        """The energy of each run. Raises `InputError` for a device without a board power."""
        each = ((offer.hardware.name, own) for offer in self.offers if offer.run for own in offer.run.energy_bounds())
        return tuple(dataclasses.replace(own, of={"gpu": name}) for name, own in each)


def service(
    model: object,
    gpu: object,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 128,
    max_ttft_s: float | None = None,
    max_tpot_s: float | None = None,
    at: str = "high",
    dtype: str | None = None,
    attn: str | None = None,
    runtime: str = "eager",
    sample: bool = False,
    use_cache: bool = True,
    cache_type: str = "dynamic",
    impl: str | None = None,
    padded: bool = False,
    price_per_hour: Prices = None,
    gpus: int = 1,
) -> Service:
    """The batch of the most tokens per second with which each device holds a service level.

    `gpu`: one device or several. `max_ttft_s` limits the time to the first token, `max_tpot_s` the mean time per later
    token, both of one batch of `generate`, at the `middle` of the range or at its upper end, `high`. `price_per_hour`:
    of one device, or a mapping from names to prices. A device that cannot run the settings is left out, with a warning.
    `gpus`: replicas of the model, each with a batch of its own. Raises `InputError` for what is wrong, and where no
    device runs.
    """
    check_choice("at", at, AT)
    limits = {"max_ttft_s": max_ttft_s, "max_tpot_s": max_tpot_s}
    level = Level(**{k: None if v is None else check_positive(k, v) for k, v in limits.items()}, at=at)
    loaded, devices, replicas = load_model(model), devices_of(gpu), check_point("gpus", gpus, 1)
    prices = prices_of(price_per_hour, devices)
    settings = check_generate(
        loaded, 1, prompt_tokens, new_tokens, dtype, attn, runtime, sample, use_cache, cache_type, impl, padded
    )

    def offer(device: Hardware) -> Offer:
        return _Search(loaded, device, settings, level, replicas).offer(prices[devices.index(device)])

    offers, skipped = each_that_runs(devices, offer)
    notes = [*skipped, *without_price(prices, devices)]
    own = (f"{o.hardware.name}: {w}" for o in offers if o.run for w in o.run.warnings if w not in loaded.notes)
    return Service(loaded, settings, level, tuple(offers), (*loaded.notes, *notes, *own))


# ---------------------------------------------------------------------------------------------- the search


@dataclass(frozen=True)
class _Search:
    """The search on one device."""

    model: Model
    hardware: Hardware
    settings: GenerateSettings
    level: Level
    gpus: int
    known: dict[int, float] = field(default_factory=dict)  # batch -> mean seconds of a later token

    def offer(self, price_per_hour: float | None) -> Offer:
        generate_run(self.model, self.hardware, dataclasses.replace(self.settings, new_tokens=1))  # whether it runs
        most = largest_where(self._fits, 1, MOST_BATCH)
        limit = "search limit" if most == MOST_BATCH else "memory"
        largest = most
        for name, in_time in (("ttft", self._answers), ("tpot", self._goes_on)):
            if largest and (within := largest_where(in_time, 1, largest)) < largest:
                largest, limit = within, name
        best = self._best(largest) if largest else 0
        if not best:
            return Offer(self.hardware, price_per_hour, limit, None)
        settings = dataclasses.replace(self.settings, batch_size=best)
        run = generate_run(self.model, self.hardware, settings, price_per_hour, self.gpus)
        return Offer(self.hardware, price_per_hour, limit if best == largest else "throughput", run)

    def _turns(self, batches: Axis, tokens: int) -> Iterator[tuple[slice, Turns]]:
        """The turns of some batches, in parts, for so many tokens of each; a batch of 1 is alone."""
        start = 0
        while start < len(batches):
            one = batches[start] == 1
            stop = start + 1 if one else min(len(batches), start + max(1, POINTS // tokens))
            ones = np.flatnonzero(batches[start + 1 : stop] == 1)
            stop = start + 1 + int(ones[0]) if len(ones) else stop
            size = 1 if one else batches[start:stop, None].astype(float)
            settings = dataclasses.replace(self.settings, batch_size=size)
            yield slice(start, stop), Turns(self.model, self.hardware, settings)
            start = stop

    def _each(self, batches: Axis, figure: Callable[[Turns], Any], tokens: int = 1) -> Any:
        """A figure of the turns of each batch, for which so many tokens are evaluated."""
        figures = np.empty(len(batches))
        for part, turns in self._turns(batches, tokens):
            figures[part] = np.ravel(figure(turns))
        return figures

    def _fits(self, batches: Axis) -> Any:
        return self._each(batches, lambda turns: turns.peak()) <= self.hardware.memory.usable_bytes

    def _answers(self, batches: Axis) -> Any:
        """Whether the first token comes in time."""
        if self.level.max_ttft_s is None:
            return np.full(len(batches), True)
        return self._ttft(batches) <= self.level.max_ttft_s

    def _goes_on(self, batches: Axis) -> Any:
        """Whether the later ones do."""
        if self.level.max_tpot_s is None or self.settings.new_tokens == 1:
            return np.full(len(batches), True)
        return self._tpot(batches) <= self.level.max_tpot_s

    def _ttft(self, batches: Axis) -> Any:
        return self._each(batches, lambda turns: self.level.seconds(turns, 0))

    def _tpot(self, batches: Axis) -> Any:
        """The mean over all later tokens, which are evaluated once for each batch."""
        later = np.arange(1, self.settings.new_tokens, dtype=np.float64)
        new = np.array([batch for batch in batches.tolist() if batch not in self.known], np.int64)
        if new.size:
            found = self._each(new, lambda turns: np.mean(self.level.seconds(turns, later), axis=-1), later.size)
            self.known.update(zip(new.tolist(), found.tolist(), strict=True))
        return np.array([self.known[batch] for batch in batches.tolist()])

    def _best(self, largest: int) -> int:
        """The batch of the most tokens per second up to `largest`: throughput falls a little where a wave of thread
        blocks begins. Batches are ranked by some of their tokens, and the best by all."""
        batches = np.unique(np.linspace(1, largest, min(largest, RANKED)).round().astype(np.int64))
        later = self.settings.new_tokens - 1
        tokens = np.unique(np.linspace(1, later, SAMPLED).round()) if later else np.array([])

        def total(turns: Turns) -> Any:
            sampled = np.mean(self.level.seconds(turns, tokens), axis=-1) if later else 0.0
            return np.ravel(self.level.seconds(turns, 0)) + later * np.ravel(sampled)

        totals = self._each(batches, total, max(1, tokens.size))
        ranked = np.argsort(totals / batches, kind="stable")[:FINALISTS]
        finalists = np.unique(np.append(batches[ranked], largest))
        finalists = finalists[self._answers(finalists) & self._goes_on(finalists) & self._fits(finalists)]
        if not len(finalists):
            return 0
        seconds = self._ttft(finalists) + (later * self._tpot(finalists) if later else 0.0)
        return int(finalists[np.argmin(seconds / finalists)])
