"""How long GPUs take to sum their gradients: NCCL's collectives, by size, GPUs of a node and nodes.

A measured table is interpolated in the logarithms of size and time. Below its smallest size, time grows evenly from
the latency; beyond its largest, it goes on at the rate of the last two. Between and beyond the numbers of GPUs that
were measured, what changes evenly with the logarithm of their number is the bus bandwidth (nccl-tests),

    bus = 2 (n - 1) / n * bytes / time

so that the form holds that a ring has: time = latency + bytes / algbw, algbw = bus * n / (2 (n - 1)). Where nothing
was measured, it holds with the bus bandwidth that the file states.

Several nodes have a table too, if one was measured with all GPUs of each; the number of nodes takes the place of n,
since with one GPU a NIC the sum inside a node comes first. Without a table, the bus bandwidth is the lower one of the
links' and of all NICs', and the latency grows with the depth of NCCL's tree, log2 of the nodes (NVIDIA/nccl@01afd20,
src/graph/tuning.cc).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import numpy as np

from gpt2cost.device.interconnect import AllReduceTable, Interconnect, Links, Network
from gpt2cost.timing.terms import Array


def all_reduce_s(interconnect: Interconnect, size_bytes: Array, gpus: Array, nodes: Array = 1) -> Array:
    """Seconds of an all-reduce of `size_bytes` by `gpus` GPUs in each of `nodes` nodes; 0 where there is only one.

    Raises `InputError` for more GPUs than a node has, and for several nodes without a network.
    """
    if np.ndim(gpus) == np.ndim(nodes) == 0:
        return _all_reduce_s(interconnect, np.asarray(size_bytes, dtype=np.float64), int(gpus), int(nodes))
    size_bytes, gpus, nodes = np.asarray(size_bytes, dtype=np.float64), np.asarray(gpus), np.asarray(nodes)
    seconds: Array = np.zeros(())
    for count, of in product(np.unique(gpus), np.unique(nodes)):
        here = (gpus == count) & (nodes == of)
        if np.any(here):
            seconds = np.where(here, _all_reduce_s(interconnect, size_bytes, int(count), int(of)), seconds)
    return seconds[()]


def reduce_scatter_s(interconnect: Interconnect, size_bytes: Array, gpus: Array, nodes: Array = 1) -> Array:
    """Seconds to sum arrays of `size_bytes` and leave each GPU its share: half of an all-reduce, in a ring.

    Between nodes NCCL has trees for all-reduces alone: a ring's latency grows with every hop.
    """
    whole_s = all_reduce_s(interconnect, size_bytes, gpus, nodes)
    latency_s = all_reduce_s(interconnect, 0.0, gpus, nodes)
    gpus, nodes = np.asarray(gpus), np.asarray(nodes)
    hops_s = RING_S + (nodes - 1) * HOP_S["network"] + nodes * (gpus - 1) * HOP_S[interconnect.links.kind]
    return 0.5 * np.where(nodes > 1, whole_s - latency_s + 2.0 * hops_s, whole_s)[()]


all_gather_s = reduce_scatter_s
"""Seconds until each GPU has all shares of an array of `size_bytes`: the other half of an all-reduce."""

RING_S = 8.4e-6
HOP_S = {"nvlink": 3.4e-6, "pcie": 5.7e-6, "network": 9.6e-6}
"""A ring's latency by NCCL's own model of the protocol of large messages: at first, and of each hop
(NVIDIA/nccl@01afd20, src/graph/tuning.cc)."""


def ring_traffic(count: int) -> float:
    """What each of `count` GPUs sends in an all-reduce, over the array's size."""
    return 2.0 * (count - 1) / count


def _all_reduce_s(interconnect: Interconnect, size_bytes: Array, gpus: int, nodes: int) -> Array:
    interconnect.check(gpus, nodes)
    links, network = interconnect.links, interconnect.network
    if gpus * nodes == 1:
        return 0.0 * size_bytes
    if nodes == 1:
        return _within(links, size_bytes, gpus)
    assert network is not None
    if gpus == links.gpus and network.all_reduce:
        return _by_count(network.all_reduce, network.latency_s, size_bytes, nodes)
    return _between_nodes(links, network, size_bytes, gpus, nodes)


def _within(links: Links, size_bytes: Array, gpus: int) -> Array:
    if links.all_reduce:
        return _by_count(links.all_reduce, links.latency_s, size_bytes, gpus)
    assert links.bus_bandwidth_bytes_per_s is not None
    return links.latency_s + ring_traffic(gpus) * size_bytes / links.bus_bandwidth_bytes_per_s


def _between_nodes(links: Links, network: Network, size_bytes: Array, gpus: int, nodes: int) -> Array:
    """Without a table; of a node's NICs those of the GPUs that take part."""
    nics = network.nics * min(1.0, gpus / links.gpus)
    pace_s = size_bytes / (nics * network.bus_bandwidth_bytes_per_s)
    if gpus > 1:
        within_s = _within(links, size_bytes, gpus) - _within(links, 0.0 * size_bytes, gpus)
        pace_s = np.maximum(pace_s, within_s / ring_traffic(gpus))
    return network.latency_s * np.log2(nodes) + ring_traffic(gpus * nodes) * pace_s


def _by_count(tables: Mapping[str, AllReduceTable], latency_s: float, size_bytes: Array, count: int) -> Array:
    """Between the tables of the nearest counts, below and above, or from one of them."""
    counts = sorted(map(int, tables))
    below = max((n for n in counts if n <= count), default=counts[0])
    above = min((n for n in counts if n >= count), default=counts[-1])
    weight = 0.0 if below == above else np.log(count / below) / np.log(above / below)
    times = {n: _table_s(tables[str(n)], latency_s, size_bytes) / ring_traffic(n) for n in (below, above)}
    return ring_traffic(count) * np.power(times[below], 1.0 - weight) * np.power(times[above], weight)


def _table_s(table: AllReduceTable, latency_s: float, size_bytes: Array) -> Array:
    sizes, times = np.array(table.sizes_bytes), np.array(table.times_s)
    floor_s = min(latency_s if table.latency_s is None else table.latency_s, times[0])
    inside = np.exp(np.interp(np.log(np.maximum(size_bytes, sizes[0])), np.log(sizes), np.log(times)))
    below = np.minimum(size_bytes / sizes[0], 1.0) * (times[0] - floor_s) + floor_s
    rates = np.diff([floor_s, *times]) / np.diff([0.0, *sizes])
    beyond = np.maximum(size_bytes - sizes[-1], 0.0) * rates[-1]
    return np.where(size_bytes < sizes[0], below, inside + beyond)
