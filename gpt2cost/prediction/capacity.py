"""What a device can hold and how fast it can go: the largest batch, the longest context, the best throughput."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2cost.checks import check_choice
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.compare import Work, context_axis, longest_context
from gpt2cost.prediction.grid import Sizes
from gpt2cost.prediction.predict import Prediction, predict_run
from gpt2cost.prediction.search import largest_where
from gpt2cost.prediction.sweep import Combination
from gpt2cost.table.config import load_model

MOST_BATCH = 1 << 20
"""Batches are looked for up to this size."""


AT_ONCE = 1 << 14
"""Points that are evaluated together."""


@dataclass(frozen=True)
class Capacity:
    """One answer: the sizes, the pass at them, and what stops them from growing.

    `goal` is `largest batch`, `largest context` or `best throughput`. Sizes are those of the phase. Where not even
    the smallest size will do, the size asked for is 0 and `prediction` None.
    """

    goal: str
    phase: str
    batch_size: int
    seq_len: int
    cache_len: int
    limited_by: str
    prediction: Prediction | None


def fit(
    model: object,
    gpu: str | Hardware,
    batch: int = 1,
    seq: int = 128,
    cache: int = 0,
    dtype: str = "fp16",
    attn: str = "sdpa",
    runtime: str = "eager",
    phase: str = "decode",
    logits: str = "all",
    use_cache: bool = True,
    max_latency_s: float | None = None,
) -> list[Capacity]:
    """The largest batch at `seq` and `cache`, the largest context at `batch`, and the batch of the best throughput.

    `phase` is `prefill` or `decode`; `max_latency_s` limits one pass. Raises `InputError` for what is wrong.
    """
    check_choice("phase", phase, ("prefill", "decode"))
    device = load_hardware(gpu)
    choice = Combination(load_model(model), device, dtype, attn, runtime)
    return capacities(choice, Work(batch, seq, cache, phase, logits, use_cache), max_latency_s)


def capacities(choice: Combination, work: Work, max_latency_s: float | None = None) -> list[Capacity]:
    """Answers for a phase (`prefill` or `decode` in `work`): at its context, at its batch, and for throughput.

    The context grows by `context_axis`, up to the model's positions. A latency limit holds for all three.
    Raises `InputError` where sizes are wrong.
    """
    found = [
        _largest(choice, work, "largest batch", "batch", max_latency_s),
        _largest(choice, work, "largest context", context_axis(work), max_latency_s),
    ]
    return [*found, _best_throughput(choice, work, found[0])]


def _run(choice: Combination, work: Work, **sizes: Any) -> Prediction:
    return predict_run(choice.model, choice.gpu, work.settings(choice, **sizes), work.phase)


def _largest(choice: Combination, work: Work, goal: str, axis: str, max_latency_s: float | None) -> Capacity:
    most, end = MOST_BATCH, "the search's end"
    if axis != "batch":
        most, end = longest_context(work, work.phase, choice.model.n_positions), "positions"

    def fits(sizes: Sizes) -> Any:
        return np.broadcast_to(_run(choice, work, **{axis: sizes}).memory.fits, sizes.shape)

    def in_time(sizes: Sizes) -> Any:
        latency_s = _run(choice, work, **{axis: sizes}).phases[0].totals.latency_s
        return np.broadcast_to(latency_s <= (max_latency_s or np.inf), sizes.shape)

    if most < 1:
        return _answer(choice, work, goal, axis, 0, end)
    size = largest_where(fits, 1, most)
    limit = end if size == most else "memory"
    if size and max_latency_s is not None:
        soon = largest_where(in_time, 1, size)
        size, limit = soon, limit if soon == size else "latency"
    return _answer(choice, work, goal, axis, size, limit)


def _best_throughput(choice: Combination, work: Work, largest: Capacity) -> Capacity:
    """Throughput may fall where a wave of thread blocks begins, so every batch up to the largest is looked at."""
    best, most_per_s = 0, 0.0
    for start in range(1, largest.batch_size + 1, AT_ONCE):
        batches = np.arange(start, min(start + AT_ONCE, largest.batch_size + 1))
        per_s = np.broadcast_to(_run(choice, work, batch=batches).phases[0].totals.tokens_per_s, batches.shape)
        if per_s.max() > most_per_s:
            best, most_per_s = int(batches[np.argmax(per_s)]), float(per_s.max())
    limit = largest.limited_by if best == largest.batch_size else "throughput"
    return _answer(choice, work, "best throughput", "batch", best, limit)


def _answer(choice: Combination, work: Work, goal: str, axis: str, size: int, limit: str) -> Capacity:
    if not size:
        is_step = work.phase == "decode" and context_axis(work) == "seq"  # one token, on what --seq asks for
        seq, cache = (1, work.cache + work.seq) if is_step else (work.seq, work.cache)
        if axis != "batch":
            seq, cache = (seq, 0) if work.phase == "decode" else (0, cache)
        return Capacity(goal, work.phase, work.batch if axis != "batch" else 0, seq, cache, limit, None)
    prediction = _run(choice, work, **{axis: size})
    phase = prediction.phases[0]
    sizes = {"batch": phase.batch_size, "seq": phase.seq_len, "cache": phase.cache_len}
    return Capacity(goal, phase.phase, sizes["batch"], sizes["seq"], sizes["cache"], limit, prediction)
