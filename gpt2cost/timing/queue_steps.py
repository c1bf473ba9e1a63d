"""One pass, step by step: when the host issues each kernel and when the device runs it, all layers unrolled.

`queue` has the same rules as one product of matrices, without the times in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from gpt2cost.device.hardware import Host
from gpt2cost.table.kernel import Free, Kernel, Row
from gpt2cost.table.options import COMPILED, GRAPHED
from gpt2cost.table.quantization import OPS
from gpt2cost.timing.queue import host_cost, waits

GRAPH_LAUNCH = "cudaGraphLaunch"
COMPILED_CALL = "Torch-Compiled Region"
FINAL_SYNC = "cudaDeviceSynchronize"


@dataclass(frozen=True)
class Slice:
    """Something that takes time on one track, in seconds from the start of the pass.

    `row` is the step of the cost table, None for the launch of a graph and the last wait. `launch` numbers the
    kernels: a host slice and the device slice that it issues have the same; the launch of a graph has the number of
    the graph's first kernel.
    """

    track: Literal["host", "device"]
    name: str
    module: str
    start_s: float
    end_s: float
    row: Row | None
    launch: int | None = None


def unrolled(rows: Iterable[Row], values: Mapping[str, Any]) -> Iterator[tuple[Row, str]]:
    """Each step that runs, in order, with its module's path: that of the third layer begins with `transformer.h.2`."""
    for count_formula, section in groupby(rows, key=lambda row: row.count):
        steps = [row for row in section if row.step.when.evaluate(values)]
        count = int(count_formula.evaluate(values))
        for layer in range(count):
            for row in steps:
                numbered = re.sub(r"\bh\b", f"h.{layer}", row.module, count=1) if count_formula != 1 else row.module
                yield row, numbered


def run_queue(
    rows: Iterable[Row], launch_s: Iterable[float], values: Mapping[str, Any], host: Host, runtime: str
) -> Iterator[Slice]:
    """The slices of a pass at one point, in the order of issue; steps that take no time are left out.

    `launch_s` are the device seconds of one launch of each row. The last slice is the host's wait for the device, at
    whose end the pass is over.
    """
    rows = tuple(rows)
    kernel_s = {row.index: float(seconds) for row, seconds in zip(rows, launch_s, strict=True)}
    host_s, device_s, launches = 0.0, 0.0, 0
    graph = runtime in GRAPHED

    def entered(end_s: float) -> Slice:
        """The replay of a graph, or the call of compiled code, that ends at `end_s`."""
        name = GRAPH_LAUNCH if graph else COMPILED_CALL
        return Slice("host", name, "", end_s - host.graph_replay_s, end_s, None, launches if graph else None)

    if runtime != "eager":
        host_s = host.graph_replay_s
        yield entered(host_s)
    for row, module in unrolled(rows, values):
        start_s, cost_s = host_s, host_cost(row.step, host, runtime, values)
        if isinstance(row.step, Free):
            waiting = waits(row.step, runtime)
            replay_s = host.graph_replay_s if waiting and runtime in COMPILED else 0.0
            host_s = (max(host_s, device_s) if waiting else host_s) + cost_s
            if host_s - replay_s > start_s:
                yield Slice("host", row.step.name, module, start_s, host_s - replay_s, row)
            if replay_s:
                yield entered(host_s)
            continue
        host_s += cost_s
        if host_s > start_s:
            yield Slice("host", _op(row.step), module, start_s, host_s, row, launches)
        begins_s = max(device_s, host_s + (0.0 if graph or host.synchronous else host.launch_latency_s))
        device_s = begins_s + kernel_s[row.index]
        if host.synchronous:
            host_s = device_s
        path = ".".join(filter(None, (module, row.step.name)))
        yield Slice("device", path, module, begins_s, device_s, row, launches)
        launches += 1
    yield Slice("host", FINAL_SYNC, "", host_s, max(host_s, device_s) + host.sync_s, None)


def _op(kernel: Kernel) -> str:
    if kernel.op in OPS:
        return f"bitsandbytes::{kernel.op}"
    return "+".join(f"aten::{op}" for op in kernel.op.split("+"))
