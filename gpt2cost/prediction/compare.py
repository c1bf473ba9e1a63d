"""The same work on several devices, models, dtypes, attention implementations or runtimes, side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2cost.prediction.energy import EnergyBound
from gpt2cost.prediction.grid import Axis, make_grid
from gpt2cost.prediction.predict import Phase, Prediction, predict_run
from gpt2cost.prediction.search import powers_of_two, sign_changes
from gpt2cost.prediction.settings import Sizes, check_single_sizes, is_decode
from gpt2cost.prediction.sweep import Choice, plan
from gpt2cost.result import Result

MOST_BATCH = 1 << 16
"""Crossovers are looked for up to this batch."""

WAITING = "waiting"
"""What no kernel's time explains: the device waits for the host, and the host for the device."""


@dataclass(frozen=True)
class Crossover:
    """From `size` on `after` is the faster one, before it was `before`. `fits`: both fit their memory there.

    `axis` is the field of `Sizes` that grows.
    """

    phase: str
    axis: str
    size: int
    before: str
    after: str
    fits: bool


@dataclass(frozen=True, eq=False)
class Candidate:
    """A prediction with the label that tells it from the others."""

    label: str
    choice: Choice
    prediction: Prediction


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """What `compare` returns. The first candidate is what the others are measured against."""

    shown_by = "compare"

    sizes: Sizes
    phase: str
    candidates: tuple[Candidate, ...]
    crossovers: tuple[Crossover, ...]
    warnings: tuple[str, ...]

    def energy_bounds(self) -> tuple[EnergyBound, ...]:
        """The energy of each pass of each candidate. Raises `InputError` for a device without a board power."""
        each = ((own.label, bound) for own in self.candidates for bound in own.prediction.energy_bounds())
        return tuple(replace(bound, of={"label": label, **bound.of}) for label, bound in each)


def compare(
    model: object,
    gpu: object,
    *,
    batch: int = 1,
    seq: int = 128,
    cache: int = 0,
    dtype: object = None,
    attn: object = None,
    runtime: object = "eager",
    phase: str = "both",
    logits: str = "all",
    use_cache: bool = True,
    cache_type: str = "dynamic",
    impl: object = None,
) -> Comparison:
    """Predict the same work for every combination of `model`, `gpu`, `dtype`, `attn`, `runtime` and `impl`, each one or
    a list.

    Finds where their ranking changes, too. What a device cannot run is left out, with a warning. Raises `InputError`
    for what is wrong.
    """
    sizes = check_single_sizes(batch, seq, cache, use_cache)
    axes = {"model": model, "gpu": gpu, "dtype": dtype, "attn": attn, "runtime": runtime, "impl": impl}
    fixed = {"phase": phase, "logits": logits, "use_cache": use_cache, "cache_type": cache_type}
    grid = make_grid(**axes, batch=batch, seq=seq, cache=cache, **fixed)
    choices, warnings = plan(grid)
    return compare_choices(choices, sizes, phase, warnings)


def compare_choices(choices: Sequence[Choice], sizes: Sizes, phase: str, warnings: Iterable[str] = ()) -> Comparison:
    """Predict the work on each of `choices`, and find where their ranking changes with batch or sequence length."""
    candidates = [
        Candidate(label, choice, predict_run(choice.model, choice.hardware, choice.how, sizes, phase))
        for label, choice in zip(_labels(choices), choices, strict=True)
    ]
    crossovers: list[Crossover] = []
    for name in (own.phase for own in candidates[0].prediction.phases):
        for axis in ("batch_size", context_axis(sizes)):
            crossovers += _crossovers(candidates, sizes, phase, name, axis)
    own_warnings = (
        f"{candidate.label}: {warning}"
        for candidate in candidates
        for warning in candidate.prediction.warnings
        if warning not in candidate.choice.model.notes
    )
    notes = (*warnings, *own_warnings, *_decided_by_hosts(candidates))
    return Comparison(sizes, phase, tuple(candidates), tuple(crossovers), notes)


def _decided_by_hosts(candidates: Sequence[Candidate]) -> Iterator[str]:
    """Warnings of devices that run the same work, and whose ranking hosts of different constants may decide: of two at
    the pace of their hosts, or of one whose range holds another's."""
    work = {candidate: (candidate.choice.model.name, candidate.choice.how) for candidate in candidates}
    for number, phase in enumerate(candidates[0].prediction.phases):
        for same in dict.fromkeys(work.values()):
            alike = [candidate for candidate in candidates if work[candidate] == same]
            pairs = [pair for pair in itertools.combinations(alike, 2) if _by_hosts(*pair, number)]
            labels = [candidate.label for candidate in alike if any(candidate in pair for pair in pairs)]
            if labels:
                yield (
                    f"{phase.phase}: the ranking of {', '.join(labels[:-1])} and {labels[-1]} depends on their hosts,"
                    " which belong to the machine and not to the device: --host-factor says what yours takes"
                )


