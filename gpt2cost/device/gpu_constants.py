"""The machine model's fitted constants, as a hardware file's `model` section holds them.

Rates are fractions of the device's own peaks, so that a similar device can borrow them; seconds are seconds. What each
constant means stands at the form that uses it: `timing/gpu_gemm.py`, `gpu_attention.py`, `gpu_memory.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from gpt2cost.device.dtypes import DTYPES
from gpt2cost.errors import InputError, echo

_TILE = re.compile(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}")

POSITIVE = {"bound": "positive"}
FRACTION = {"bound": "fraction"}
NATURAL = {"bound": "natural"}
RESIDUAL = {"range": (1e-6, 10)}
"""Rule of a fit's residuals, which are logarithms of factors."""

MEMORY_KINDS = ("elementwise", "gelu", "scalar_op", "where", "softmax", "layer_norm", "copy", "cat", "gather", "fill")
"""Kinds of memory-bound kernels that reach different fractions of the memory's peak."""
ADDRESSES = ("gather", "cat")
"""Memory-bound kinds whose only arithmetic is that of addresses."""

ATTENTION_KERNELS = ("flash2", "flash3", "efficient", "cudnn", "mps")
"""Attention kernels that a device may have constants of; see `device/sdpa.py` for which of them runs."""

PAGED = "_paged"
"""Ends the name of a kernel's variant that reads a serving framework's paged cache, where it has other constants."""

HEAD_DIMS = ("64", "128", "256")
"""Head sizes that attention constants are given for; others use those of a size near to them."""


