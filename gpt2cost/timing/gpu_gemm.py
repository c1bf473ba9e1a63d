"""Seconds of a matrix product: tiles, waves, split-K, DRAM and L2.

A tiled product takes the least time over tiles (tm, tn) and splits s of K:

    P_unit = efficiency * peak / units
    step   = max(2 tm tn / P_unit * (1 + edge (1/tm + 1/tn)), step_s / 64)       seconds per element of K in a tile
    blocks = batch * ceil(m/tm) * ceil(n/tn) * s,    r = blocks / units
    waves  = max(1, floor(r) + frac(r)**wave_power)
    full   = waves * (ceil(k / s) + prologue_k) * step / pass_clock              k / s padded to k_step
    T_comp = full * (1 + heat * full / (full + heat_time))                       the clock falls in a long kernel
    T_dram = (cold * weights + activation_traffic * activations) / (dram_efficiency * DRAM bandwidth)
    T_l2   = blocks / s * (tm + tn) * k * bytes / (l2_efficiency * L2 bandwidth) 0 without l2_efficiency
    core   = norm(T_comp, T_dram, T_l2) + epilogue                               the p-norm of p = overlap
    T      = launch + core * (1 + droop * min(1, FLOPs / (peak * core))) + reduction     the clock falls at full rate
    cold   = 1 / (1 + (reuse / (warm_l2 * L2 size))**-8)                         1 without warm_l2
    epilogue  = waves * tm tn bytes * units / (epilogue_rate * L2 bandwidth)     0 without epilogue_rate
    reduction = split + 8 s m n batch / (split_rate * L2 bandwidth), for s > 1

after the published analyses of tile and wave quantisation on GPUs; pass_clock counts in a whole pass only. For one row
(m = 1) of a product that is not batched, a matrix-vector kernel, if there is one, takes its place where it is faster:
gemv + cold * weights / (gemv_dram_efficiency * DRAM bandwidth) + k * gemv_k. Each candidate grows with batch, m and n,
hence so does the minimum. The result is never below FLOPs / peak, bytes / L2 bandwidth and, once the
operands exceed L2, bytes / DRAM bandwidth; this last bound sets in from half of L2's size.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gpt2cost.device.gpu_constants import GemmConstants
from gpt2cost.device.hardware import Hardware
from gpt2cost.timing.gpu_memory import missing
from gpt2cost.timing.terms import Array, Terms, norm

_WARM_POWER = 8.0
"""How sharply re-read weights fall out of L2 as the traffic between two reads grows past its share."""


@lru_cache(maxsize=64)
def _candidates(tiles: tuple[str, ...], splits: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of a tile and a split of K: tile rows, tile columns and splits, as three arrays of one length."""
    pairs = [(*map(float, tile.split("x")), float(split)) for tile in tiles for split in splits]
    rows, columns, split = np.array(pairs).T
    return rows, columns, split


