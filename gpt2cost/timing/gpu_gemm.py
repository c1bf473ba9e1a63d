"""Seconds of a matrix product: tiles, waves, split-K, matrix-vector kernels, alignment, DRAM and L2.

A tiled product takes the least time over tiles (tm, tn) and splits s of K, the powers of 2 up to max_split
where tiles are few:

    P_unit = efficiency * peak / units                                           of split kernels * split_efficiency
    step   = max(2 tm tn / P_unit * (1 + edge (1/tm + 1/tn)), step_s / 64)       seconds per element of K in a tile
    blocks = batch * ceil(m/tm) * ceil(n/tn) * s,    r = blocks / units
    waves  = max(1, floor(r) + frac(r)**wave_power)
    full   = waves * (ceil(k / s) + prologue_k) * step                           k / s padded to k_step
    T_comp = full * (1 + heat * full / (full + heat_time))                       the clock falls in a long kernel
    T_dram = dram_bytes / (dram_efficiency * DRAM bandwidth)
    T_l2   = blocks / s * (tm + tn) * k * bytes / (l2_efficiency * L2 bandwidth) 0 without l2_efficiency
    core   = norm(T_comp, T_dram, T_l2) + epilogue                               the p-norm of p = overlap
    T      = launch + core * (1 + droop * min(1, FLOPs / (peak * core))) + reduction     the clock falls at full rate
    epilogue  = waves * tm tn bytes * units / (epilogue_rate * L2 bandwidth)     0 without epilogue_rate
    reduction = split + 8 s m n batch / (split_rate * L2 bandwidth), for s > 1 and products that are not batched

after the published analyses of tile and wave quantisation on GPUs. A matrix-vector kernel, if there is one, takes its
place where it is faster. It reads each operand once, and its arithmetic is that of the vector units:

    T = gemv + gemv_k * k + gemv_rows * (1 - 1 / rows) + norm(dram_bytes / (gemv_dram_efficiency * DRAM bandwidth),
        all bytes / L2 bandwidth, FLOPs / (gemv_efficiency * fp32 peak)),   rows = min(m, n)

In 16 bit a tile's loads and stores are 16 bytes wide only where the leading dimensions, n and k (m where the (m, k)
operand is stored transposed), are multiples of 8.
Where they are multiples of no more than a = 4, 2, 1, more instructions move the same bytes: `step` grows by
(8 / a)**unaligned_step, and T_l2 is at least

    all bytes * (8 / a)**unaligned_traffic / (unaligned_efficiency * L2 bandwidth), but no more than 2.8 times the
    most of T_comp, T_dram and T_l2

What streams on a device of much bandwidth loses most, large tiles little; no product was measured to lose more.

`dram_bytes`: of each operand what L2 has lost since it was last used, and of the result what L2 cannot hold.
Among sizes of equal alignment each candidate grows with batch, m and n, hence so does the minimum. The result is never
below FLOPs / peak, bytes / L2 bandwidth and dram_bytes / DRAM bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache

import numpy as np

from gpt2cost.device.gpu_constants import GemmConstants
from gpt2cost.device.hardware import Hardware
from gpt2cost.timing.terms import Array, Terms, norm, residency

_COPIES = 6.0
"""A weight's copies in the public grids: as many were multiplied in turn, so that this many lie between two uses."""
_SPLIT_BELOW = 4.0
"""Waves of the largest tile from which on K is not split."""
_NARROW_AT_MOST = 2.8
"""How many times longer narrow loads take at the most: unaligned products were measured at 1.1 to 3 times."""
_FADES = 1.3
"""L2 starts to lose a tensor at `warm_l2` of its size divided by this, and has lost it at `warm_l2` times this."""


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
    weight_reuse: Array | None = None,
    input_reuse: Array | None = None,
    transposed: bool = False,
    stored: tuple[float, float, float] | None = None,
) -> Terms:
    """`batch` products of (m, k) and (k, n), sizes as floats or arrays; the terms have the shape they broadcast to.

    `weight_reuse`, `input_reuse`: bytes touched between two uses of the same (k, n) and (m, k) operand; infinite means
    that it is cold. By default as the public grids were timed: one input and, but where `batched`, six copies of the
    weight in turn. `transposed`: the (m, k) operand is stored as (k, m), as in the gradient of a weight.
    `stored`: bytes of an element of the (k, n) operand, of the (m, k) operand and of the result, where they differ.
    """
    c = hw.gpu_model.products(dtype)
    alone = _Product(
        hw, dtype, element_bytes, *np.broadcast_arrays(*(1.0 * size for size in (batch, m, n, k))), stored=stored
    )
    moved = sum(alone.operand_bytes)
    once = moved if batched else moved + (_COPIES - 1.0) * alone.operand_bytes[0]
    lost = [
        _lost(c, hw, default if reuse is None else reuse)
        for reuse, default in ((weight_reuse, once), (input_reuse, moved), (None, moved))
    ]
    *sizes, weights_lost, inputs_lost, outputs_lost = np.broadcast_arrays(alone.batch, alone.m, alone.n, alone.k, *lost)
    product = _Product(hw, dtype, element_bytes, *sizes, transposed=transposed, stored=stored)
    weights, inputs, outputs = product.operand_bytes
    moved = weights + inputs + outputs
    dram_bytes = weights * weights_lost + inputs * inputs_lost + outputs * outputs_lost
    tiles = c.batched_tiles if batched and c.batched_tiles else c.tiles
    terms = _tiled(c, product, dram_bytes, tiles, (1,))
    few = product.blocks(tiles) < _SPLIT_BELOW * hw.compute.units
    if c.max_split > 1 and not batched and np.any(few):
        part, part_bytes = product.at(few), dram_bytes[few]
        splits = tuple(2**power for power in range(1, c.max_split.bit_length()))
        terms = _with(terms, few, _faster(_at(terms, few), _tiled(c, part, part_bytes, tiles, splits)))
    if c.gemv_s is not None:
        terms = _faster(terms, _vector(c, product, c.gemv_s, dram_bytes))
    bound_s = np.maximum(product.flops / product.peak, moved / hw.memory.l2_bandwidth_bytes_per_s)
    bound_s = np.maximum(bound_s, dram_bytes / hw.memory.bandwidth_bytes_per_s)
    return replace(terms, device_s=np.maximum(terms.device_s, bound_s))


