"""Generation, token by token: the passes that `predict` predicts, in HuggingFace's `generate` loop.

The first token takes the set-up of `generate`, the prefill of the prompt (`logits=last`) and one choice of a token;
every later one a single-token step on the grown cache. All later tokens are evaluated at once, as arrays. Each turn is
one run through the host queue: what `generate` does before the pass, the pass, what it does after, the final wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2cost.checks import check_flag, check_point, check_positive
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.energy import EnergyBound, energy_bound
from gpt2cost.prediction.settings import (
    How,
    check_device,
    check_how,
    check_writes,
    does_not_fit,
    logits_in_generate,
    slow_weights,
    unused_changes,
)
from gpt2cost.prediction.turns import GenerateSettings, LoopStep, Turn, Turns
from gpt2cost.result import Result
from gpt2cost.table.config import Model, load_model
from gpt2cost.table.options import GRAPHED

MAX_TOKENS = 10**6
"""The most new tokens; the curve has a point for each."""

RANGE = ("latency_s", "latency_low_s", "latency_high_s")


@dataclass(frozen=True)
class Stretch:
    """Neighbouring tokens that are bound alike, with the positions of the first and the last."""

    phase: str
    first_position: int
    last_position: int
    tokens: int
    bound: str
    latency_s: float
    latency_low_s: float
    latency_high_s: float


@dataclass(frozen=True, eq=False, repr=False)
class Generation(Result):
    """A whole run of `generate`. `first` is the turn of the first token; `rest` holds arrays over the later tokens.

    `gpus`: replicas of the model, one per GPU, each of which generates for a batch of its own; `price_per_hour` is that
    of one. `positions`: how many tokens precede each of the later tokens, int64 of shape (new_tokens - 1,).
    """

    shown_by = "generate"

    model: Model
    hardware: Hardware
    settings: GenerateSettings
    first: Turn
    positions: NDArray[np.int64]
    rest: Turn
    stretches: tuple[Stretch, ...]
    loop: tuple[LoopStep, ...]
    peak_bytes: int
    price_per_hour: float | None
    warnings: tuple[str, ...]
    gpus: int = 1

    @property
    def valid(self) -> bool:
        """Whether the model has positions for the whole text."""
        return _within_positions(self.model, self.settings)

    @property
    def ttft_s(self) -> float:
        """Seconds to the first token."""
        return float(self.first.latency_s)

    @property
    def total_s(self) -> float:
        """Seconds to the last token."""
        return self.summed("latency_s")

    def summed(self, name: str) -> float:
        """One of the seconds of a `Turn`, over all tokens."""
        return float(getattr(self.first, name)) + float(np.sum(getattr(self.rest, name)))

    @property
    def tokens(self) -> int:
        """New tokens of the whole batch."""
        return int(self.settings.batch_size * self.settings.new_tokens)

    @property
    def tokens_per_s(self) -> float:
        """New tokens per second, of the whole batch, or of those of all replicas."""
        return self.gpus * self.tokens / self.total_s

    @property
    def tpot_first_s(self) -> float | None:
        """Seconds per output token: of the first after the prompt's own; None if there is none."""
        return float(self.rest.latency_s[0]) if len(self.positions) else None

    @property
    def tpot_mean_s(self) -> float | None:
        """Seconds per output token, the mean over all but the first."""
        return float(np.mean(self.rest.latency_s)) if len(self.positions) else None

    @property
    def tpot_low_s(self) -> float | None:
        """Seconds per output token, the least to expect of the mean."""
        return float(np.mean(self.rest.latency_low_s)) if len(self.positions) else None

    @property
    def tpot_high_s(self) -> float | None:
        """Seconds per output token, the most to expect of the mean."""
        return float(np.mean(self.rest.latency_high_s)) if len(self.positions) else None

    @property
    def tpot_last_s(self) -> float | None:
        """Seconds per output token: of the last."""
        return float(self.rest.latency_s[-1]) if len(self.positions) else None

    @property
    def fits(self) -> bool:
        """Whether the run fits the device's memory."""
        return self.peak_bytes <= self.hardware.memory.usable_bytes

    @property
    def cost_per_million_tokens(self) -> float | None:
        """In the currency of `price_per_hour`, by new tokens of the whole batch."""
        return self.cost_at("latency_s")

    @property
    def tokens_per_dollar(self) -> float | None:
        """New tokens of the whole batch per unit of the currency of `price_per_hour`."""
        return None if (cost := self.cost_per_million_tokens) is None else 1e6 / cost

    def cost_at(self, name: str) -> float | None:
        """`cost_per_million_tokens` at one of the latencies of a `Turn`."""
        if self.price_per_hour is None:
            return None
        return self.price_per_hour / 3600 * self.summed(name) / self.tokens * 1e6

    def energy_bounds(self) -> tuple[EnergyBound, ...]:
        """The energy of the whole run, of all replicas. Raises `InputError` for a device without a board power."""
        high_s, tokens = self.summed("latency_high_s"), self.gpus * self.tokens
        return (energy_bound(self.hardware, high_s, tokens, self.gpus),)


