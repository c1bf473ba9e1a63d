"""How GPUs talk: the links inside a node and the network between nodes, as a hardware file's `interconnect` has them.

What each constant means stands at the form that uses it: `timing/collective.py`. Bus bandwidths are as nccl-tests
define them: of n GPUs that take t seconds to sum arrays of s bytes, 2 (n - 1) / n * s / t.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from gpt2cost.errors import InputError, echo

MOST_GPUS = 1024
"""Most GPUs that one node can be said to have."""


@dataclass(frozen=True, kw_only=True)
class AllReduceTable:
    """Measured all-reduces of rising size. `latency`: of the smallest, if its own is known."""

    sizes_bytes: tuple[float, ...]
    times_s: tuple[float, ...]
    latency_s: float | None = None

    def __post_init__(self) -> None:
        if not self.sizes_bytes or len(self.sizes_bytes) != len(self.times_s):
            raise InputError("expected as many times as sizes, and at least one")
        if any(small >= large for small, large in pairwise(self.sizes_bytes)):
            raise InputError("sizes: expected each above the one before")
        if any(early > late for early, late in pairwise((self.latency_s or 0.0, *self.times_s))):
            raise InputError("times: expected none below the one before, or below latency")


def _check_counts(tables: dict[str, AllReduceTable], most: int) -> None:
    for count in tables:
        if not (count.isascii() and count.isdecimal() and 2 <= int(count) <= most and str(int(count)) == count):
            raise InputError(f"all_reduce: expected a number from 2 to {most} as a key, got {echo(count)}")


@dataclass(frozen=True, kw_only=True)
class Links:
    """What joins the GPUs of one node. `all_reduce`: by the number of GPUs; without it, `bus_bandwidth`.

    `latency`: of the smallest all-reduce, where a table has none of its own.
    """

    kind: Literal["nvlink", "pcie"]
    gpus: int = field(metadata={"range": (2, MOST_GPUS)})  # of a node at most
    bus_bandwidth_bytes_per_s: float | None = None
    latency_s: float
    all_reduce: dict[str, AllReduceTable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_counts(self.all_reduce, self.gpus)
        if (self.bus_bandwidth_bytes_per_s is None) != bool(self.all_reduce):
            raise InputError("expected either bus_bandwidth or tables in all_reduce")


@dataclass(frozen=True, kw_only=True)
class Network:
    """What joins nodes. `all_reduce`: of nodes all of whose GPUs take part, by the number of nodes."""

    nics: int = field(metadata={"range": (1, MOST_GPUS)})  # of a node
    bus_bandwidth_bytes_per_s: float  # of one NIC
    latency_s: float  # of two nodes
    all_reduce: dict[str, AllReduceTable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_counts(self.all_reduce, most=10**6)


@dataclass(frozen=True, kw_only=True)
class Interconnect:
    """Links inside a node, and the network between nodes if one is known."""

    links: Links
    network: Network | None = None

    def check(self, gpus: int, nodes: int = 1) -> None:
        """Raise `InputError` unless there are so many GPUs in a node, and a network where there are several nodes."""
        if gpus > self.links.gpus:
            raise InputError(
                f"gpus: a node has {self.links.gpus} at most, got {gpus}; nodes: more than one takes further GPUs"
            )
        if nodes > 1 and self.network is None:
            raise InputError(
                f"nodes: the hardware file has no interconnect.network, which {nodes} nodes need: state its nics, "
                "bus_bandwidth and latency"
            )