@dataclass(frozen=True)
class _Product:
    """Sizes of products, as arrays of one shape, and the device that they run on."""

    hw: Hardware
    dtype: str
    element_bytes: float
    batch: Array
    m: Array
    n: Array
    k: Array
    transposed: bool = field(default=False, kw_only=True)
    stored: tuple[float, float, float] | None = field(default=None, kw_only=True)

    @property
    def flops(self) -> Array:
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def peak(self) -> float:
        return self.hw.compute.peak_flop_per_s[self.dtype]

    @property
    def operand_bytes(self) -> tuple[Array, Array, Array]:
        """Of the (k, n) operand, the (m, k) operand and the result."""
        m, n, k = self.m, self.n, self.k
        weight, input_, output = self.stored or (self.element_bytes,) * 3
        return self.batch * (k * n) * weight, self.batch * (m * k) * input_, self.batch * (m * n) * output

    def blocks(self, tiles: tuple[str, ...]) -> Array:
        """How many of the largest tile there are."""
        rows, columns, _ = max(zip(*_candidates(tiles, (1,)), strict=True), key=lambda tile: float(tile[0] * tile[1]))
        return self.batch * np.ceil(self.m / rows) * np.ceil(self.n / columns)

    def at(self, where: Array) -> _Product:
        """Those of the products where a mask is set."""
        return replace(self, batch=self.batch[where], m=self.m[where], n=self.n[where], k=self.k[where])

    @cached_property
    def narrow(self) -> Array:
        """How many loads take the place of one, for the alignment of the leading dimensions: 1, 2, 4 or 8."""
        if self.element_bytes != 2:
            return np.ones_like(self.m)
        loads: Array = np.ones_like(self.m)
        leading = self.m if self.transposed else self.k
        for aligned in (8.0, 4.0, 2.0):
            loads = np.where((self.n % aligned > 0) | (leading % aligned > 0), 16.0 / aligned, loads)
        return loads