def generate(
    model: Any,
    gpu: str | Hardware,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 128,
    batch: int = 1,
    dtype: str | None = None,
    attn: str | None = None,
    runtime: str = "eager",
    sample: bool = False,
    use_cache: bool = True,
    cache_type: str = "dynamic",
    impl: str | None = None,
    padded: bool = False,
    price_per_hour: float | None = None,
    gpus: int = 1,
) -> Generation:
    """Predict the model's `generate`: `new_tokens` after prompts of `prompt_tokens`, for each of `batch` sequences.

    `sample` draws from the 50 likeliest tokens instead of taking the likeliest. `cache_type="static"` writes into a
    cache of the final length, and attends to all of it with a mask. `padded` passes a mask with padding, which every
    layer then reads. `runtime` holds for the forward passes; the loop around them is always eager Python. `impl`: see
    `predict`; nanoGPT's loop always draws, takes the last `block_size` tokens, and does not stop at an end of text.
    Raises `InputError` for anything unknown or impossible, with what would be right.
    """
    loaded, hw = load_model(model), load_hardware(gpu)
    settings = check_generate(
        loaded, batch, prompt_tokens, new_tokens, dtype, attn, runtime, sample, use_cache, cache_type, impl, padded
    )
    price = None if price_per_hour is None else check_positive("price_per_hour", price_per_hour)
    return generate_run(loaded, hw, settings, price, check_point("gpus", gpus, 1))


def check_generate(
    model: Model, batch: object, prompt_tokens: object, new_tokens: object, dtype: str | None, attn: str | None,
    runtime: str, sample: object, use_cache: bool, cache_type: str, impl: str | None, padded: object,
) -> GenerateSettings:  # fmt: skip
    """The settings of a run of `model`, every one checked. Raises `InputError` for the first that is wrong."""
    sizes = check_point("batch", batch, 1), check_point("prompt_tokens", prompt_tokens, 1)
    tokens = check_point("new_tokens", new_tokens, 1, MAX_TOKENS)
    draws, masked = check_flag("sample", sample), check_flag("padded", padded)
    check_writes(model)
    if masked and model.encoder_len:
        raise InputError("padded: an encoder's decoder starts with one token in each sequence; leave it out")
    how = check_how(dtype, attn, runtime, logits_in_generate(model), use_cache, cache_type, impl).on(model)
    return GenerateSettings(*sizes, tokens, how, draws, masked)


def generate_run(
    model: Model, hw: Hardware, settings: GenerateSettings, price_per_hour: float | None = None, gpus: int = 1
) -> Generation:
    """`generate` for settings that have been checked. Raises `InputError` where the device cannot run them."""
    check_device(hw, settings.how, model.head_dim)
    _check_steps(settings.how, settings.padded)
    turns = Turns(model, hw, settings)
    first, rest, peak = turns.first(), turns.rest(), int(turns.peak())
    return Generation(
        model=model,
        hardware=hw,
        settings=settings,
        first=first,
        positions=settings.prompt_tokens + np.arange(1, settings.new_tokens),
        rest=rest,
        stretches=tuple(_stretches(settings.prompt_tokens, first, rest)),
        loop=tuple(turns.loop()),
        peak_bytes=peak,
        price_per_hour=price_per_hour,
        warnings=(*model.notes, *_warnings(model, hw, settings, peak)),
        gpus=gpus,
    )


def _check_steps(how: How, padded: bool) -> None:
    if padded and how.impl == "nanogpt":
        raise InputError("padded: nanogpt's code takes no attention mask; --impl hf does")
    if padded and how.attn == "flash_attention_2":
        raise InputError("padded: with flash_attention_2 it runs other kernels, which are not modelled; use sdpa")
    if how.runtime in GRAPHED and how.cache_type != "static":
        cache = "a dynamic" if how.use_cache else "no"
        replays = f"replays the same shapes and addresses, and with {cache} KV cache every step has new ones"
        static = f"{'' if how.attn != 'flash_attention_2' else 'sdpa with '}cache_type static"
        others = f"{static}, or eager and compile" if how.use_cache else "eager and compile"
        raise InputError(f"runtime: {how.runtime} {replays}; {others} run it")


def _longest(settings: GenerateSettings) -> int:
    """Tokens of the text when the last pass begins."""
    return int(settings.prompt_tokens + settings.new_tokens - 1)


def _within_positions(model: Model, settings: GenerateSettings) -> bool:
    """Whether the model has positions for the whole text; nanoGPT's loop forgets what is before."""
    return settings.how.impl != "hf" or _longest(settings) <= model.n_positions


def _warnings(model: Model, hw: Hardware, settings: GenerateSettings, peak: int) -> Iterator[str]:
    yield from unused_changes(model)
    yield from slow_weights(model, settings.how)
    if not _within_positions(model, settings):
        yield (
            f"kv_len {_longest(settings)} of the last pass exceeds n_positions {model.n_positions} of {model.name}:"
            " the real model cannot run it"
        )
    if settings.how.cache_type == "static" and settings.how.runtime == "eager":
        yield (
            "generate compiles the steps on a static cache unless disable_compile is set, as assumed here;"
            " --runtime reduce-overhead predicts what it compiles them to"
        )
    if peak > hw.memory.usable_bytes:
        yield does_not_fit(peak, hw.memory.usable_bytes)


def _stretches(prompt_tokens: int, first: Turn, rest: Turn) -> Iterator[Stretch]:
    def seconds(turn: Turn, part: Any = ...) -> Iterator[float]:
        return (float(np.sum(np.asarray(getattr(turn, name))[part])) for name in RANGE)

    yield Stretch("prefill", prompt_tokens, prompt_tokens, 1, str(first.bound), *seconds(first))
    start = 0
    for bound, run in groupby(rest.bound):
        stop = start + len(list(run))
        places = prompt_tokens + start + 1, prompt_tokens + stop
        yield Stretch("decode", *places, stop - start, str(bound), *seconds(rest, slice(start, stop)))
        start = stop
