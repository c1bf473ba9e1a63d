"""Buckets through NCCL's queue: by hand, in arrays, and by what cannot be otherwise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2cost.device.catalog import load_hardware
from gpt2cost.prediction.one_pass import run_rows, symbol_values
from gpt2cost.prediction.settings import Sizes
from gpt2cost.table.config import load_model
from gpt2cost.table.ddp import Gradient, copy_rows
from gpt2cost.table.formula import ALWAYS, formula
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Kernel, Row, walk
from gpt2cost.table.optimizer import parameters
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import L
from gpt2cost.timing.collective import all_reduce_s
from gpt2cost.timing.overlap import SPREAD, exposed_s, ready_times, reduced, slowest_of

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


# ---------------------------------------------------------------------------------------------- what was measured


def sizes_in_order(name: str) -> list[int]:
    """Bytes of fp32 gradients as they arrive: the last layer's first, the tied embedding's last."""
    sizes = symbol_values(load_model(name), "fp32", Sizes(1, 1, 0))
    every = {p.name: 4 * int(p.elements.evaluate(sizes)) for p in parameters(TableOptions())}
    embeddings = [every.pop(f"transformer.{name}.weight") for name in ("wpe", "wte")]
    last = [size for key, size in every.items() if "ln_f" in key]
    layer = [size for key, size in reversed(every.items()) if "{i}" in key]
    return [*last, *layer * int(sizes["num_layers"]), *embeddings]


def all_waited_for_s(model: str, gpu: str, gpus: int) -> float:
    """Seconds of a step's all-reduces and copies where the backward pass hides nothing."""
    hw, sizes = load_hardware(gpu), sizes_in_order(model)
    assert hw.interconnect is not None
    sent = list(reduced(sizes, [0.0] * len(sizes), lambda size: all_reduce_s(hw.interconnect, size, gpus)))
    values = symbol_values(load_model(model), "fp32", Sizes(1, 1, 0))
    copies = [run_rows(rows, values, hw, "fp32", "eager") for rows in copy_rows(TableOptions())]
    return float(exposed_s(sent, 0.0)) + sum(float(cost.device_s) for each in copies for cost in each.kernels)


def test_eight_a100() -> None:
    """370 ms a step where one GPU takes 355 (compiled inside DDP): 5.2 ms of all-reduces, 1.5 of copies, and 7.6 that
    the slowest of eight takes longer."""
    predicted_ms = 1e3 * all_waited_for_s("gpt2", "a100", 8) + 355 * (slowest_of(8) - 1.0)
    assert predicted_ms == pytest.approx(15, rel=0.1)


@pytest.mark.parametrize(
    ("gpu", "with_ms", "source_is"),
    [("3090ti-nvlink", 325.9, "assumed"), ("3090ti", 467.7, "measured")],
)
def test_two_3090ti(gpu: str, with_ms: float, source_is: str) -> None:
    """gpt2-medium by Megatron-LM, which sums all gradients at once, after the backward pass; 294.2 ms on one GPU.

    The bridge's rate is not from this run: 15 % too much. What there is without peer access is this very run.
    """
    hw = load_hardware(gpu)
    assert hw.interconnect is not None
    key = max((key for key in hw.provenance if key.startswith("interconnect")), key=len)
    assert hw.provenance[key].startswith((source_is, f"borrowed from rtx3090: {source_is}"))
    sum_s = all_reduce_s(hw.interconnect, float(sum(sizes_in_order("gpt2-medium"))), 2)
    predicted_ms = 1e3 * sum_s + 294.2 * (slowest_of(2) - 1.0)
    assert predicted_ms == pytest.approx(with_ms - 294.2, rel=0.17)


def test_accumulation_hides_no_less() -> None:
    """With four micro-steps, 20 sequences at 35.361 and 31.499 a second with and without the bridge."""
    measured_s = 40 / 31.499 - 40 / 35.361
    size = float(sum(sizes_in_order("gpt2-medium")))
    without, bridge = (load_hardware(name).interconnect for name in ("3090ti", "3090ti-nvlink"))
    assert without is not None
    assert bridge is not None
    assert all_reduce_s(without, size, 2) - all_reduce_s(bridge, size, 2) == pytest.approx(measured_s, rel=0.05)


def test_two_4090() -> None:
    """PCIe without peer access: 8 to 11 GB/s, 45 to 62 ms for 498 MB, of a step of 1191 ms."""
    waited_s = all_waited_for_s("gpt2", "4090", 2)
    assert 45e-3 <= waited_s <= 62e-3


def test_the_slowest_gpu() -> None:
    """The mean of the largest of n samples of a normal distribution."""
    counts = np.array([[1, 2], [8, 128]])
    draws = np.random.default_rng(1).standard_normal((20000, 128))
    drawn = [[1.0 + SPREAD * draws[:, :count].max(axis=1).mean() for count in row] for row in counts]
    assert slowest_of(counts) == pytest.approx(np.array(drawn), abs=1e-3)
    assert slowest_of(1) == 1.0
    assert isinstance(float(slowest_of(8)), float)
