"""The same work on several devices, models, dtypes, attention implementations or runtimes, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2cost.prediction.grid import Sizes, make_grid
from gpt2cost.prediction.predict import Phase, Prediction, predict_run
from gpt2cost.prediction.search import powers_of_two, sign_changes
from gpt2cost.prediction.settings import Settings, check_settings
from gpt2cost.prediction.sweep import Combination, plan

MOST_BATCH = 1 << 16
"""Crossovers are looked for up to this batch."""


WAITING = "waiting"
"""What no kernel's time explains: the device waits for the host, and the host for the device."""


@dataclass(frozen=True)
class Work:
    """The sizes and settings that all candidates share."""

    batch: int = 1
    seq: int = 128
    cache: int = 0
    phase: str = "both"
    logits: str = "all"
    use_cache: bool = True

    def settings(self, choice: Combination, **sizes: Any) -> Settings:
        """Settings of a candidate; `sizes` may put an array in the place of a size."""
        size = {"batch": self.batch, "seq": self.seq, "cache": self.cache, **sizes}
        how = (choice.dtype, choice.attn, choice.runtime, self.phase, self.logits, self.use_cache)
        return check_settings(size["batch"], size["seq"], size["cache"], *how)


@dataclass(frozen=True)
class Crossover:
    """From `size` on `after` is the faster one, before it was `before`. `fits`: both fit their memory there."""

    phase: str
    axis: str
    size: int
    before: str
    after: str
    fits: bool


@dataclass(frozen=True)
class Candidate:
    """A prediction with the label that tells it from the others."""

    label: str
    choice: Combination
    prediction: Prediction


@dataclass(frozen=True)
class Comparison:
    """What `compare` returns. The first candidate is what the others are measured against."""

    work: Work
    candidates: tuple[Candidate, ...]
    crossovers: tuple[Crossover, ...]


def compare(
    model: object,
    gpu: object,
    batch: int = 1,
    seq: int = 128,
    cache: int = 0,
    dtype: object = "fp16",
    attn: object = "sdpa",
    runtime: object = "eager",
    phase: str = "both",
    logits: str = "all",
    use_cache: bool = True,
) -> Comparison:
    """Predict the same work for every combination of `model`, `gpu`, `dtype`, `attn` and `runtime`, each one or a list.

    Finds where their ranking changes, too. What a device cannot run is left out. Raises `InputError` for what is wrong.
    """
    axes = {"model": model, "gpu": gpu, "dtype": dtype, "attn": attn, "runtime": runtime}
    grid = make_grid(**axes, batch=batch, seq=seq, cache=cache, phase=phase, logits=logits, use_cache=use_cache)
    return compare_choices(plan(grid)[0], Work(batch, seq, cache, phase, logits, use_cache))


def compare_choices(choices: Sequence[Combination], work: Work) -> Comparison:
    """Predict the work on each of `choices`, and find where their ranking changes with batch or sequence length.

    Raises `InputError` where sizes are wrong.
    """
    labels = _labels(choices)
    candidates = [
        Candidate(label, choice, predict_run(choice.model, choice.gpu, work.settings(choice), work.phase))
        for label, choice in zip(labels, choices, strict=True)
    ]
    found: list[Crossover] = []
    for phase in candidates[0].prediction.phases:
        for axis in ("batch", context_axis(work)):
            found += _crossovers(candidates, work, phase.phase, axis)
    return Comparison(work, tuple(candidates), tuple(found))


def _labels(choices: Sequence[Combination]) -> list[str]:
    """What tells the choices apart: the names that differ."""
    names = [(each.model.name, each.gpu.name, each.dtype, each.attn, each.runtime) for each in choices]
    varying = [place for place in range(5) if len({name[place] for name in names}) > 1] or [1]
    return [" ".join(name[place] for place in varying) for name in names]


def seconds_by_kind(phase: Phase) -> dict[str, float]:
    """Seconds of a pass by kernel kind, and those in which no kernel runs; they add up to the latency."""
    seconds: dict[str, float] = {}
    for cost in phase.kernels:
        seconds[cost.kernel.kind] = seconds.get(cost.kernel.kind, 0.0) + float(cost.device_s)
    return {**seconds, WAITING: phase.totals.latency_s - sum(seconds.values())}


# ---------------------------------------------------------------------------------------------- crossovers


def context_axis(work: Work) -> str:
    """The size by which the context grows: the cache where the pass is a single token, else the new tokens."""
    return "cache" if work.seq == 1 and work.cache > 0 else "seq"


def longest_context(work: Work, phase: str, positions: int) -> int:
    """How far `context_axis` can grow before the phase passes the model's positions."""
    if context_axis(work) == "cache":
        return positions - 1
    return positions - work.cache - (phase == "decode")


def _crossovers(candidates: Sequence[Candidate], work: Work, phase: str, axis: str) -> list[Crossover]:
    positions = min(each.choice.model.n_positions for each in candidates)
    most = MOST_BATCH if axis == "batch" else longest_context(work, phase, positions)
    if most < 2:
        return []

    def run(candidate: Candidate, sizes: Sizes) -> Prediction:
        choice = candidate.choice
        return predict_run(choice.model, choice.gpu, work.settings(choice, **{axis: sizes}), work.phase)

    def latency(candidate: Candidate, sizes: Sizes) -> Any:
        prediction = run(candidate, sizes)
        found = [each for each in prediction.phases if each.phase == phase] or list(prediction.phases)
        return np.broadcast_to(found[0].totals.latency_s, sizes.shape)

    coarse = powers_of_two(1, most)
    known = {each.label: latency(each, coarse) for each in candidates}
    found = []
    for one, other in itertools.combinations(candidates, 2):

        def sign(sizes: Sizes, one: Candidate = one, other: Candidate = other) -> Any:
            if np.array_equal(sizes, coarse):
                return np.sign(known[other.label] - known[one.label])
            return np.sign(latency(other, sizes) - latency(one, sizes))

        for size, side in sign_changes(sign, 1, most):
            before, after = (other, one) if side > 0 else (one, other)
            fits = all(np.all(run(each, np.array([size])).memory.fits) for each in (one, other))
            found.append(Crossover(phase, axis, size, before.label, after.label, fits))
    return sorted(found, key=lambda crossover: crossover.size)
