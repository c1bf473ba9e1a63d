"""Seconds of a kernel that moves bytes: element-wise, softmax, layer norm, copies, gathers, fills.

    missing  = share of the traffic that L2 does not serve: 0 for a small footprint, 1 for one beyond its size
    weighted = (read + write_weight * written) * 2 / (1 + write_weight)
    passes   = 1 + 1.15 / (1 + (long_row / bytes of a row)**4.6)                     1 without long_row
    late     = carry_over * L2 size                                                  written after the kernel's end
    T_dram   = missing * max(max(0, weighted - late) * passes / (dram_efficiency * DRAM bandwidth),
                             bytes / DRAM bandwidth)
    serial   = fill * x / (1 + x) + column * columns,   x = rows / (8 units)
    T        = max(floor, max(bytes / L2 copy bandwidth, T_dram, elements / (rate * units)) + serial)

Monotone in bytes and rows; never below bytes / DRAM bandwidth once the footprint exceeds L2.
"""

from __future__ import annotations

import numpy as np

from gpt2cost.device.hardware import Hardware
from gpt2cost.timing.terms import Array, Terms, residency

_LONG_ROW = (1.15, 4.6)
"""Layer norm reads a long row a second time: by this much more, with this steepness around `long_row`."""


def memory_terms(
    hw: Hardware, kind: str, read_bytes: Array, write_bytes: Array, element_bytes: float, columns: Array, floor_s: float
) -> Terms:
    """A kernel of one of `MEMORY_KINDS`. `columns` is the length of the rows that it reduces (1 for none).

    Bytes and columns are floats or arrays; the terms have the shape that they broadcast to. `floor_s`: the least time
    of a launch.
    """
    memory = hw.gpu_model.memory
    c = memory.kinds[kind]
    moved = read_bytes + write_bytes
    missing = 1.0 - residency(moved, hw.memory.l2_bytes, memory.resident_from, memory.resident_to)
    weighted = (read_bytes + memory.write_weight * write_bytes) * 2.0 / (1.0 + memory.write_weight)
    passes = 1.0
    if c.long_row is not None:
        more, steepness = _LONG_ROW
        passes = 1.0 + more / (1.0 + (c.long_row / np.maximum(columns * element_bytes, 1.0)) ** steepness)
    late = memory.carry_over * hw.memory.l2_bytes
    reached = np.maximum(weighted - late, 0.0) * passes / (c.dram_efficiency * hw.memory.bandwidth_bytes_per_s)
    dram_s = missing * np.maximum(reached, moved / hw.memory.bandwidth_bytes_per_s)
    elements = write_bytes / element_bytes
    compute_s: Array = 0.0
    if c.elements_per_s_per_unit is not None:
        compute_s = elements / (c.elements_per_s_per_unit * hw.compute.units)
    rows = elements / np.maximum(columns, 1.0) / (8.0 * hw.compute.units)
    serial_s = c.fill_s * rows / (1.0 + rows) + c.column_s * columns
    memory_s = np.maximum(moved / memory.l2_copy_bytes_per_s, dram_s)
    total_s = np.maximum(floor_s, np.maximum(memory_s, compute_s) + serial_s)
    nothing = 0.0 * memory_s
    if kind != "softmax":  # what limits a gather is its addressing, which is part of moving
        compute_s, memory_s = nothing, np.maximum(memory_s, compute_s)
    return Terms(total_s, compute_s + nothing, memory_s, nothing, floor_s)
