"""Seconds of one kernel on one device, and what most of them go to.

Sizes are floats or numpy arrays, which broadcast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.device.cpu_constants import CpuConstants
from gpt2cost.device.gpu_constants import MachineConstants
from gpt2cost.device.hardware import Hardware
from gpt2cost.table.kernel import Kernel
from gpt2cost.timing.cpu import CpuMachine
from gpt2cost.timing.gpu import GpuMachine
from gpt2cost.timing.terms import TINY, Array, Terms, after

BOUNDS = ("compute", "memory", "l2", "latency", "launch")
"""What a kernel's time goes to: arithmetic; the traffic of DRAM; that of L2; incomplete waves of thread blocks, serial
steps, too little work, elements that are addressed one by one; the launch."""
Machine: TypeAlias = GpuMachine | CpuMachine
"""A device that times kernels by its own forms: those of the cost table in a pass (`kernel`), and others on their own
(`product`, `attention`, `memory`); and what would be better on it (`improvements`)."""
_MACHINES: dict[type, type[Machine]] = {MachineConstants: GpuMachine, CpuConstants: CpuMachine}


def machine_of(hw: Hardware) -> Machine:
    """The forms that a device's constants belong to."""
    return _MACHINES[type(hw.model)](hw)


def kernel_terms(
    kernel: Kernel, values: Mapping[str, Array], hw: Hardware, dtype: str, graph: bool, reuse: Sequence[Array]
) -> Terms:
    """The terms of one launch of `kernel` in a pass, in a busy stream or (`graph`) as a node of a CUDA graph.

    `reuse`: for each of the kernel's inputs, the bytes touched since it was last used. Terms have the shape of what
    they depend on.
    """
    launch = hw.launch
    floor_s = launch.graph_floor_s if graph else max(launch.graph_floor_s, launch.stream_floor_s - launch.gap_s)
    return after(launch.gap_s, machine_of(hw).kernel(kernel, values, dtype, floor_s, reuse))


def improvements(hw: Hardware) -> list[tuple[str, Hardware]]:
    """What-ifs: what would be better, and the device with it."""
    no_launch = replace(
        hw,
        host=hw.host.scaled(0.0),
        launch=replace(hw.launch, stream_floor_s=0.0, graph_floor_s=0.0, gap_s=0.0),
        model=hw.model.without_launch(),
    )
    return [*machine_of(hw).improvements(), ("no launch cost, no host time", no_launch)]


def bound_of(terms: Terms) -> Any:
    """What most of the time goes to: one of `BOUNDS`."""
    return largest(BOUNDS, bound_seconds(terms))


def bound_seconds(terms: Terms) -> tuple[Array, ...]:
    """A kernel's seconds by what they would shrink with, one of `BOUNDS` each; they sum to `device_s`.

    The cost of the launch is added to the rest, in which arithmetic with its serial steps, DRAM and L2 overlap. Each of
    them has twice what doubling its rate would save, to first order. That is smooth in the sizes, where the largest
    term alone would jump.
    """
    launch_s = np.minimum(terms.launch_s, terms.device_s)
    work_s = terms.compute_s + terms.serial_s
    over = 1.0 / np.maximum(np.maximum(np.maximum(work_s, terms.memory_s), terms.l2_s), TINY)
    shares = (seconds * over for seconds in (work_s, terms.memory_s, terms.l2_s))
    work, dram, l2 = (share * share * share for share in shares)  # the cube of a p-norm, about that of products
    per_share = (terms.device_s - launch_s) / np.maximum(work + dram + l2, TINY)
    dram_s, l2_s, work_part_s = dram * per_share, l2 * per_share, work * per_share
    compute_s = work_part_s * terms.compute_s / np.maximum(work_s, TINY)
    latency_s = work_part_s - compute_s
    return compute_s, dram_s, l2_s, latency_s, terms.device_s - compute_s - dram_s - l2_s - latency_s


def largest(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    """The name of the largest value: a string, or an array of them."""
    index = index_of_largest(values)
    return names[int(index)] if index.ndim == 0 else np.asarray(names)[index]


def index_of_largest(values: Sequence[Any]) -> Any:
    """Where the largest of `values` stands, the first of equals: an integer array of their joint shape."""
    top, index = np.asarray(values[0]), np.asarray(0, np.int8)
    for number, value in enumerate(values[1:], 1):
        index = np.where(value > top, np.int8(number), index)
        top = np.maximum(top, value)
    return index
