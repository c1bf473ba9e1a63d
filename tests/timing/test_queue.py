"""The (max, +) closed form against a plain simulation that steps through every kernel of every layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Host
from gpt2cost.table.formula import ALWAYS, formula, symbol
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Free, Kernel, Row, walk
from gpt2cost.table.options import GRAPHED, RUNTIMES
from gpt2cost.timing.queue import pass_steps, pass_times

SEQ, LAYERS = symbol("seq_len"), symbol("num_layers")
KERNEL = next(row.step for row in walk(cost_table()) if isinstance(row.step, Kernel))

times = st.integers(0, 40).map(lambda n: n / 4)  # sums of quarters are exact: no tolerance needed
hosts = st.builds(
    lambda *costs: replace(
        load_hardware("a100").host,
        **dict(
            zip(
                (
                    "op_s",
                    "module_s",
                    "view_s",
                    "call_s",
                    "launch_latency_s",
                    "sync_s",
                    "graph_replay_s",
                    "compiled_op_s",
                ),
                costs,
                strict=True,
            )
        ),
    ),
    *[times] * 8,
)
conditions = st.sampled_from([ALWAYS, SEQ > 1, SEQ < 2])
steps = st.one_of(
    st.builds(lambda when, module: replace(KERNEL, when=when, in_module=module), conditions, st.booleans()),
    st.builds(Free, st.just("free"), st.sampled_from(["view", "call"]), st.integers(0, 4), conditions),
    st.builds(lambda when: Free("wait", "sync", 1, when), conditions),
)  # fmt: skip
sections = st.lists(st.tuples(steps, times), max_size=5)


def rows_of(before: list[Any], block: list[Any], after: list[Any]) -> tuple[list[Row], list[float]]:
    one = formula(1)
    timed = [("", one, *step) for step in before] + [("h", LAYERS, *step) for step in block]
    timed += [("", one, *step) for step in after]
    return [Row(path, s, count, i) for i, (path, count, s, _) in enumerate(timed)], [t for *_, t in timed]


def simulate(
    before: list[Any], block: list[Any], after: list[Any], layers: int, seq: int, host: Host, runtime: str
) -> tuple[float, float]:
    """Host seconds and latency, step by step: the host issues, the device runs, a sync waits."""
    clock = issued = 0.0 if runtime == "eager" else host.graph_replay_s
    device = 0.0
    for step, seconds in [*before, *block * layers, *after]:
        if (step.when == (SEQ > 1) and seq == 1) or (step.when == (SEQ < 2) and seq > 1):
            continue
        if isinstance(step, Kernel):
            own = host.module_s if step.in_module else host.op_s
            cost = {"eager": own, "compile": host.compiled_op_s}.get(runtime, 0.0)
            latency = 0.0 if runtime in GRAPHED else host.launch_latency_s
            clock, issued = clock + cost, issued + cost
            device = max(device, clock + latency) + seconds
        elif runtime == "eager":
            cost = step.count * {"view": host.view_s, "call": host.call_s, "sync": host.sync_s}[step.op]
            issued += cost
            clock = (max(clock, device) if step.op == "sync" else clock) + cost
        elif step.op == "sync" and runtime != "cuda-graph":  # a graph break: what follows is another graph
            cost = host.sync_s + host.graph_replay_s
            issued += cost
            clock = max(clock, device) + cost
    return issued, max(clock, device) + host.sync_s


@given(sections, sections, sections, st.integers(1, 13), st.integers(1, 2), hosts, st.sampled_from(RUNTIMES))
def test_the_closed_form_is_the_simulation(
    before: list[Any], block: list[Any], after: list[Any], layers: int, seq: int, host: Host, runtime: str
) -> None:
    rows, seconds = rows_of(before, block, after)
    result = pass_times(rows, seconds, {"num_layers": layers, "seq_len": seq}, host, runtime)
    expected = simulate(before, block, after, layers, seq, host, runtime)
    assert (float(result.host_s), float(result.latency_s)) == expected


@given(sections, sections, st.integers(1, 9), hosts, st.sampled_from(RUNTIMES))
def test_arrays_are_the_loop_over_points(
    before: list[Any], block: list[Any], layers: int, host: Host, runtime: str
) -> None:
    rows, seconds = rows_of(before, block, [])
    factors, seqs = np.array([0.0, 1.0, 3.0, 1.0]), np.array([1, 1, 2, 3])
    grid = pass_times(rows, [t * factors for t in seconds], {"num_layers": layers, "seq_len": seqs}, host, runtime)
    for index, (factor, seq) in enumerate(zip(factors, seqs, strict=True)):
        scaled = [[(step, t * factor) for step, t in part] for part in (before, block)]
        expected = simulate(*scaled, [], layers, int(seq), host, runtime)
        found = (np.broadcast_to(part, 4)[index] for part in (grid.host_s, grid.latency_s))
        assert tuple(found) == expected


def test_the_slower_of_host_and_device_sets_the_pace() -> None:
    host = replace(load_hardware("a100").host, op_s=1.0, module_s=1.0, launch_latency_s=0.0, sync_s=0.0)
    kernels = [Row("h", replace(KERNEL, when=ALWAYS), LAYERS, 0)]
    for device_s, expected in ((0.25, 100 * 1.0 + 0.25), (4.0, 1.0 + 100 * 4.0)):
        assert pass_times(kernels, [device_s], {"num_layers": 100}, host, "eager").latency_s == pytest.approx(expected)


@given(sections, hosts, st.sampled_from(("eager", "compile")))
def test_as_often_as_an_array_says(section: list[Any], host: Host, runtime: str) -> None:
    rows, seconds = rows_of(section, [], [])
    _, once = pass_steps(rows, seconds, {"seq_len": 2}, host, runtime)
    counts = np.array([[0, 1, 2], [5, 8, 13]])
    ends = np.broadcast_arrays(*once.times(counts).end())
    for place, count in np.ndenumerate(counts):
        assert [end[place] for end in ends] == pytest.approx(list(once.times(int(count)).end()))