def gemm_terms(
    hw: Hardware,
    dtype: str,
    batch: Array,
    m: Array,
    n: Array,
    k: Array,
    element_bytes: float,
    *,
    batched: bool = False,
    weight_reuse: Array = np.inf,
    input_reuse: Array | None = None,
    slowdown: float = 1.0,
) -> Terms:
    """`batch` products of (m, k) and (k, n), sizes as floats or arrays; the terms have the shape they broadcast to.

    `weight_reuse`, `input_reuse`: bytes touched between two uses of the same (k, n) and (m, k) operand; infinite means
    that it is cold. `slowdown` lengthens the arithmetic.
    """
    c, units = hw.gpu_model.products(dtype), hw.compute.units
    peak = hw.compute.peak_flop_per_s[dtype]
    flop_per_s_per_unit = peak / units * c.efficiency
    l2_rate = hw.memory.l2_bandwidth_bytes_per_s
    weights, inputs, outputs = (
        batch * k * n * element_bytes,
        batch * m * k * element_bytes,
        batch * m * n * element_bytes,
    )
    cold = _cold_share(c, hw, weight_reuse)
    cold_inputs = inputs if input_reuse is None else inputs * missing(hw, input_reuse + inputs)
    dram_bytes = weights * cold + c.activation_traffic * (cold_inputs + outputs)
    dram_s = dram_bytes / (c.dram_efficiency * hw.memory.bandwidth_bytes_per_s)
    axes = max(np.ndim(size) for size in (batch, m, n, k, dram_bytes))
    candidates = _candidates(c.batched_tiles if batched and c.batched_tiles else c.tiles, c.splits)
    tm, tn, split = (values.reshape(-1, *[1] * axes) for values in candidates)
    tiles = batch * np.ceil(m / tm) * np.ceil(n / tn)
    step_s = np.maximum(2.0 * tm * tn / flop_per_s_per_unit * (1 + c.edge * (1 / tm + 1 / tn)), c.step_s / 64)
    filled = tiles * split / units
    whole = np.floor(filled)
    waves = np.maximum(1.0, whole + (filled - whole) ** c.wave_power)
    wave_s = (np.ceil(k / (c.k_step * split)) * c.k_step + c.prologue_k) * step_s * slowdown
    compute_s = waves * wave_s
    compute_s = compute_s * (1 + c.heat * compute_s / (compute_s + c.heat_time_s))
    l2_s = tiles * (tm + tn) * k * element_bytes / (c.l2_efficiency * l2_rate) if c.l2_efficiency else 0.0
    epilogue_s = waves * tm * tn * element_bytes / (c.epilogue_rate * l2_rate / units) if c.epilogue_rate else 0.0
    core_s = norm(c.overlap, compute_s, dram_s, l2_s) + epilogue_s
    busy = np.minimum(1.0, 2.0 * batch * m * n * k / (peak * core_s))
    reduce_s = (split > 1) * (c.split_s + 8.0 * split * batch * m * n / (c.split_rate * l2_rate))
    total_s = c.launch_s + core_s * (1 + c.droop * busy) + reduce_s
    best = np.argmin(total_s, axis=0)[None]

    def of_best(values: Array) -> Array:
        return np.take_along_axis(np.broadcast_to(values, total_s.shape), best, axis=0)[0]

    total_s, compute_s, memory_s, read_s = (of_best(part) for part in (total_s, compute_s, dram_s, l2_s))
    useful_s = np.minimum(2.0 * batch * m * n * k / (peak * c.efficiency), compute_s)
    if c.gemv_s is not None and not batched:
        gemv_s = c.gemv_s + weights * cold / (c.gemv_dram_efficiency * hw.memory.bandwidth_bytes_per_s) + k * c.gemv_k_s
        better = (m <= 1) & (gemv_s < total_s)
        total_s, compute_s = np.where(better, gemv_s, total_s), np.where(better, useful_s, compute_s)
    bound_s = _lower_bound(hw, 2.0 * batch * m * n * k / peak, weights + inputs + outputs)
    return Terms(np.maximum(total_s, bound_s), useful_s, memory_s, read_s, compute_s - useful_s, c.launch_s, dram_bytes)


def _cold_share(c: GemmConstants, hw: Hardware, reuse_bytes: Array) -> Array:
    """The share of the weights that comes from DRAM, by the traffic since they were last read."""
    if not c.warm_l2:
        return 1.0
    with np.errstate(divide="ignore", over="ignore"):
        return 1.0 / (1.0 + (reuse_bytes / (c.warm_l2 * hw.memory.l2_bytes)) ** -_WARM_POWER)


def _lower_bound(hw: Hardware, compute_s: Array, moved_bytes: Array) -> Array:
    """What no product can beat. The DRAM bound sets in at half of L2's size and is complete at it: no jump."""
    spilled = np.clip(2.0 * moved_bytes / hw.memory.l2_bytes - 1.0, 0.0, 1.0)
    memory_s = np.maximum(
        moved_bytes / hw.memory.l2_bandwidth_bytes_per_s, spilled * moved_bytes / hw.memory.bandwidth_bytes_per_s
    )
    return np.maximum(compute_s, memory_s)