@dataclass(frozen=True, kw_only=True)
class TransposedConstants:
    """What differs in products whose (m, k) operand is stored as (k, m), as in gradients of weights; none: nothing."""

    efficiency: float | None = field(default=None, metadata=POSITIVE)
    split_s: float | None = None
    split_efficiency: float | None = field(default=None, metadata=POSITIVE)
    split_rate: float | None = field(default=None, metadata=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class GemmConstants:
    """Matrix products of one dtype. See `timing/gpu_gemm.py` for the form."""

    tiles: tuple[str, ...]  # output tiles, as '128x256'
    alone: bool = False  # measured on products that ran alone, while fp16's, at the same rate, were inside a model
    batched_tiles: tuple[str, ...] = ()  # the tiles that batched products use; none: all
    max_split: int = field(default=1, metadata=POSITIVE)  # in how many parts K may be split at most
    k_step: int = field(default=64, metadata=POSITIVE)  # K is padded to this
    efficiency: float = field(metadata=POSITIVE)  # of an infinite tile; may pass 1 where `edge` brings it down
    edge: float = field(default=0.0, metadata=NATURAL)  # operand load of a tile, in rows
    prologue_k: float = field(default=0.0, metadata=NATURAL)  # prologue, in elements of K
    step_s: float = 0.0  # least time of 64 elements of K in one tile
    wave_power: float = field(
        default=1.0, metadata=POSITIVE
    )  # near 0: whole waves, 1: no quantisation beyond the first wave
    overlap: float = field(default=4.0, metadata=POSITIVE)  # norm that joins compute, DRAM and L2 time
    dram_efficiency: float = field(metadata=FRACTION)
    l2_efficiency: float | None = field(
        default=None, metadata=POSITIVE
    )  # of tile operands over L2's read bandwidth; none: not a limit
    warm_l2: float = field(default=0.6, metadata=FRACTION)  # bytes over L2's size after which it has half lost a tensor
    launch_s: float
    split_s: float = 0.0
    split_efficiency: float = field(default=1.0, metadata=POSITIVE)  # of a split kernel's rate over the others'
    split_rate: float = field(default=1.0, metadata=POSITIVE)  # of the split-K reduction over L2's bandwidth
    epilogue_rate: float | None = field(
        default=None, metadata=POSITIVE
    )  # at which an SM's results leave it, over its share of L2's bandwidth
    droop: float = field(
        default=0.0, metadata=NATURAL
    )  # how much longer a kernel at full rate takes, where power lowers the clock
    heat: float = field(
        default=0.0, metadata=NATURAL
    )  # how much longer a kernel takes that runs for much longer than heat_time
    heat_time_s: float = 1.0
    gemv_s: float | None = None  # a matrix-vector kernel of its own, if there is one: launch
    gemv_dram_efficiency: float = field(default=1.0, metadata=FRACTION)
    gemv_k_s: float = 0.0  # time per element of K
    gemv_rows_s: float = 0.0  # of more than one row
    gemv_efficiency: float = field(default=0.25, metadata=POSITIVE)  # of the vector units' fp32 peak
    unaligned_efficiency: float | None = field(
        default=None, metadata=POSITIVE
    )  # of moving operands by loads of full width, over L2's bandwidth; none: alignment costs no traffic
    unaligned_traffic: float = field(
        default=0.0, metadata=NATURAL
    )  # power of the number of loads that take the place of one, in the time of that traffic
    unaligned_step: float = field(default=0.0, metadata=NATURAL)  # and in the time of a tile's step
    transposed: TransposedConstants | None = None
    residual: float | None = field(default=None, metadata=RESIDUAL)  # of the fit: 95th percentile of |log(error)|

    def of_transposed(self) -> GemmConstants:
        """The constants of products whose (m, k) operand is stored as (k, m)."""
        own = vars(self.transposed) if self.transposed else {}
        return replace(self, **{name: value for name, value in own.items() if value is not None})

    def __post_init__(self) -> None:
        for tile in (*self.tiles, *self.batched_tiles):
            if not _TILE.fullmatch(tile):
                raise InputError(f"expected tiles such as '128x256', got {echo(tile)}")
        if not self.tiles:
            raise InputError("expected at least one entry in tiles")


@dataclass(frozen=True, kw_only=True)
class AttentionConstants:
    """One fused attention kernel at one head size. See `timing/gpu_attention.py` for the form.

    An SM computes at the lower of two rates: `efficiency` of its share of the dtype's peak, which the tensor cores
    set, and `unit_rate`, which issue and exponentials set whatever the peak is.
    """

    q_tile: int = field(metadata=POSITIVE)  # queries of a thread block
    kv_block: int = field(metadata=POSITIVE)  # keys of an inner step
    launch_s: float
    multi_token_s: float = 0.0  # extra for more than one new token
    multi_block_s: float = 0.0  # extra for more than one block of keys
    block_s: float  # of a thread block beside its inner loop
    stream_bytes_per_s: float  # at which one thread block reads keys and values
    efficiency: float = field(metadata=FRACTION)
    unit_rate_flop_per_s: float | None = None  # the most that one SM reaches in 16 bit; none: not a limit
    fp32_unit_rate_flop_per_s: float | None = None  # and in fp32
    masked_step_s: float = 0.0  # extra of a step in which some keys are masked: the diagonal's, a ragged end's
    tail: float = field(metadata=POSITIVE)  # weight of the longest thread block in the drain
    dram_efficiency: float = field(metadata=FRACTION)
    l2_efficiency: float = field(metadata=FRACTION)
    resident_from: float = field(default=0.7, metadata=FRACTION)  # footprint over L2 from which residency fades
    max_splits: int = field(default=1, metadata=POSITIVE)  # how many thread blocks share a head's keys
    split_s: float = 0.0  # of the kernel that joins the shares
    write_traffic: float = field(
        default=0.0, metadata=NATURAL
    )  # of a cache write in the same call, over its bytes; 0 where there is none
    write_token_s: float = 0.0
    write_launch_s: float = 0.0
    # the gradients take each query as long as so many more keys; fitted: FlashAttention-2's on an RTX A5000 at 512 to
    # 8192 keys (gpu-mode/ring-attention#10)
    backward_keys: float = field(default=380.0, metadata=NATURAL)


@dataclass(frozen=True, kw_only=True)
class KindConstants:
    """One kind of memory-bound kernel. See `timing/gpu_memory.py` for the form."""

    dram_efficiency: float = field(metadata=FRACTION)
    elements_per_s_per_unit: float | None = field(
        default=None, metadata=POSITIVE
    )  # where arithmetic or indexing limits: output elements per second and SM
    per_unit_bytes_per_s: float | None = None  # where rows wait for their own sums: what an SM moves
    latency_s: float = 0.0  # of a row's dependent steps
    column_s: float = 0.0  # and of each of its columns
    blocks: int = field(default=1, metadata=POSITIVE)  # long rows that an SM works on at a time, if `block` is set
    block_s: float | None = None  # time of a long row
    block_column_s: float = 0.0  # and of each of its columns


@dataclass(frozen=True, kw_only=True)
class MemoryConstants:
    """Memory-bound kernels of a device."""

    kinds: dict[str, KindConstants] = field(metadata={"keys": MEMORY_KINDS, "required": MEMORY_KINDS})
    l2_copy_bytes_per_s: float  # bytes read and written in L2
    l2_efficiency: float = field(default=1.0, metadata=FRACTION)  # of it that PyTorch's kernels reach
    write_weight: float = field(
        default=1.1, metadata=POSITIVE
    )  # a written byte costs as much DRAM time as this many read
    resident_from: float = field(default=0.75, metadata=FRACTION)  # footprint over L2 where residency starts to fade
    resident_to: float = field(default=1.0, metadata=POSITIVE)  # and where it is gone
    indexed_per_s_per_unit: float | None = field(
        default=None, metadata=POSITIVE
    )  # elements per second and SM of a kernel that computes an index for each: a permuted copy, a repeated operand
    foreach: float = field(
        default=0.8, metadata=POSITIVE
    )  # of element-wise kernels' rate that those over lists of tensors reach: optimisers, clipping
    carry_over: float = field(
        default=0.0, metadata=NATURAL
    )  # share of L2 whose dirty lines are written after a kernel that runs alone has ended

    def __post_init__(self) -> None:
        if self.resident_from >= self.resident_to:
            raise InputError("expected resident_from below resident_to")

    def with_twice_the_arithmetic(self) -> MemoryConstants:
        """The same memory, if kernels computed twice as fast; those of `ADDRESSES` compute nothing."""
        kinds = {
            kind: replace(c, elements_per_s_per_unit=2 * c.elements_per_s_per_unit)
            for kind, c in self.kinds.items()
            if c.elements_per_s_per_unit is not None and kind not in ADDRESSES
        }
        return replace(self, kinds={**self.kinds, **kinds})


@dataclass(frozen=True, kw_only=True)
class MachineConstants:
    """The machine model of a device.

    `gemm`: by dtype; tensor cores run tf32 and bf16 as they run fp16, each at its own peak, so that fp16's constants
    serve where a dtype has none. `attention`: by kernel, then by head size.
    """

    gemm: dict[str, GemmConstants] = field(metadata={"keys": DTYPES, "required": ("fp32",)})
    attention: dict[str, dict[str, AttentionConstants]] = field(
        metadata={"keys": (*ATTENTION_KERNELS, f"flash2{PAGED}"), "of": {"keys": HEAD_DIMS, "required": HEAD_DIMS[:2]}}
    )
    memory: MemoryConstants

    def __post_init__(self) -> None:
        if not self.attention:
            raise InputError(f"attention: expected constants of one of {', '.join(ATTENTION_KERNELS)}")

    def attention_by(self, kernel: str, paged: bool = False) -> dict[str, AttentionConstants]:
        """The constants of an attention kernel, or of its paged variant, by head size.

        A device whose constants are those of one that runs other kernels has the first of them instead.
        """
        own = self.attention.get(kernel) or next(iter(self.attention.values()))
        return self.attention.get(f"{kernel}{PAGED}", own) if paged else own

    def writes_cache(self, kernel: str) -> bool:
        """Whether an attention kernel's constants have a serving framework's write of a paged cache in them."""
        return any(c.write_traffic for c in self.attention_by(kernel, paged=True).values())

    def has_products(self, dtype: str) -> bool:
        """Whether matrix products in a dtype can be timed."""
        return dtype in self.gemm or "fp16" in self.gemm

    def products(self, dtype: str) -> GemmConstants:
        """The constants of a dtype's products."""
        return self.gemm[self.products_as(dtype)]

    def products_as(self, dtype: str) -> str:
        """The dtype whose constants time a dtype's products: fp16's serve for the other dtypes of the tensor cores."""
        return dtype if dtype in self.gemm else "fp16"

    def dtype_in_pass(self, dtype: str) -> str:
        """The dtype whose constants time a dtype's products inside a model."""
        return "fp16" if self.products(dtype).alone else dtype

    def residual_of(self, dtype: str) -> float | None:
        """The spread of the errors of a dtype's products, in the logarithm."""
        return self.products(dtype).residual

    def with_attention_at(self, factor: float) -> MachineConstants:
        """The same machine, if an SM computed attention at `factor` times the rate where no peak limits it."""

        def times(rate: float | None) -> float | None:
            return None if rate is None else factor * rate

        attention = {
            kernel: {
                size: replace(
                    c,
                    unit_rate_flop_per_s=times(c.unit_rate_flop_per_s),
                    fp32_unit_rate_flop_per_s=times(c.fp32_unit_rate_flop_per_s),
                )
                for size, c in sizes.items()
            }
            for kernel, sizes in self.attention.items()
        }
        return replace(self, attention=attention)

    def without_launch(self) -> MachineConstants:
        """The same machine, if starting a kernel cost nothing."""
        gemm = {
            dtype: replace(c, launch_s=0.0, split_s=0.0, gemv_s=None if c.gemv_s is None else 0.0)
            for dtype, c in self.gemm.items()
        }
        names = ("launch_s", "multi_token_s", "multi_block_s", "split_s", "write_launch_s")
        none: dict[str, Any] = dict.fromkeys(names, 0.0)
        attention = {
            kernel: {size: replace(c, **none) for size, c in sizes.items()} for kernel, sizes in self.attention.items()
        }
        return replace(self, gemm=gemm, attention=attention)