def _by_hosts(one: Candidate, other: Candidate, number: int) -> bool:
    """Whether hosts may decide which of two candidates is faster in a phase."""
    hosts = [replace(candidate.choice.hardware.host, cpu="") for candidate in (one, other)]
    first, second = (candidate.prediction.phases[number].totals for candidate in (one, other))
    overlap = first.latency_low_s <= second.latency_high_s and second.latency_low_s <= first.latency_high_s
    paces = [totals.bound == "host" for totals in (first, second)]
    return hosts[0] != hosts[1] and (all(paces) or (any(paces) and bool(overlap)))


def _labels(choices: Sequence[Choice]) -> list[str]:
    """What tells the choices apart: the names that differ, and a number where none does."""
    names = [
        (
            choice.model.name,
            choice.hardware.name,
            choice.how.dtype,
            choice.how.attn,
            choice.how.runtime,
            choice.how.impl,
        )
        for choice in choices
    ]
    varying = [place for place in range(6) if len({name[place] for name in names}) > 1] or [1]
    if {3, 4} <= set(varying):  # where eager may be an attention or a runtime
        names = [(*name[:3], f"{name[3]} attn", *name[4:]) for name in names]
    labels = [" ".join(str(name[place]) for place in varying) for name in names]
    numbers = [labels[:index].count(label) + 1 for index, label in enumerate(labels)]
    return [f"{label} ({number})" if number > 1 else label for label, number in zip(labels, numbers, strict=True)]


def seconds_by_kind(phase: Phase) -> dict[str, float]:
    """Seconds of a pass by kernel kind, and those in which no kernel runs; they add up to the latency."""
    seconds: dict[str, float] = {}
    for cost in phase.kernels:
        seconds[cost.kernel.kind] = seconds.get(cost.kernel.kind, 0.0) + float(cost.device_s)
    return {**seconds, WAITING: phase.totals.waiting_s}


# ---------------------------------------------------------------------------------------------- crossovers


def context_axis(sizes: Sizes) -> str:
    """The size by which the context grows: the cache where the pass is a decode step, else the new tokens."""
    return "cache_len" if is_decode(sizes) else "seq_len"


def longest_context(sizes: Sizes, phase: str, positions: int) -> int:
    """How far `context_axis` can grow before the phase passes the model's positions."""
    if is_decode(sizes):
        return positions - 1
    return positions - int(sizes.cache_len) - (phase == "decode")


def _crossovers(candidates: Sequence[Candidate], sizes: Sizes, asked: str, phase: str, axis: str) -> list[Crossover]:
    """Crossovers of one phase along one size. `asked`: the phases that are asked for, whose memory must fit."""
    positions = min(candidate.choice.model.n_positions for candidate in candidates)
    most = MOST_BATCH if axis == "batch_size" else longest_context(sizes, phase, positions)
    if most < 2:
        return []

    def run(candidate: Candidate, axis_sizes: Axis, phase: str) -> Prediction:
        choice, grown = candidate.choice, replace(sizes, **{axis: axis_sizes.astype(float)})
        return predict_run(choice.model, choice.hardware, choice.how, grown, phase, partly=True)

    def latency(candidate: Candidate, axis_sizes: Axis) -> Any:
        return np.broadcast_to(run(candidate, axis_sizes, phase).phases[0].totals.latency_s, axis_sizes.shape)

    coarse = powers_of_two(1, most)
    coarse_s = {candidate: latency(candidate, coarse) for candidate in candidates}
    crossovers = []
    for left, right in itertools.combinations(candidates, 2):

        def sign(axis_sizes: Axis, left: Candidate = left, right: Candidate = right) -> Any:
            if np.array_equal(axis_sizes, coarse):
                return np.sign(coarse_s[right] - coarse_s[left])
            return np.sign(latency(right, axis_sizes) - latency(left, axis_sizes))

        for size, side in sign_changes(sign, 1, most):
            before, after = (right, left) if side > 0 else (left, right)
            fits = all(np.all(run(candidate, np.array([size]), asked).memory.fits) for candidate in (left, right))
            crossovers.append(Crossover(phase, axis, size, before.label, after.label, fits))
    return sorted(crossovers, key=lambda crossover: crossover.size)
