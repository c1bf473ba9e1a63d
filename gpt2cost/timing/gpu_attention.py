"""Seconds of fused attention: flash prefill, split-KV decode and chunks in one form.

A thread block takes `q_tile` queries of one head through the keys in steps of `kv_block`:

    blocks  = visible blocks of keys, summed over the tiles of queries (all of them without the causal rule)
    stream  = seconds to read a step's keys and values
    tensor  = seconds of a full tile's arithmetic in a step, longer by masked_attention without a flash kernel
    step    = stream + min(1, queries / q_tile) (max(stream, tensor) - stream)
    busy    = (thread blocks * block_s + batch * heads * blocks * step) / units
    chain   = block_s + max(1, blocks of keys / splits) * step,   splits = units / thread blocks, from 1 to max_splits
    compute = max(chain, busy + tail * chain * max(0, 1 - units / thread blocks))
    memory  = bytes / (rate of L2 where it holds them, of DRAM where it does not); an explicit mask adds its bytes
    T       = launch + hypot(compute, memory) + cache write

`launch` has parts that come with more than one new token and with more than one block of keys. In decode the keys of
one head are one thread block's unless the kernel splits them. The time is monotone in batch, heads and tokens, and
never below the causal FLOPs / peak nor, once keys and values exceed L2, bytes / DRAM bandwidth.
"""

from __future__ import annotations

import dataclasses
from math import gcd

import numpy as np

from gpt2cost.device.gpu_constants import AttentionConstants
from gpt2cost.device.hardware import Hardware
from gpt2cost.timing.terms import Array, Terms, residency

SMALL_HEAD = 96
"""Heads of at most this size use the constants for 64, larger ones those for 128."""


def attention_terms(
    hw: Hardware,
    dtype: str,
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
    kv_reuse: Array | None = None,
) -> Terms:
    """`new_tokens` queries per head over `cached_tokens + new_tokens` keys; sizes as floats or arrays, which
    broadcast.

    `masked`: the memory-efficient kernel with an explicit mask, which computes the whole square and reads the mask.
    NVIDIA devices before sm80 and fp32 have no flash kernel and use the memory-efficient one too.
    `write_cache`: the call also copies the new keys and values into a cache, as inference frameworks' kernels do.
    `kv_reuse`: bytes touched since keys and values were last used; by default the call is repeated on its own operands.
    Head sizes for which no kernel is built use the constants of the nearest one that is.
    """

    def timed(built_for: str) -> Terms:
        constants = hw.gpu_model.attention[built_for]
        sizes = (batch, heads, head_dim, new_tokens, cached_tokens)
        return _terms(hw, dtype, constants, *sizes, element_bytes, causal, masked, write_cache, kv_reuse)

    small = np.asarray(head_dim) <= SMALL_HEAD
    if np.all(small):
        return timed("64")
    if not np.any(small):
        return timed("128")
    few, many = timed("64"), timed("128")
    fields = (field.name for field in dataclasses.fields(Terms))
    return Terms(*(np.where(small, getattr(few, name), getattr(many, name)) for name in fields))


def _terms(
    hw: Hardware,
    dtype: str,
    c: AttentionConstants,
    batch: Array,
    heads: Array,
    head_dim: Array,
    new_tokens: Array,
    cached_tokens: Array,
    element_bytes: float,
    causal: bool,
    masked: bool,
    write_cache: bool,
    kv_reuse: Array | None,
) -> Terms:
    units, peak = hw.compute.units, hw.compute.peak_flop_per_s[dtype]
    # Apple's GPUs have one kernel of their own, so that the rule of NVIDIA's dtypes and generations is not theirs.
    has_flash = hw.has_flash_attention(dtype) or hw.vendor != "nvidia"
    slow = 1.0 if has_flash and not masked else hw.gpu_model.masked_attention
    pairs, kv_len = batch * heads, new_tokens + cached_tokens
    tiles = np.ceil(new_tokens / c.q_tile)
    last = np.ceil(kv_len / c.kv_block)
    if causal and not masked:
        rounding = 0.5 * (1.0 - gcd(c.q_tile, c.kv_block) / c.kv_block)
        per_key = c.q_tile / c.kv_block
        blocks = (tiles - 1) * (cached_tokens / c.kv_block + rounding) + per_key * tiles * (tiles - 1) / 2 + last
    else:
        blocks = tiles * last
    full = np.minimum(new_tokens, c.q_tile) / c.q_tile
    stream_s = c.kv_block * head_dim * 2 * element_bytes / c.stream_bytes_per_s
    tensor_s = 4.0 * c.q_tile * c.kv_block * head_dim / (peak / units * c.efficiency * slow)
    step_s = stream_s + full * (np.maximum(stream_s, tensor_s) - stream_s)
    thread_blocks = pairs * tiles
    busy_s = (thread_blocks * c.block_s + pairs * blocks * step_s) / units
    splits = np.clip(units / thread_blocks, 1.0, c.max_splits)
    chain_s = c.block_s + np.maximum(last / splits, 1.0) * step_s
    drain = np.clip(1.0 - units / thread_blocks, 0.0, 1.0)
    compute_s = np.maximum(chain_s, busy_s + c.tail * chain_s * drain)
    moved = pairs * head_dim * element_bytes * 2 * (new_tokens + kv_len)
    if masked:
        moved = moved + batch * new_tokens * kv_len * element_bytes
    since = moved if kv_reuse is None else kv_reuse + moved
    memory_s = moved * _seconds_per_byte(hw, c, since)
    launch_s = c.launch_s + c.multi_token_s * (new_tokens > 1) + c.multi_block_s * (last > 1)
    total_s = launch_s + np.hypot(compute_s, memory_s)
    if write_cache:
        width = pairs * head_dim
        total_s = total_s + _cache_write_s(hw, c, batch, width, heads * head_dim, new_tokens, kv_len, element_bytes)
        moved = moved + 2 * width * new_tokens * element_bytes  # what the copy reads, attention reads again from L2
    dram_bytes = moved * (1.0 - residency(since, hw.memory.l2_bytes, 0.9))
    total_s = np.maximum(total_s, dram_bytes / hw.memory.bandwidth_bytes_per_s)
    arithmetic_s = pairs * blocks * full * tensor_s / units
    streamed_s = pairs * blocks * stream_s / units
    idle_s = np.maximum(compute_s - np.maximum(busy_s, arithmetic_s), 0.0)
    return Terms(total_s, arithmetic_s, memory_s, streamed_s, idle_s, launch_s, dram_bytes)


def _seconds_per_byte(hw: Hardware, c: AttentionConstants, footprint_bytes: Array) -> Array:
    resident = residency(footprint_bytes, hw.memory.l2_bytes, c.resident_from)
    in_l2 = resident / (hw.gpu_model.memory.l2_copy_bytes_per_s * c.l2_efficiency)
    return in_l2 + (1.0 - resident) / (hw.memory.bandwidth_bytes_per_s * c.dram_efficiency)


def _cache_write_s(
    hw: Hardware,
    c: AttentionConstants,
    batch: Array,
    row: Array,
    width: Array,
    new_tokens: Array,
    kv_len: Array,
    element_bytes: float,
) -> Array:
    """The copy of the new keys and values into the cache: two reads and two writes, in a kernel before attention."""
    footprint = row * element_bytes * 2 * (new_tokens + kv_len)
    moved = 4 * row * new_tokens * element_bytes
    tokens_s = c.write_token_s * batch * new_tokens * np.minimum(1.0, width / 512.0)
    return c.write_traffic * moved * _seconds_per_byte(hw, c, footprint) + tokens_s
