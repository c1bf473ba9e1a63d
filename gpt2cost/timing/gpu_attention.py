"""Seconds of a fused attention kernel: prefill, split-KV decode and chunks in one form.

A thread block takes `q_tile` queries of one head through the keys in steps of `kv_block`:

    rate    = min(efficiency * peak / units, unit_rate)          of one SM
    blocks  = visible blocks of keys, summed over the tiles of queries (all of them without the causal rule)
    stream  = seconds to read a step's keys and values
    tensor  = seconds of a full tile's arithmetic in a step
    step    = stream + min(1, queries / q_tile) (max(stream, tensor) - stream + masked_step of an explicit mask)
    own     = block_s + masked_step of the diagonal
    busy    = (thread blocks * own + batch * heads * blocks * step) / units
    chain   = own + max(1, blocks of keys / splits) * step,   splits = units / thread blocks, from 1 to max_splits
    compute = max(chain, busy + tail * chain * max(0, 1 - units / thread blocks))
    memory  = bytes / (rate of L2 where it holds them, of DRAM where it does not); an explicit mask adds its bytes, and
              each head reads it from L2
    T       = launch + hypot(compute, memory) + cache write

The gradients take 2.5 times the forward's arithmetic, five products for two, and for each query as long again as
`backward_keys` further keys on full tiles; they move twice its bytes, in three kernels:

    T       = 3 launch + hypot(2.5 * (compute + queries * backward_keys * FLOPs of a key / rate), 2 memory)

`launch` has parts that come with more than one new token, with more than one block of keys and with splits. In decode
the keys of one head are one thread block's unless the kernel splits them. The memory-efficient kernel multiplies fp32
on tensor cores from sm80 on, in three tf32 products for one. The time is monotone in batch, heads and tokens, and never
below the causal FLOPs / peak nor, once keys and values exceed L2, bytes / DRAM bandwidth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

import numpy as np

from gpt2cost.device.dtypes import HALF_DTYPES
from gpt2cost.device.gpu_constants import AttentionConstants, MachineConstants
from gpt2cost.device.hardware import Hardware
from gpt2cost.device.sdpa import sdpa_kernel
from gpt2cost.table.kernel import FusedAttention, Kernel
from gpt2cost.timing.terms import Array, Terms, residency

SMALL_HEAD, MIDDLE_HEAD = 96, 192
"""Heads of at most these sizes use the constants for 64 and for 128; larger ones those for 256, if there are any."""

FLOPS_OF_BACKWARD = 2.5
"""Of the forward's: the scores anew, and the gradients of values, of scores, of queries and of keys."""
BACKWARD_KERNELS = 3
"""The dot products of gradient and output, the gradients, and a conversion of those that were summed in float32."""

RESIDENT_AT_MOST = 0.9
"""From this share of L2 on some bytes are certain to come from DRAM."""


def attention_kernel(kernel: Kernel, values: Mapping[str, Array], hw: Hardware, dtype: str) -> str | None:
    """The name of the attention kernel that `kernel` is on a device, such as `flash2`; None if it is none."""
    if not isinstance(kernel.shape, FusedAttention):
        return None
    if kernel.op == "flash_attn_func":
        return "flash2"
    return sdpa_kernel(hw, dtype, int(kernel.shape.head_dim.evaluate(values)), kernel.shape.masked)


def attention_terms(
    hw: Hardware,
    dtype: str,
    kernel: str,
    batch: Array,
    heads: Array,
    head_dim: Array,
    new_tokens: Array,
    cached_tokens: Array,
    element_bytes: float,
    *,
    causal: bool = True,
    masked: bool = False,
    write_cache: bool = False,
    kv_reuse: tuple[Array, Array] | None = None,
    backward: bool = False,
) -> Terms:
    """`new_tokens` queries per head over `cached_tokens + new_tokens` keys; sizes as floats or arrays, which
    broadcast.

    `kernel`: one of those that a device has constants of. `masked`: with an explicit mask, so that the whole square is
    computed and the mask is read, once from DRAM and by each head from L2. `write_cache`: a serving framework's call,
    which copies the new keys and values into a paged cache first. `kv_reuse`: bytes touched since the keys, and since
    the values, were last used; by default the call is repeated on its own operands. Head sizes for which no kernel is
    built use the constants of the nearest one that is. `backward`: their gradients instead.
    """
    built = hw.gpu_model.attention_by(kernel, paged=write_cache)

    def timed(size: str) -> Terms:
        sizes = (batch, heads, head_dim, new_tokens, cached_tokens)
        rate, is_causal = _rate(hw, dtype, kernel, built[size]), causal and not masked
        terms = _terms(hw, built[size], rate, *sizes, element_bytes, is_causal, masked, write_cache, kv_reuse)
        if not backward:
            return terms
        return _gradients(hw, built[size], terms, 4.0 * batch * heads * new_tokens * head_dim / rate)

    sizes, which = _head_sizes(built), np.searchsorted((SMALL_HEAD, MIDDLE_HEAD), head_dim)
    first, *others = (sizes[number] for number in np.flatnonzero(np.bincount(np.ravel(which))))
    terms = timed(first)
    for size in others:
        terms = terms.where(which < sizes.index(size), timed(size))
    return terms


