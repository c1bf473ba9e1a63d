"""From kernel seconds to the latency of a pass: the host issues kernels, the device runs them one after the other.

The state is (h, g): when the host is free, and when the device is. Every step maps the state by max and plus alone:

    kernel   h' = h + issue            g' = max(g, h' + launch latency) + device seconds
    host     h' = h + host seconds     g' = g
    sync     h' = max(h, g) + sync     g' = g

On a CPU the host runs the kernels itself: h' = h + issue + kernel seconds, and g stays.

So a step is a 2 x 2 matrix over (max, +), a sequence of steps is their product, and n equal layers are an n-th power,
which takes log2(n) products: no loop over layers, exact with syncs inside, and every entry may be a numpy array.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.device.hardware import Host
from gpt2cost.table.kernel import Foreach, Free, Kernel, Row
from gpt2cost.table.options import COMPILED, GRAPHED

Seconds: TypeAlias = Any
"""A float, or a numpy array of them."""


class _Never(float):
    """Minus infinity as a value of its own, told from a computed one by `is`."""


NEVER = _Never("-inf")
"""What one clock adds to the other where no path leads from it: the zero of (max, +)."""


@dataclass(frozen=True)
class Steps:
    """A map of the state (h, g) over (max, +): `hg` is what g adds to h, and so on."""

    hh: Seconds
    hg: Seconds
    gh: Seconds
    gg: Seconds

    def then(self, after: Steps) -> Steps:
        """These steps, and `after` following them."""
        return Steps(
            _later(after.hh, self.hh, after.hg, self.gh),
            _later(after.hh, self.hg, after.hg, self.gg),
            _later(after.gh, self.hh, after.gg, self.gh),
            _later(after.gh, self.hg, after.gg, self.gg),
        )

    def times(self, count: Any) -> Steps:
        """These steps `count` times in a row: an integer, or an array of whole numbers."""
        if np.ndim(count):
            return self._times_each(np.asarray(count).astype(np.int64))
        if count == 0:
            return NOTHING
        half = self.times(count // 2)
        return half.then(half).then(self) if count % 2 else half.then(half)

    def _times_each(self, counts: Any) -> Steps:
        """As often as an array says, power by power of two."""
        power, whole = self, NOTHING
        for bit in range(int(np.max(counts)).bit_length()):
            whole = whole.then(only_where((counts >> bit) & 1 > 0, power))
            power = power.then(power)
        return whole

    def end(self) -> tuple[Seconds, Seconds]:
        """When host and device are done, in seconds from an idle start."""
        return np.maximum(self.hh, self.hg), np.maximum(self.gh, self.gg)


NOTHING = Steps(0.0, NEVER, NEVER, 0.0)


def _later(a: Seconds, b: Seconds, c: Seconds, d: Seconds) -> Seconds:
    """max(a + b, c + d). A path that never is costs no work, and its other half's shape stays out of the result."""
    if a is NEVER or b is NEVER:
        return NEVER if c is NEVER or d is NEVER else c + d
    return a + b if c is NEVER or d is NEVER else np.maximum(a + b, c + d)


def kernel(issue_s: Seconds, launch_latency_s: Seconds, device_s: Seconds) -> Steps:
    """A launch that costs the host `issue_s` and starts on the device `launch_latency_s` later at the earliest."""
    return Steps(issue_s, NEVER, issue_s + launch_latency_s + device_s, device_s)


def host(host_s: Seconds) -> Steps:
    """Work of the host alone."""
    return Steps(host_s, NEVER, NEVER, 0.0)


def sync(sync_s: Seconds) -> Steps:
    """The host waits for the device, then needs `sync_s` to go on."""
    return Steps(sync_s, sync_s, NEVER, 0.0)


def sequence(steps: Iterable[Steps]) -> Steps:
    """Steps one after the other."""
    return reduce(Steps.then, steps, NOTHING)


def only_where(launched: Any, steps: Steps) -> Steps:
    """`steps` where `launched` is true, nothing elsewhere."""
    if launched is True:
        return steps
    if launched is False:
        return NOTHING
    fields = ((getattr(steps, name), getattr(NOTHING, name)) for name in ("hh", "hg", "gh", "gg"))
    return Steps(*(taken if taken is skipped else np.where(launched, taken, skipped) for taken, skipped in fields))


@dataclass(frozen=True)
class PassTimes:
    """Seconds of one pass: `host_s` to issue it, were the device never waited for; `latency_s` from idle to idle."""

    host_s: Seconds
    latency_s: Seconds


