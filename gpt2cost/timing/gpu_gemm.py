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

A tile's loads and stores are 16 bytes wide only where the leading dimensions, n and k (m where the (m, k) operand is
stored transposed), are multiples of w, the elements in 16 bytes: 8 in 16 bit, 4 in tf32. CUDA cores do not mind.
Where they are multiples of no more than a = w / 2, w / 4, ..., more instructions move the same bytes: `step` grows by
(w / a)**unaligned_step, and T_l2 is at least

    all bytes * (w / a)**unaligned_traffic / (unaligned_efficiency * L2 bandwidth), but no more than 2.8 times the
    most of T_comp, T_dram and T_l2

What streams on a device of much bandwidth loses most, large tiles little; no product was measured to lose more.

Where the (m, k) operand is stored as (k, m), as in the gradient of a weight, `transposed` says which constants differ.

`dram_bytes`: of each operand what L2 has lost since it was last used, and of the result what L2 cannot hold.
Among sizes of equal alignment each candidate grows with batch, m and n, hence so does the minimum. The result is never
below FLOPs / peak, bytes / L2 bandwidth and dram_bytes / DRAM bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise, starmap
from typing import Any

import numpy as np

from gpt2cost.device.dtypes import ELEMENT_BYTES
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


AT_ONCE = 1 << 15
"""Products x candidates that are evaluated together, so that they stay in a processor's cache."""