def _head_sizes(built: Mapping[str, AttentionConstants]) -> tuple[str, str, str]:
    """Whose constants small, middle and large heads use."""
    return "64", "128", "256" if "256" in built else "128"


def rate_paths(hw: Hardware, dtype: str, kernel: str, head_dim: Array) -> list[str]:
    """Where a hardware file has the constants by which an SM computes attention in a dtype, of heads of these sizes."""
    sizes = _head_sizes(hw.gpu_model.attention_by(kernel))
    rate = "unit_rate" if dtype in HALF_DTYPES else "fp32_unit_rate"
    found = {sizes[number] for number in np.unique(np.searchsorted((SMALL_HEAD, MIDDLE_HEAD), head_dim))}
    return [f"model.attention.{kernel}.{size}.{rate}" for size in sorted(found)]


def attention_fade(model: MachineConstants) -> tuple[float, float]:
    """The bytes touched, over L2's size, after which it begins to lose keys and values, and has lost them: of all the
    attention kernels of a device."""
    begins = [c.resident_from for sizes in model.attention.values() for c in sizes.values()]
    return min(*begins, RESIDENT_AT_MOST), 1.0


def _rate(hw: Hardware, dtype: str, kernel: str, c: AttentionConstants) -> float:
    """FLOP/s of one SM on full tiles."""
    peaks, half = hw.compute.peak_flop_per_s, dtype in HALF_DTYPES
    in_tf32 = kernel == "efficient" and not half and "tf32" in peaks
    peak = peaks["tf32"] / 3 if in_tf32 else peaks["fp32"] if dtype == "tf32" else peaks[dtype]
    most = c.unit_rate_flop_per_s if half else c.fp32_unit_rate_flop_per_s
    return min(c.efficiency * peak / hw.compute.units, most or np.inf)