def pass_times(
    rows: Sequence[Row], device_s: Sequence[Seconds], values: Mapping[str, Any], host_costs: Host, runtime: str
) -> PassTimes:
    """Run the rows through the queue; `device_s` are the seconds of one launch of each (a free step's are not read).

    The latency ends with one synchronisation.
    """
    host_s, whole = pass_steps(rows, device_s, values, host_costs, runtime)
    return PassTimes(host_s, np.maximum(*whole.end()) + host_costs.sync_s)


def pass_steps(
    rows: Sequence[Row], device_s: Sequence[Seconds], values: Mapping[str, Any], host_costs: Host, runtime: str
) -> tuple[Seconds, Steps]:
    """The host's seconds to issue the rows, and all of them as one map of the queue's state. See `pass_times`.

    `eager` issues every step. `compile` issues kernels alone, at the cost of compiled code. `cuda-graph` replays the
    kernels with one call, and so does `reduce-overhead`. To enter compiled code costs what a replay does. A wait for
    the device breaks compiled code in two: what follows is entered anew. In a CUDA graph it cannot be (`waits_inside`).
    """
    whole = NOTHING if runtime == "eager" else host(host_costs.graph_replay_s)
    host_s: Seconds = np.maximum(whole.hh, 0.0)
    indexed = list(zip(rows, device_s, strict=True))
    for count_formula, section in groupby(indexed, key=lambda item: item[0].count):
        count = int(count_formula.evaluate(values))
        once = NOTHING
        for row, seconds in section:
            launched = row.step.when.evaluate(values)
            cost_s = host_cost(row.step, host_costs, runtime, values)
            host_s = host_s + count * cost_s * launched
            once = once.then(only_where(launched, _step(row.step, cost_s, seconds, host_costs, runtime)))
        whole = whole.then(once.times(count))
    return host_s, whole


TENSOR = 0.2
"""Of an op's cost, what each tensor of a list takes the host in one op over all of them: it is looked up, checked, and
packed into a launch's arguments. On a CPU, AdamW with two such ops took 0.17 for each, clipping with two 0.21; on the
host of an H100 (Jjschwartz/gollem@9bdf113) foreach AdamW, with nine, 2.8 ms more than the kernels' time: 0.21."""


def host_cost(step: Kernel | Free, host_costs: Host, runtime: str, values: Mapping[str, Any]) -> Seconds:
    """Seconds that the host needs to issue a step once."""
    if isinstance(step, Kernel) and isinstance(step.shape, Foreach):
        tensors = sum(parameter.count.evaluate(values) for parameter in step.shape.parameters)
        return host_costs.op_s * (1.0 + TENSOR * tensors)
    if isinstance(step, Kernel):
        issue_s = host_costs.module_s if step.in_module else host_costs.op_s
        return {"eager": issue_s, "compile": host_costs.compiled_op_s}.get(runtime, 0.0)
    if runtime in COMPILED and step.op == "sync":
        return step.count * (host_costs.sync_s + host_costs.graph_replay_s)
    if runtime != "eager":
        return 0.0
    return step.count * {"view": host_costs.view_s, "call": host_costs.call_s, "sync": host_costs.sync_s}[step.op]


def _step(step: Kernel | Free, cost_s: Seconds, seconds: Seconds, host_costs: Host, runtime: str) -> Steps:
    if host_costs.synchronous:
        return host(cost_s + seconds if isinstance(step, Kernel) else cost_s)
    if isinstance(step, Kernel):
        return kernel(cost_s, 0.0 if runtime in GRAPHED else host_costs.launch_latency_s, seconds)
    return sync(cost_s) if waits(step, runtime) else host(cost_s)


def waits(step: Free, runtime: str) -> bool:
    """Whether the host waits for the device at a step, where it is run at all."""
    return step.op == "sync" and runtime != "cuda-graph"


def waits_inside(rows: Iterable[Row], values: Mapping[str, Any]) -> tuple[Any, str]:
    """Where the host waits for the device inside a pass, and the source line of the first kernel that it waits for."""
    inside: Any = False
    source, last = "", ""
    for row in rows:
        if isinstance(row.step, Kernel):
            last = str(row.step.source)
        elif row.step.op == "sync":
            here = row.step.when.evaluate(values)
            source = source or (last if np.any(here) else "")
            inside = inside | here
    return inside, source
