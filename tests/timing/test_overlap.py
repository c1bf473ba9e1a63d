"""Buckets through NCCL's queue: by hand, in arrays, and by what cannot be otherwise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2cost.table.ddp import Gradient
from gpt2cost.table.formula import ALWAYS, formula
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Kernel, Row, walk
from gpt2cost.table.symbols import L
from gpt2cost.timing.overlap import exposed_s, ready_times, reduced

MB = 2**20
KERNEL = next(row.step for row in walk(cost_table()) if isinstance(row.step, Kernel) and row.step.when == ALWAYS)


def seconds(size: int) -> float:
    """An all-reduce at 1 MiB a second, with a second beforehand."""
    return 1.0 + size / MB


def test_a_queue_by_hand() -> None:
    """The first bucket is closed at 1 MiB; the second and third at 25; the last waits for the one before."""
    sizes = [MB, 20 * MB, 10 * MB, 25 * MB, MB]
    first, second, third, last = reduced(sizes, [10.0, 20.0, 30.0, 70.0, 80.0], seconds)
    assert (first.size_bytes, first.ready_s, first.start_s, first.end_s) == (MB, 10, 10, 12)
    assert (second.size_bytes, second.ready_s, second.start_s, second.end_s) == (30 * MB, 30, 30, 61)
    assert (third.start_s, third.end_s) == (70, 96)
    assert (last.ready_s, last.start_s, last.end_s) == (80, 96, 98)
    assert exposed_s([first, second, third, last], 80.0) == 18
    assert exposed_s([first], 80.0) == 0


def test_all_at_once_is_the_sum() -> None:
    """A compiler inside of DDP: nothing is hidden."""
    sizes = [30 * MB] * 4
    sent = list(reduced(sizes, [50.0] * 4, seconds))
    assert exposed_s(sent, 50.0) == sum(map(seconds, sizes))


@given(
    sizes=st.lists(st.integers(1, 60 * MB), min_size=1, max_size=20),
    gaps=st.lists(st.floats(0.0, 50.0), min_size=20, max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_bounds(sizes: list[int], gaps: list[float]) -> None:
    """No less than the last bucket is exposed, and no more than all; each bucket follows the one before."""
    ready = list(np.cumsum(gaps)[: len(sizes)])
    sent = list(reduced(sizes, ready, seconds))
    times = [seconds(bucket.size_bytes) for bucket in sent]
    assert sum(bucket.size_bytes for bucket in sent) == sum(sizes)
    assert times[-1] - 1e-9 <= exposed_s(sent, ready[-1]) <= sum(times) + 1e-9
    assert all(before.end_s <= after.start_s for before, after in itertools.pairwise(sent))
    doubled = list(reduced(sizes, [np.array([each, 2 * each]) for each in ready], seconds))
    assert [bucket.end_s[0] for bucket in doubled] == pytest.approx([bucket.end_s for bucket in sent])


def test_ready_times_follow_the_rows() -> None:
    """A head of 5 s, three layers of 2 and 3 s each, and a tail of 7 s."""
    counts = [formula(1), L, L, formula(1)]
    rows = [Row("", KERNEL, count, index) for index, count in enumerate(counts)]
    wanted = [Gradient("", 1, *place) for place in ((0, 0), (1, 0), (2, 0), (1, 2), (2, 2), (3, 0))]
    sizes = {"num_layers": 3}
    times = ready_times(rows, [5.0, 2.0, 3.0, 7.0], sizes, wanted)
    assert times == [5, 7, 10, 17, 20, 27]
    arrays = ready_times(rows, [np.array([5.0, 10.0]), *(np.array([x, 2 * x]) for x in (2.0, 3.0, 7.0))], sizes, wanted)
    assert [time[1] for time in arrays] == [10, 14, 20, 34, 40, 54]