def _terms(
    hw: Hardware,
    c: AttentionConstants,
    rate: float,
    batch: Array,
    heads: Array,
    head_dim: Array,
    new_tokens: Array,
    cached_tokens: Array,
    element_bytes: float,
    causal: bool,
    masked: bool,
    write_cache: bool,
    kv_reuse: tuple[Array, Array] | None,
) -> Terms:
    units = hw.compute.units
    pairs, kv_len = batch * heads, new_tokens + cached_tokens
    tiles = np.ceil(new_tokens / c.q_tile)
    last = np.ceil(kv_len / c.kv_block)
    if causal:
        rounding = 0.5 * (1.0 - gcd(c.q_tile, c.kv_block) / c.kv_block)
        per_key = c.q_tile / c.kv_block
        blocks = (tiles - 1) * (cached_tokens / c.kv_block + rounding) + per_key * tiles * (tiles - 1) / 2 + last
    else:
        blocks = tiles * last
    full = np.minimum(new_tokens, c.q_tile) / c.q_tile
    stream_s = c.kv_block * head_dim * 2 * element_bytes / c.stream_bytes_per_s
    tensor_s = 4.0 * c.q_tile * c.kv_block * head_dim / rate
    step_s = stream_s + full * (np.maximum(stream_s, tensor_s) - stream_s + (c.masked_step_s if masked else 0.0))
    own_s = c.block_s + (full * c.masked_step_s * (new_tokens > 1) if causal else 0.0)
    thread_blocks = pairs * tiles
    busy_s = (thread_blocks * own_s + pairs * blocks * step_s) / units
    splits = np.clip(units / thread_blocks, 1.0, c.max_splits)
    chain_s = own_s + np.maximum(last / splits, 1.0) * step_s
    drain = np.clip(1.0 - units / thread_blocks, 0.0, 1.0)
    compute_s = np.maximum(chain_s, busy_s + c.tail * chain_s * drain)
    kv_bytes = 2 * pairs * head_dim * kv_len * element_bytes
    own_bytes = 2 * pairs * head_dim * new_tokens * element_bytes
    if masked:
        own_bytes = own_bytes + batch * new_tokens * kv_len * element_bytes
    moved = kv_bytes + own_bytes
    traffic = _Traffic.of(hw, c, own_bytes, moved)
    for since in kv_reuse or (moved, moved):
        traffic = traffic + _Traffic.of(hw, c, kv_bytes / 2, np.maximum(since, moved))
    l2_s = traffic.l2_s
    if masked:
        l2_s = l2_s + pairs * new_tokens * kv_len * element_bytes / hw.memory.l2_bandwidth_bytes_per_s
    joined = np.clip(np.minimum(splits, last) - 1.0, 0.0, 1.0)
    launch_s = c.launch_s + c.multi_token_s * (new_tokens > 1) + c.multi_block_s * (last > 1) + c.split_s * joined
    total_s = launch_s + np.hypot(compute_s, traffic.dram_s + l2_s)
    dram_bytes = traffic.dram_bytes
    if write_cache:
        written = pairs * head_dim * new_tokens * element_bytes
        write = _Traffic.of(hw, c, 4 * written, moved)  # two reads and two writes, before attention
        token_s = c.write_token_s * batch * new_tokens * np.minimum(1.0, heads * head_dim / 512.0)
        total_s = total_s + c.write_launch_s + c.write_traffic * (write.dram_s + write.l2_s) + token_s
        spilled = 1.0 - residency(moved + 2 * written, hw.memory.l2_bytes, RESIDENT_AT_MOST)
        dram_bytes = np.maximum(dram_bytes, spilled * (moved + 2 * written))
    total_s = np.maximum(total_s, dram_bytes / hw.memory.bandwidth_bytes_per_s)
    arithmetic_s = pairs * blocks * full * tensor_s / units
    serial_s = np.maximum(compute_s - arithmetic_s, 0.0)
    return Terms(total_s, arithmetic_s, traffic.dram_s, l2_s, serial_s, launch_s, dram_bytes)


def _gradients(hw: Hardware, c: AttentionConstants, forward: Terms, key_s: Array) -> Terms:
    """The terms of the backward kernels, from those of the forward one on the same operands.

    `key_s`: what one SM takes for a key more of each query, on full tiles.
    """
    compute_s = FLOPS_OF_BACKWARD * forward.compute_s
    serial_s = FLOPS_OF_BACKWARD * (forward.serial_s + c.backward_keys * key_s / hw.compute.units)
    memory_s, l2_s, dram_bytes = 2.0 * forward.memory_s, 2.0 * forward.l2_s, 2.0 * forward.dram_bytes
    launch_s = BACKWARD_KERNELS * forward.launch_s
    total_s = launch_s + np.hypot(compute_s + serial_s, memory_s + l2_s)
    total_s = np.maximum(total_s, dram_bytes / hw.memory.bandwidth_bytes_per_s)
    return Terms(total_s, compute_s, memory_s, l2_s, serial_s, launch_s, dram_bytes)


@dataclass(frozen=True)
class _Traffic:
    """Seconds of DRAM and of L2 for some bytes, and what DRAM moves of them at the least."""

    dram_s: Array
    l2_s: Array
    dram_bytes: Array

    @classmethod
    def of(cls, hw: Hardware, c: AttentionConstants, size_bytes: Array, since_bytes: Array) -> _Traffic:
        """`size_bytes` that were used before `since_bytes` were touched, themselves included."""
        resident = residency(since_bytes, hw.memory.l2_bytes, c.resident_from)
        l2_s = resident * size_bytes / (hw.gpu_model.memory.l2_copy_bytes_per_s * c.l2_efficiency)
        dram_s = (1.0 - resident) * size_bytes / (hw.memory.bandwidth_bytes_per_s * c.dram_efficiency)
        spilled = 1.0 - residency(since_bytes, hw.memory.l2_bytes, RESIDENT_AT_MOST)
        return cls(dram_s, l2_s, spilled * size_bytes)

    def __add__(self, other: _Traffic) -> _Traffic:
        return _Traffic(self.dram_s + other.dram_s, self.l2_s + other.l2_s, self.dram_bytes + other.dram_bytes)