@lru_cache(maxsize=64)
def _candidates(tiles: tuple[str, ...], most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair of a tile and a split of K, which is 1 or, for `most` > 1, a power of 2 up to that: tile rows, tile
    columns and splits, as three arrays of shape (pairs, 1)."""
    splits = [2**power for power in range(1, most.bit_length())] or [1]
    values = np.array([(*map(float, tile.split("x")), float(split)) for tile in tiles for split in splits])
    rows, columns, split = values.T[..., None]
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
    c = c.of_transposed() if transposed else c
    sizes = (1.0 * size for size in (batch, m, n, k))
    product = _Product(hw, dtype, element_bytes, *sizes, transposed=transposed, stored=stored)
    weights, inputs, outputs = product.operand_bytes
    moved = weights + inputs + outputs
    once = moved if batched else moved + (_COPIES - 1.0) * weights
    weights_lost, inputs_lost, outputs_lost = (
        _lost(c, hw, default if reuse is None else reuse)
        for reuse, default in ((weight_reuse, once), (input_reuse, moved), (None, moved))
    )
    dram_bytes = weights * weights_lost + inputs * inputs_lost + outputs * outputs_lost
    tiles = c.batched_tiles if batched and c.batched_tiles else c.tiles
    most = 1 if batched else c.max_split
    each, each_bytes, place = product.different(dram_bytes)
    few = np.broadcast_to(each.few_tiles(tiles), each_bytes.shape)
    first = np.count_nonzero(few)  # of one varying size, those of few tiles are listed first
    steps = max(1, AT_ONCE // (len(tiles) * most.bit_length())), max(1, AT_ONCE // len(tiles))
    starts = [*range(0, first, steps[0]), *range(first, each_bytes.size, steps[1])] or [0]
    parts = starmap(slice, pairwise([*starts, each_bytes.size]))
    timed = [_fastest(c, each.at(part), each_bytes[part], few[part], tiles, most) for part in parts]
    return Terms(
        *(np.concatenate(values)[place] for values in zip(*(vars(terms).values() for terms in timed), strict=True))
    )


def _fastest(
    c: GemmConstants, product: _Product, dram_bytes: Array, few: Array, tiles: tuple[str, ...], most: int
) -> Terms:
    """The terms of whichever kernel is fastest, of products listed one by one; K is split where tiles are `few`."""
    hw, memory = product.hw, product.hw.memory
    terms = _tiled(c, product, dram_bytes, _candidates(tiles, 1))
    if most > 1 and np.any(few):
        split = _tiled(c, product, dram_bytes, _candidates(tiles, most))
        terms = split.where(few & (split.device_s < terms.device_s), terms)
    if c.gemv_s is not None:
        least_s = c.gemv_s + product.flops / hw.compute.peak_flop_per_s["fp32"] / c.gemv_efficiency
        if np.any(least_s < terms.device_s):  # never of many rows
            vector = _vector(c, product, c.gemv_s, dram_bytes)
            terms = vector.where(vector.device_s < terms.device_s, terms)
    bound_s = np.maximum(product.flops / product.peak, sum(product.operand_bytes) / memory.l2_bandwidth_bytes_per_s)
    bound_s = np.maximum(bound_s, dram_bytes / memory.bandwidth_bytes_per_s)
    return replace(terms, device_s=np.maximum(terms.device_s, bound_s))


@dataclass(frozen=True)
class _Product:
    """Sizes of products, as floats or arrays that broadcast, and the device that they run on."""

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
    def sizes(self) -> dict[str, Array]:
        return {"batch": self.batch, "m": self.m, "n": self.n, "k": self.k}

    def different(self, dram_bytes: Array) -> tuple[_Product, Array, Array]:
        """The products one by one, of shape (products,), with their bytes; and which of them each point of the grid is.

        Where one size alone differs from point to point, as that of a pass's tokens does, each pair of it and of bytes
        is listed once.
        """
        shape = np.broadcast_shapes(np.shape(dram_bytes), *map(np.shape, self.sizes.values()))
        dram_bytes = np.broadcast_to(dram_bytes, shape).ravel()
        lists: dict[str, Any] = {
            name: np.broadcast_to(size, shape).ravel() for name, size in self.sizes.items() if np.ndim(size)
        }
        first = place = np.arange(dram_bytes.size)
        if len(lists) == 1 and dram_bytes.size > 1:
            (size,) = lists.values()
            _, first, place = np.unique(size + 1j * dram_bytes, return_index=True, return_inverse=True)
        listed = replace(self, **{name: size[first] for name, size in lists.items()})
        return listed, dram_bytes[first], place.reshape(shape)

    def at(self, part: slice) -> _Product:
        """Some of the products of a list."""
        return replace(self, **{name: size[part] if np.ndim(size) else size for name, size in self.sizes.items()})

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

    def few_tiles(self, tiles: tuple[str, ...]) -> Array:
        """Whether there are so few of the largest tile that K is split."""
        rows, columns, _ = _candidates(tiles, 1)
        largest = np.argmax(rows * columns)
        rows, columns = rows[largest], columns[largest]
        blocks = self.batch * np.ceil(self.m / rows) * np.ceil(self.n / columns)
        return blocks < _SPLIT_BELOW * self.hw.compute.units

    @cached_property
    def narrow(self) -> Array:
        """How many loads take the place of one, for the alignment of the leading dimensions: 1, 2, 4 or 8.

        Where 16 bit's constants stand in for those of tf32 or int8, what they say of odd rows is not known to hold.
        """
        loads: Array = np.ones(())
        if self.element_bytes != ELEMENT_BYTES[self.hw.gpu_model.products_as(self.dtype)]:
            return loads
        leading = self.m if self.transposed else self.k
        whole = 16.0 / self.element_bytes  # elements of a load of full width
        for aligned in (8.0, 4.0, 2.0):
            if aligned <= whole:
                loads = np.where((self.n % aligned > 0) | (leading % aligned > 0), 2.0 * whole / aligned, loads)
        return loads


def _tiled(c: GemmConstants, product: _Product, dram_bytes: Array, candidates: tuple[Array, Array, Array]) -> Terms:
    """The fastest of some tiles and splits of K, all of which split it or none."""
    hw, batch, m, n, k, size = product.hw, product.batch, product.m, product.n, product.k, product.element_bytes
    units, l2_rate, flops, peak = hw.compute.units, hw.memory.l2_bandwidth_bytes_per_s, product.flops, product.peak
    dram_s = dram_bytes / (c.dram_efficiency * hw.memory.bandwidth_bytes_per_s)
    tm, tn, split = candidates
    is_split = bool(np.all(split > 1))
    blocks = np.ceil(m / tm) * (batch * np.ceil(n / tn))
    flop_per_s = peak / units * c.efficiency * (c.split_efficiency if is_split else 1.0)
    edges = 1 + c.edge * (1 / tm + 1 / tn)
    step_s = np.maximum(2.0 * tm * tn / flop_per_s * edges, c.step_s / 64)
    filled = blocks * split / units
    whole = np.floor(filled)
    waves = np.maximum(1.0, whole + np.power(filled - whole, c.wave_power))
    narrowed = product.narrow**c.unaligned_step if c.unaligned_step else 1.0
    compute_s = waves * (np.ceil(k / (c.k_step * split)) * c.k_step + c.prologue_k) * step_s * narrowed
    slowed = 1 + c.heat * compute_s / (compute_s + c.heat_time_s) if c.heat else np.ones(1)
    compute_s = compute_s * slowed
    l2_s = blocks * ((tm + tn) * k * size) / (c.l2_efficiency * l2_rate) if c.l2_efficiency else 0.0 * blocks
    if c.unaligned_efficiency is not None and np.any(product.narrow > 1):
        narrow_s = sum(product.operand_bytes) * product.narrow**c.unaligned_traffic / (c.unaligned_efficiency * l2_rate)
        most_s = _NARROW_AT_MOST * np.maximum(np.maximum(compute_s, dram_s), l2_s)
        l2_s = np.maximum(l2_s, np.where(product.narrow > 1, np.minimum(narrow_s, most_s), 0.0))
    epilogue_s = waves * (tm * tn * size * units) / (c.epilogue_rate * l2_rate) if c.epilogue_rate else np.zeros(1)
    core_s = norm(c.overlap, compute_s, dram_s, l2_s) + epilogue_s
    busy = np.minimum(1.0, flops / (peak * core_s))
    launch_s = c.launch_s + (c.split_s if is_split else 0.0)
    reduce_s = 8.0 * split * batch * m * n / (c.split_rate * l2_rate) if is_split else np.zeros(1)
    total_s = launch_s + core_s * (1 + c.droop * busy) + reduce_s
    best = np.argmin(total_s, axis=0), np.arange(total_s.shape[1])

    def of_best(values: Array) -> Array:
        return np.broadcast_to(values, total_s.shape)[best]

    compute_s, reduce_s = of_best(compute_s), of_best(reduce_s)
    full_s = flops / (flop_per_s * units) * of_best(edges) * narrowed * of_best(slowed)  # no tile padded, none idle
    useful_s = np.minimum(full_s, compute_s)
    waiting_s = compute_s - useful_s + of_best(epilogue_s)
    launch_s = launch_s + 0.0 * compute_s
    return Terms(of_best(total_s), useful_s, dram_s, of_best(l2_s) + reduce_s, waiting_s, launch_s, dram_bytes)


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


def gemm_fade(c: GemmConstants) -> tuple[float, float]:
    """The bytes touched, over L2's size, after which it begins to lose a tensor, and has lost it."""
    return c.warm_l2 / _FADES, min(1.0, c.warm_l2 * _FADES)


def _lost(c: GemmConstants, hw: Hardware, touched_bytes: Array) -> Array:
    """The share of a tensor that L2 has lost after so many bytes were touched."""
    return 1.0 - residency(touched_bytes, hw.memory.l2_bytes, *gemm_fade(c))
