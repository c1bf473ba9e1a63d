"""What a device can hold and how fast it can go: the largest batch, the longest context, the best throughput."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2cost.checks import check_positive
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.compare import context_axis, longest_context
from gpt2cost.prediction.energy import EnergyBound
from gpt2cost.prediction.grid import Axis
from gpt2cost.prediction.one_pass import uncapturable
from gpt2cost.prediction.predict import Prediction, check_runs, passes_of, predict_run
from gpt2cost.prediction.search import largest_where, size_of_best_rate
from gpt2cost.prediction.settings import Sizes, check_how, check_phase, check_single_sizes, is_decode
from gpt2cost.prediction.sweep import Choice
from gpt2cost.result import Result
from gpt2cost.table.config import load_model

MOST_BATCH = 1 << 20
"""Batches are looked for up to this size."""
AT_ONCE = 1 << 14
"""Points that are evaluated together."""


@dataclass(frozen=True, eq=False)
class Answer:
    """The sizes of one phase that reach a goal, the prediction at them, and what stops them from growing.

    `goal` is `largest batch`, `largest context` or `best throughput`. Where not even the smallest size will do, the
    size that was looked for is 0 and `prediction` None. `run`: the sizes to ask for, of which the phase's are made.
    """

    goal: str
    phase: str
    sizes: Sizes
    limited_by: str
    prediction: Prediction | None
    run: Sizes


@dataclass(frozen=True, eq=False, repr=False)
class Capacity(Result):
    """What `capacity` returns: three answers per phase. `sizes` and `phase` are those asked for."""

    shown_by = "capacity"

    choice: Choice
    sizes: Sizes
    phase: str
    max_latency_s: float | None
    answers: tuple[Answer, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of all predictions, each once."""
        predictions = (answer.prediction for answer in self.answers if answer.prediction)
        return tuple(dict.fromkeys(warning for prediction in predictions for warning in prediction.warnings))

    def energy_bounds(self) -> tuple[EnergyBound, ...]:
        """The energy of each answer's pass. Raises `InputError` for a device without a board power."""
        found = ((own.goal, own.prediction) for own in self.answers if own.prediction)
        each = ((goal, bound) for goal, prediction in found for bound in prediction.energy_bounds())
        return tuple(replace(bound, of={"goal": goal, **bound.of}) for goal, bound in each)


def capacity(
    model: object,
    gpu: str | Hardware,
    *,
    batch: int = 1,
    seq: int = 128,
    cache: int = 0,
    dtype: str | None = None,
    attn: str | None = None,
    runtime: str = "eager",
    phase: str = "both",
    logits: str = "all",
    use_cache: bool = True,
    cache_type: str = "dynamic",
    impl: str | None = None,
    max_latency_s: float | None = None,
) -> Capacity:
    """The largest batch at `seq` and `cache`, the largest context at `batch`, and the batch of the best throughput.

    `max_latency_s` limits one pass. Raises `InputError` for what is wrong, and where no CUDA graph can be captured of
    what is asked for.
    """
    check_phase(phase)
    limit_s = np.inf if max_latency_s is None else check_positive("max_latency_s", max_latency_s)
    how = check_how(dtype, attn, runtime, logits, use_cache, cache_type, impl)
    sizes = check_single_sizes(batch, seq, cache, use_cache)
    loaded = load_model(model)
    choice = Choice(loaded, load_hardware(gpu), how.on(loaded))
    check_runs(choice.model, choice.hardware, choice.how, sizes, phase)
    names = ["decode"] if is_decode(sizes) else ["prefill", "decode"] if phase == "both" else [phase]
    answers = (answer for name in names for answer in _Search(choice, sizes, name, limit_s).answers())
    return Capacity(choice, sizes, phase, max_latency_s, tuple(answers))


@dataclass(frozen=True)
class _Search:
    """The search for one phase. A latency limit holds for all of its answers."""

    choice: Choice
    sizes: Sizes
    phase: str
    max_latency_s: float

    def answers(self) -> Iterator[Answer]:
        """At its context, at its batch, and for throughput. The context grows up to the model's positions."""
        largest = self._largest("largest batch", "batch_size", MOST_BATCH, "search limit")
        most = longest_context(self.sizes, self.phase, self.choice.model.n_positions)
        yield largest
        yield self._largest("largest context", context_axis(self.sizes), most, "positions")
        yield self._best_throughput(largest)

    def _run(self, axis: str, size: Any) -> Prediction:
        sizes = replace(self.sizes, **{axis: size})
        return predict_run(self.choice.model, self.choice.hardware, self.choice.how, sizes, self.phase, partly=True)

    def _captured(self, prediction: Prediction) -> Any:
        """Where the pass can run: of some sizes no CUDA graph can be captured."""
        return ~np.asarray(uncapturable(self.choice.model, self.choice.how, prediction.phases[0].sizes)[0])

    def _largest(self, goal: str, axis: str, most: int, end: str) -> Answer:
        """`end`: what stops a size that reaches `most`."""

        def fits(sizes: Axis) -> Any:
            run = self._run(axis, sizes.astype(float))
            return np.broadcast_to(run.memory.fits & self._captured(run), sizes.shape)

        def in_time(sizes: Axis) -> Any:
            run = self._run(axis, sizes.astype(float))
            in_time = run.phases[0].totals.latency_s <= self.max_latency_s
            return np.broadcast_to(in_time & self._captured(run), sizes.shape)

        if most < 1:
            return self._answer(goal, axis, 0, end)
        size = largest_where(fits, 1, most)
        limit = end if size == most else "memory"
        if size and self.max_latency_s < np.inf:
            in_memory, size = size, largest_where(in_time, 1, size)
            limit = limit if size == in_memory else "latency"
        return self._answer(goal, axis, size, limit)

    def _best_throughput(self, largest: Answer) -> Answer:
        """Throughput falls where a wave of thread blocks begins: the best batch need not be the largest."""

        def rates(batches: Axis) -> tuple[Any, Any]:
            parts = [part_rates(batches[start : start + AT_ONCE]) for start in range(0, len(batches), AT_ONCE)]
            allowed, of_one = (np.concatenate(values) for values in zip(*parts, strict=True))
            return allowed, of_one

        def part_rates(batches: Axis) -> tuple[Any, Any]:
            run = self._run("batch_size", batches.astype(float))
            totals = run.phases[0].totals
            in_time = (totals.latency_s <= self.max_latency_s) & self._captured(run)
            per_s = np.broadcast_to(totals.tokens_per_s, batches.shape)
            return np.where(in_time, per_s, 0.0), per_s / batches

        last = largest.sizes.batch_size
        best = size_of_best_rate(rates, last) if last else 0
        limit = largest.limited_by if best == last else "throughput"
        return self._answer("best throughput", "batch_size", best, limit)

    def _answer(self, goal: str, axis: str, size: int, limit: str) -> Answer:
        if size:
            prediction = self._run(axis, size)
            return Answer(
                goal, prediction.phases[0].phase, prediction.phases[0].sizes, limit, prediction, prediction.sizes
            )
        ((_, sizes),) = passes_of(self.sizes, self.phase, self.choice.how.use_cache)
        cached = self.phase == "decode" and self.choice.how.use_cache
        grown = axis if axis == "batch_size" else "cache_len" if cached else "seq_len"
        run = replace(self.sizes, **{axis: 0})
        return Answer(goal, self.phase, replace(sizes, **{grown: 0}), limit, None, run)
