"""Seconds of one kernel on one device: the terms of its time, and what bounds it.

Every function takes sizes as floats or numpy arrays (they broadcast) and a `Hardware`, and returns `Terms`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.hardware import Hardware
from gpt2cost.kernels import FusedAttention, Gemm, Kernel

Array: TypeAlias = Any
"""A float or a numpy array of floats."""


@dataclass(frozen=True)
class Terms:
    """What the device seconds of one launch are made of. `device_s` is the kernel's time in a busy stream."""

    device_s: Array
    compute_s: Array
    memory_s: Array
    launch_s: Array


def kernel_terms(kernel: Kernel, values: Mapping[str, Array], hw: Hardware, dtype: str, graph: bool) -> Terms:
    """The terms of one launch of `kernel` at the sizes in `values`, in a stream or as a node of a CUDA graph."""
    read, write = kernel.reads.evaluate(values), kernel.writes.evaluate(values)
    floor = hw.launch.graph_floor_s if graph else hw.launch.stream_floor_s
    match kernel.shape:
        case Gemm():
            c = hw.model.gemm[dtype]
            compute = kernel.flops.evaluate(values) / (c.compute_efficiency * hw.compute.peak_flop_per_s[dtype])
            memory = (read + write) / (c.memory_efficiency * hw.memory.bandwidth_bytes_per_s)
            return _terms(compute, memory, floor, c.t0_s)
        case FusedAttention():
            a = hw.model.attention
            compute = kernel.flops.evaluate(values) / (a.efficiency * hw.compute.peak_flop_per_s[dtype])
            memory = (read + write) / (a.memory_efficiency * hw.memory.bandwidth_bytes_per_s)
            return _terms(compute, memory, floor, a.t0_s)
        case None:
            memory = (read + write) / (hw.model.memory[_memory_kind(kernel)] * hw.memory.bandwidth_bytes_per_s)
            return _terms(0.0, memory, floor, 0.0)


def _terms(compute: Array, memory: Array, floor: float, t0: float) -> Terms:
    return Terms(np.maximum(floor, t0 + np.maximum(compute, memory)), compute, memory, max(floor, t0))


def _memory_kind(kernel: Kernel) -> str:
    ops = kernel.op.split("+")
    if "_softmax" in ops:
        return "softmax"
    if "native_layer_norm" in ops:
        return "layer_norm"
    if kernel.kind in ("copy", "gather"):
        return kernel.kind
    return "where" if ops == ["where"] else "elementwise"
