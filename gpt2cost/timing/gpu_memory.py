"""Seconds of a kernel that moves bytes: element-wise, softmax, layer norm, copies, gathers, fills.

    cold     = share of the bytes read, and of those written, that L2 does not serve: 0 for a small footprint, 1 for one
               beyond its size
    weighted = (cold read + write_weight * cold written) * 2 / (1 + write_weight)
    late     = cold share of all bytes * carry_over * L2 size         written after the end of a kernel that runs alone
    T_dram   = max(max(0, weighted - late) / (dram_efficiency * DRAM bandwidth), cold bytes / DRAM bandwidth)
    T_l2     = bytes / (l2_efficiency * L2 copy bandwidth)
    T_bytes  = max(T_dram, T_l2, bytes / (per_unit * units))
    T_math   = elements / (rate * units)     of a kernel that computes an index for each element, that rate
    steps    = latency + column * columns                                            a row's dependent steps
    T        = max(floor, start + norm_2(steps, norm_4(T_bytes, T_math)))          start: a graph node's floor

A softmax over more than 1024 columns gives each row a thread block of 1024 threads, of which an SM holds one or two:

    T_rows   = max(1, rows / (blocks * units)) * (block + block_column * columns)
    T        = max(floor, start + max(T_rows, norm_4(T_bytes, T_math of their first 1024 columns)))

Monotone in bytes and rows; never below what L2 cannot hold over DRAM's bandwidth.
"""

from __future__ import annotations

import numpy as np

from gpt2cost.device.gpu_constants import ADDRESSES
from gpt2cost.device.hardware import Hardware
from gpt2cost.timing.terms import Array, Terms, norm, residency

_OVERLAP = 4.0
"""Norm that joins moving bytes and arithmetic."""
_FILL = 2.0
"""Norm that joins the latency of one row and the work of all: an SM with few rows waits for each, one with many is
busy. From layer norm of 1 to 4096 rows."""
_WARP_COLUMNS = 1024
"""The longest rows of a softmax that a warp holds in its registers; longer ones take a thread block each."""


def missing(hw: Hardware, footprint_bytes: Array) -> Array:
    """The share of a tensor that L2 has lost: `footprint_bytes` were touched since it was used, itself included."""
    memory = hw.gpu_model.memory
    return 1.0 - residency(footprint_bytes, hw.memory.l2_bytes, memory.resident_from, memory.resident_to)


def memory_terms(
    hw: Hardware,
    kind: str,
    read_bytes: Array,
    write_bytes: Array,
    elements: Array,
    columns: Array,
    floor_s: float,
    *,
    cold_read: Array | None = None,
    cold_write: Array | None = None,
    rate: float = 1.0,
    indexed: bool = False,
) -> Terms:
    """A kernel of one of `MEMORY_KINDS`, which writes `elements`. `columns` is the length of the rows that it reduces
    (1 for none).

    Sizes are floats or arrays; the terms have the shape that they broadcast to. `floor_s`: the least time
    of a launch. `cold_read`, `cold_write`: how many of the bytes read and written DRAM moves; by default as many as
    where the kernel is repeated on its own operands. `rate`: of the kind's share of DRAM. `indexed`: it computes an
    index for each element, and loads them one by one.
    """
    memory = hw.gpu_model.memory
    c = memory.kinds[kind]
    units = hw.compute.units
    moved = read_bytes + write_bytes
    alone = missing(hw, moved) if cold_read is None or cold_write is None else 0.0
    late = 0.0 if cold_write is not None else alone * memory.carry_over * hw.memory.l2_bytes
    cold_read = alone * read_bytes if cold_read is None else cold_read
    cold_write = alone * write_bytes if cold_write is None else cold_write
    cold = cold_read + cold_write
    weighted = (cold_read + memory.write_weight * cold_write) * 2.0 / (1.0 + memory.write_weight)
    reached = np.maximum(weighted - late, 0.0) / (rate * c.dram_efficiency * hw.memory.bandwidth_bytes_per_s)
    dram_s = np.maximum(reached, cold / hw.memory.bandwidth_bytes_per_s)
    l2_s = moved / (memory.l2_efficiency * memory.l2_copy_bytes_per_s)
    memory_s = np.maximum(dram_s, l2_s)
    nothing = 0.0 * memory_s
    computed = elements if c.block_s is None else elements * np.minimum(1.0, _WARP_COLUMNS / columns)
    math_rate = memory.indexed_per_s_per_unit if indexed else c.elements_per_s_per_unit
    compute_s = nothing if math_rate is None else computed / (math_rate * units)
    step_s = nothing + c.latency_s + c.column_s * columns
    rows_s = nothing if c.per_unit_bytes_per_s is None else moved / (c.per_unit_bytes_per_s * units)
    work_s = norm(_FILL, step_s, norm(_OVERLAP, np.maximum(memory_s, rows_s), compute_s))
    if c.block_s is not None:
        rows = elements / np.maximum(columns, 1.0)
        turns_s = np.maximum(1.0, rows / (c.blocks * units)) * (c.block_s + c.block_column_s * columns)
        long = columns > _WARP_COLUMNS
        work_s = np.where(long, np.maximum(work_s, turns_s), work_s)
        compute_s = np.where(long, nothing, compute_s)
        rows_s = np.where(long, turns_s, rows_s)
    if indexed or kind in ADDRESSES:  # no arithmetic but that of addresses
        compute_s, rows_s = nothing, np.maximum(rows_s, compute_s)
    total_s = np.maximum(floor_s, hw.launch.graph_floor_s + work_s)
    serial_s = np.maximum(step_s, rows_s)
    return Terms(total_s, compute_s, dram_s + nothing, l2_s + nothing, serial_s, floor_s, cold)
