"""Communication beside the backward pass: when each bucket of gradients is ready, sent and summed.

Kernels of the backward pass follow one another on one stream; NCCL's run on another, one bucket after the other:

    start = max(ready, end of the bucket before)        end = start + time of the all-reduce

What the optimiser waits for is the end of the last, beyond the end of the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from gpt2cost.table.ddp import Gradient, buckets, sections
from gpt2cost.table.kernel import Row
from gpt2cost.timing.terms import Array

SPREAD = 0.015
"""Standard deviation of the speed of GPUs of one model in one cluster. Between the ends of the whiskers of box plots,
which are 5.4 standard deviations apart, five clusters of V100 and other GPUs under load show 8 % on average, since
power management gives chips other clocks (arXiv 2208.11035)."""


@dataclass(frozen=True, eq=False)
class Bucket:
    """One all-reduce: its bytes, and seconds from the start of the backward pass."""

    size_bytes: int
    ready_s: Array
    start_s: Array
    end_s: Array


def ready_times(
    rows: Sequence[Row], device_s: Sequence[Array], values: Mapping[str, Any], wanted: Sequence[Gradient]
) -> list[Array]:
    """Seconds into the backward pass after which each gradient is complete; `device_s`: of one launch of each row."""
    start: Array = 0.0
    times: dict[tuple[int, int], Array] = {}
    for places in sections(rows):
        seconds = [np.where(rows[place].step.when.evaluate(values), device_s[place], 0.0) for place in places]
        ends = dict(zip(places, accumulate(seconds), strict=True))
        span = ends[places[-1]]
        for each in wanted:
            if each.row in ends:
                times[each.row, each.turn] = start + each.turn * span + ends[each.row]
        start = start + sum(rows[p].count.evaluate(values) * s for p, s in zip(places, seconds, strict=True))
    return [times[each.row, each.turn] for each in wanted]


def reduced(sizes: Sequence[int], ready_s: Sequence[Array], all_reduce_s: Any) -> Iterator[Bucket]:
    """The buckets of gradients in the order in which they are ready, through NCCL's queue.

    `all_reduce_s`: from bytes to seconds. Under a compiler that sees no buckets, as in `DDP(torch.compile(model))`, all
    gradients are ready at the end of the backward pass.
    """
    free_s: Array = 0.0
    for places in buckets(sizes):
        size = sum(sizes[place] for place in places)
        ready = ready_s[places[-1]]
        start = np.maximum(ready, free_s)
        free_s = start + all_reduce_s(size)
        yield Bucket(size, ready, start, free_s)


def exposed_s(sent: Sequence[Bucket], backward_s: Array) -> Array:
    """Seconds that the step waits for communication once the backward pass has ended."""
    return np.maximum(sent[-1].end_s - backward_s, 0.0) if sent else 0.0 * backward_s


def slowest_of(gpus: Array) -> Array:
    """How many times as long as one GPU's the kernels of a step take where `gpus` GPUs wait for each other.

    Each step is as long as the slowest GPU's: the expected maximum of as many speeds by Blom's approximation.
    """
    if np.ndim(gpus) == 0:
        return 1.0 + SPREAD * _deviations((gpus - 0.375) / (gpus + 0.25))
    counts, place = np.unique(gpus, return_inverse=True)
    return np.array([slowest_of(count) for count in counts.tolist()])[place].reshape(np.shape(gpus))


def _deviations(share: float) -> float:
    """The standard deviations below which a share of a normal distribution lies."""
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if math.erfc(-middle / math.sqrt(2.0)) < 2.0 * share else (low, middle)
    return 0.5 * (low + high)
