"""What is measured: on which devices, which sizes of kernels, how often, and for how long. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

DEVICES = ("cpu", "cuda", "mps")
"""What can be measured, by torch's names."""
MEASURED_DTYPES = ("fp32", "fp16", "bf16")
"""Dtypes that can be measured: a model's weights have one of them."""
MAX_THREADS = 4096
ROUNDS, MOST_ROUNDS = 8, 1000
"""How often all passes are measured by default, and at most."""

CPU_POOL_ELEMENTS, GPU_POOL_ELEMENTS = 125_000_000, 500_000_000
"""On a CPU as many as gpt2's weights: of fewer, the last-level cache keeps a share that it does not keep in a pass.
On a GPU enough for the largest operand, the probabilities of a batch of 32."""


@dataclass(frozen=True)
class KernelSizes:
    """Which sizes of kernels are measured. What a GPU does not need (`fresh_mb` and below) is left out there."""

    rows: tuple[int, ...]  # of products
    lm_head_rows: tuple[int, ...]
    widths: tuple[int, ...]  # n_embd
    tokens: tuple[int, ...]  # of attention
    batches: tuple[int, ...]
    memory_rows: tuple[int, ...]  # of memory-bound kernels
    copy_exponents: tuple[int, ...]  # log2 of a copy's elements
    vocab_size: int = 50257
    n_head: int = 12
    head_dim: int = 64
    fresh_mb: tuple[float, ...] = (16.0, 32.0, 48.0, 64.0, 128.0)  # outputs for which memory is handed out anew
    step_layers: tuple[int, ...] = (2, 12)  # n_layer of the models whose decode steps are measured
    step_width: int = 256  # their n_embd: weights enough to sweep the caches, as a pass does


@dataclass(frozen=True)
class Plan:
    """How kernels are measured: every case once in each of `sweeps` sweeps over all, with all others in between.

    After `limit_s` seconds only what has no time yet is measured. Operands are windows of `pool_elements` numbers.
    """

    sizes: KernelSizes
    sweeps: int
    limit_s: float
    pool_elements: int


CPU_QUICK = KernelSizes(
    rows=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512), lm_head_rows=(1, 2, 4, 8, 16, 64, 128, 512), widths=(768,),
    tokens=(1, 16, 64, 128, 512), batches=(1, 8), memory_rows=(1, 4, 8, 16, 64, 128, 512),
    copy_exponents=tuple(range(12, 26, 2)),
)  # fmt: skip
CPU_FULL = KernelSizes(
    rows=(1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256, 512, 1024), lm_head_rows=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    widths=(768, 1280), tokens=(1, 8, 16, 32, 64, 128, 256, 512, 1024), batches=(1, 2, 4, 8),
    memory_rows=(1, 2, 4, 8, 16, 32, 64, 128, 512, 1024), copy_exponents=tuple(range(12, 26)),
)  # fmt: skip
GPU_QUICK = KernelSizes(
    rows=(1, 8, 32, 128, 512, 2048, 8192), lm_head_rows=(1, 8, 128, 1024), widths=(768, 1600),
    tokens=(1, 64, 256, 1024), batches=(1, 8), memory_rows=(1, 64, 1024, 8192), copy_exponents=tuple(range(14, 26, 2)),
)  # fmt: skip
GPU_FULL = KernelSizes(
    rows=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192), lm_head_rows=(1, 8, 64, 512, 2048, 4096),
    widths=(768, 1024, 1280, 1600), tokens=(1, 64, 128, 256, 512, 1024), batches=(1, 8, 32),
    memory_rows=(1, 8, 64, 512, 1024, 4096, 8192, 32768), copy_exponents=tuple(range(14, 26)),
)  # fmt: skip


def plan_for(on_cpu: bool, quick: bool) -> Plan:
    """The plan of `gpt2cost calibrate`: about a minute where it is `quick`, else some minutes."""
    sizes = {(True, True): CPU_QUICK, (True, False): CPU_FULL, (False, True): GPU_QUICK, (False, False): GPU_FULL}
    elements = CPU_POOL_ELEMENTS if on_cpu else GPU_POOL_ELEMENTS
    return Plan(
        sizes[on_cpu, quick], sweeps=6 if quick else 10, limit_s=90.0 if quick else 270.0, pool_elements=elements
    )


def usual_dtype(on_cpu: bool) -> str:
    """The dtype of passes where none is asked for."""
    return "fp32" if on_cpu else "fp16"
