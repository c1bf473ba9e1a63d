"""Seconds of a kernel that moves bytes: element-wise, softmax, layer norm, copies, gathers, fills.

    cold     = share of the bytes read, and of those written, that L2 does not serve: 0 for a small footprint, 1 for one
               beyond its size
    weighted = (cold read + write_weight * cold written) * 2 / (1 + write_weight)
    passes   = 1 + 1.15 / (1 + (long_row / bytes of a row)**4.6)                     1 without long_row
    late     = cold share of all bytes * carry_over * L2 size                        written after the kernel's end
    T_dram   = max(max(0, weighted - late) * passes / (dram_efficiency * DRAM bandwidth), cold bytes / DRAM bandwidth)
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


def missing(hw: Hardware, footprint_bytes: Array) -> Array:
    """The share of a tensor that L2 has lost: `footprint_bytes` are its own and those touched since it was used."""
    memory = hw.gpu_model.memory
    return 1.0 - residency(footprint_bytes, hw.memory.l2_bytes, memory.resident_from, memory.resident_to)


def memory_terms(
    hw: Hardware,
    kind: str,
    read_bytes: Array,
    write_bytes: Array,
    element_bytes: float,
    columns: Array,
    floor_s: float,
    *,
    cold_read: Array | None = None,
    cold_write: Array | None = None,
) -> Terms:
    """A kernel of one of `MEMORY_KINDS`. `columns` is the length of the rows that it reduces (1 for none).

    Bytes and columns are floats or arrays; the terms have the shape that they broadcast to. `floor_s`: the least time
    of a launch. `cold_read`, `cold_write`: how many of the bytes read and written DRAM moves; by default as many as
    where the kernel is repeated on its own operands.
    """
    memory = hw.gpu_model.memory
    c = memory.kinds[kind]
    moved = read_bytes + write_bytes
    repeated = missing(hw, moved)
    cold_read = repeated * read_bytes if cold_read is None else cold_read
    cold_write = repeated * write_bytes if cold_write is None else cold_write
    cold = cold_read + cold_write
    weighted = (cold_read + memory.write_weight * cold_write) * 2.0 / (1.0 + memory.write_weight)
    passes = 1.0
    if c.long_row is not None:
        more, steepness = _LONG_ROW
        passes = 1.0 + more / (1.0 + (c.long_row / np.maximum(columns * element_bytes, 1.0)) ** steepness)
    late = cold / moved * memory.carry_over * hw.memory.l2_bytes
    reached = np.maximum(weighted - late, 0.0) * passes / (c.dram_efficiency * hw.memory.bandwidth_bytes_per_s)
    dram_s = np.maximum(reached, cold / hw.memory.bandwidth_bytes_per_s)
    elements = write_bytes / element_bytes
    compute_s: Array = 0.0
    if c.elements_per_s_per_unit is not None:
        compute_s = elements / (c.elements_per_s_per_unit * hw.compute.units)
    rows = elements / np.maximum(columns, 1.0) / (8.0 * hw.compute.units)
    serial_s = c.fill_s * rows / (1.0 + rows) + c.column_s * columns
    l2_s = moved / memory.l2_copy_bytes_per_s
    total_s = np.maximum(floor_s, np.maximum(np.maximum(l2_s, dram_s), compute_s) + serial_s)
    nothing = 0.0 * total_s
    return Terms(total_s, compute_s + nothing, dram_s, l2_s, serial_s + nothing, floor_s, cold)