def _tiled(
    c: GemmConstants, product: _Product, dram_bytes: Array, tiles: tuple[str, ...], splits: tuple[int, ...]
) -> Terms:
    """The fastest of some tiles and splits of K, either 1 alone or more than 1."""
    is_split = splits != (1,)
    hw, batch, m, n, k, size = product.hw, product.batch, product.m, product.n, product.k, product.element_bytes
    units, l2_rate, flops, peak = hw.compute.units, hw.memory.l2_bandwidth_bytes_per_s, product.flops, product.peak
    dram_s = dram_bytes / (c.dram_efficiency * hw.memory.bandwidth_bytes_per_s)
    tm, tn, split = (values.reshape(-1, *[1] * np.ndim(m)) for values in _candidates(tiles, splits))
    blocks = batch * np.ceil(m / tm) * np.ceil(n / tn)
    flop_per_s = peak / units * c.efficiency * (c.split_efficiency if is_split else 1.0)
    edges = 1 + c.edge * (1 / tm + 1 / tn)
    step_s = np.maximum(2.0 * tm * tn / flop_per_s * edges, c.step_s / 64)
    filled = blocks * split / units
    whole = np.floor(filled)
    waves = np.maximum(1.0, whole + np.power(filled - whole, c.wave_power))
    narrowed = product.narrow**c.unaligned_step
    compute_s = waves * (np.ceil(k / (c.k_step * split)) * c.k_step + c.prologue_k) * step_s * narrowed
    slowed = 1 + c.heat * compute_s / (compute_s + c.heat_time_s)
    full_s = flops / (flop_per_s * units) * edges * narrowed * slowed  # no tile padded, none idle
    compute_s = compute_s * slowed
    l2_s = blocks * (tm + tn) * k * size / (c.l2_efficiency * l2_rate) if c.l2_efficiency else 0.0 * blocks
    if c.unaligned_efficiency is not None:
        narrow_s = sum(product.operand_bytes) * product.narrow**c.unaligned_traffic / (c.unaligned_efficiency * l2_rate)
        most_s = _NARROW_AT_MOST * np.maximum(np.maximum(compute_s, dram_s), l2_s)
        l2_s = np.maximum(l2_s, np.where(product.narrow > 1, np.minimum(narrow_s, most_s), 0.0))
    epilogue_s = waves * tm * tn * size * units / (c.epilogue_rate * l2_rate) if c.epilogue_rate else 0.0
    core_s = norm(c.overlap, compute_s, dram_s, l2_s) + epilogue_s
    busy = np.minimum(1.0, flops / (peak * core_s))
    launch_s = c.launch_s + (c.split_s if is_split else 0.0)
    reduce_s = 8.0 * split * batch * m * n / (c.split_rate * l2_rate) if is_split else 0.0
    total_s = launch_s + core_s * (1 + c.droop * busy) + reduce_s
    best = np.argmin(total_s, axis=0)[None]

    def of_best(values: Array) -> Array:
        return np.take_along_axis(np.broadcast_to(values, total_s.shape), best, axis=0)[0]

    compute_s = of_best(compute_s)
    useful_s = np.minimum(of_best(full_s), compute_s)
    waiting_s = compute_s - useful_s + of_best(epilogue_s)
    l2_s, launch_s = of_best(l2_s + reduce_s), launch_s + 0.0 * useful_s
    return Terms(of_best(total_s), useful_s, dram_s, l2_s, waiting_s, launch_s, dram_bytes)


def _vector(c: GemmConstants, product: _Product, launch_s: float, dram_bytes: Array) -> Terms:
    """A matrix-vector kernel: one of the operands has few rows."""
    hw, flops = product.hw, product.flops
    dram_s = dram_bytes / (c.gemv_dram_efficiency * hw.memory.bandwidth_bytes_per_s)
    l2_s = sum(product.operand_bytes) / hw.memory.l2_bandwidth_bytes_per_s
    useful_s = flops / hw.compute.peak_flop_per_s["fp32"]
    compute_s = useful_s / c.gemv_efficiency
    serial_s = c.gemv_k_s * product.k + c.gemv_rows_s * (1.0 - 1.0 / np.minimum(product.m, product.n))
    total_s = launch_s + serial_s + norm(c.overlap, dram_s, l2_s, compute_s)
    serial_s = serial_s + compute_s - useful_s
    return Terms(total_s, useful_s, dram_s, l2_s, serial_s, launch_s + 0.0 * useful_s, dram_bytes)


def _faster(first: Terms, second: Terms) -> Terms:
    """The terms of whichever kernel is faster."""
    return second.where(second.device_s < first.device_s, first)


def _at(terms: Terms, where: Array) -> Terms:
    """The terms of those kernels where a mask is set."""
    return Terms(*(np.asarray(getattr(terms, term.name))[where] for term in fields(Terms)))


def _with(terms: Terms, where: Array, others: Terms) -> Terms:
    """`terms`, with those of `others` where a mask is set."""
    changed = []
    for term in fields(Terms):
        values = np.array(getattr(terms, term.name), float)
        values[where] = getattr(others, term.name)
        changed.append(values)
    return Terms(*changed)


def _lost(c: GemmConstants, hw: Hardware, touched_bytes: Array) -> Array:
    """The share of a tensor that L2 has lost after so many bytes were touched; one number where all are alike, so that
    a product whose own sizes do not change along an axis of a grid is not timed again and again."""
    lost = 1.0 - residency(touched_bytes, hw.memory.l2_bytes, c.warm_l2 / _FADES, min(1.0, c.warm_l2 * _FADES))
    for axis in range(np.ndim(lost) if np.size(lost) else 0):
        first = lost.take([0], axis)
        lost = first if np.all(lost == first) else lost
    return lost
