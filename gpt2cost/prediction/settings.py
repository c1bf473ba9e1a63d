"""How a model is run: the settings of a prediction, and the checks of what the user gave for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.checks import Size, check_choice, check_size
from gpt2cost.device.dtypes import DTYPES, HALF_DTYPES
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS, LOGITS, RUNTIMES

Number: TypeAlias = Any
"""An int or a float, or a numpy array of float64."""


PHASES = ("prefill", "decode", "both")


@dataclass(frozen=True)
class Settings:
    """How the model is run. Sizes as given: integers or arrays."""

    batch_size: Size
    seq_len: Size
    cache_len: Size
    dtype: str
    attn: str
    runtime: str
    logits: str
    use_cache: bool
    variants: tuple[tuple[str, str], ...] = ()  # see kernels.KERNEL_VARIANTS


def check_settings(
    batch: object,
    seq: object,
    cache: object,
    dtype: str,
    attn: str,
    runtime: str,
    phase: str,
    logits: str,
    use_cache: bool,
) -> Settings:
    """The settings, every one checked. Raises `InputError` for the first that is wrong."""
    for name, value, choices in (
        ("dtype", dtype, DTYPES),
        ("attn", attn, ATTENTION_IMPLEMENTATIONS),
        ("runtime", runtime, RUNTIMES),
        ("phase", phase, PHASES),
        ("logits", logits, LOGITS),
    ):
        check_choice(name, value, choices)
    sizes = check_size("batch", batch, 1), check_size("seq", seq, 1), check_size("cache", cache, 0)
    try:
        np.broadcast_shapes(*map(np.shape, sizes))
    except ValueError:
        shapes = ", ".join(str(np.shape(size)) for size in sizes)
        raise InputError(f"batch, seq, cache: expected arrays that broadcast, got shapes {shapes}") from None
    if not use_cache and np.any(np.asarray(sizes[2]) != 0):
        raise InputError("cache: expected 0 with use_cache off, because without a KV cache nothing is cached")
    return Settings(*sizes, dtype, attn, runtime, logits, use_cache)


def check_device(hardware: Hardware, dtype: str, attn: str, runtime: str = "eager") -> None:
    """Raise `InputError` where the device cannot run the dtype, the attention implementation or the runtime."""
    if runtime == "cuda-graph" and hardware.vendor != "nvidia":
        raise InputError(
            f"runtime: cuda-graph needs an NVIDIA device, which {hardware.name} is not; eager runs anywhere"
        )
    if dtype not in hardware.compute.peak_flop_per_s:
        known = ", ".join(hardware.compute.peak_flop_per_s)
        raise InputError(f"dtype: {hardware.name} has no {dtype}; it has {known}")
    if attn == "flash_attention_2":
        if dtype not in HALF_DTYPES:
            raise InputError(f"attn: flash_attention_2 needs fp16 or bf16, got {dtype}; sdpa runs in any dtype")
        if not hardware.has_flash_attention(dtype):
            raise InputError(
                f"attn: flash_attention_2 needs an NVIDIA device of compute capability 8.0 or later, which"
                f" {hardware.name} is not; sdpa runs on any device"
            )
