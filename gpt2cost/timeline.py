"""From kernel seconds to the latency of a pass: the host issues kernels, the device runs them one after the other.

The state is (h, g): when the host is free, and when the device is. Every step maps the state by max and plus alone:

    kernel   h' = h + issue            g' = max(g, h' + launch latency) + device seconds
    host     h' = h + host seconds     g' = g
    sync     h' = max(h, g) + sync     g' = g

so a step is a 2 x 2 matrix over (max, +), a sequence of steps is their product, and n equal layers are an n-th power,
which takes log2(n) products: no loop over layers, exact with syncs inside, and every entry may be a numpy array.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

Seconds: TypeAlias = Any
"""A float, or a numpy array of them."""

NEVER = -np.inf


@dataclass(frozen=True)
class Steps:
    """A map of the state (h, g) over (max, +): `hg` is what g adds to h, and so on."""

    hh: Seconds
    hg: Seconds
    gh: Seconds
    gg: Seconds

    def then(self, after: Steps) -> Steps:
        """These steps, and `after` following them."""
        maximum = np.maximum
        return Steps(
            maximum(after.hh + self.hh, after.hg + self.gh),
            maximum(after.hh + self.hg, after.hg + self.gg),
            maximum(after.gh + self.hh, after.gg + self.gh),
            maximum(after.gh + self.hg, after.gg + self.gg),
        )

    def times(self, count: int) -> Steps:
        """These steps `count` times in a row."""
        if count == 0:
            return NOTHING
        half = self.times(count // 2)
        return half.then(half).then(self) if count % 2 else half.then(half)

    def end(self) -> tuple[Seconds, Seconds]:
        """When host and device are done, in seconds from an idle start."""
        return np.maximum(self.hh, self.hg), np.maximum(self.gh, self.gg)


NOTHING = Steps(0.0, NEVER, NEVER, 0.0)


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
