"""Which kernel runs fused attention: PyTorch's own choice, in one place.

`torch.nn.functional.scaled_dot_product_attention` takes the first of its backends that can run a call:

* `cudnn`, cuDNN's kernel: in 16 bit, with or without an explicit mask, with heads of up to 128 that are a multiple of
  8, on sm90 and sm100 (measured: torch 2.11 with CUDA 13.0 on an H100, in prefill, decode, chunks and training).
* `flash2`, FlashAttention-2: in 16 bit, without an explicit mask, with heads of up to 256, on NVIDIA devices from sm80
  on.
* `efficient`, the memory-efficient kernel: the rest on NVIDIA devices, if a head's rows are aligned to 16 bytes where
  tensor cores load them: to 8 elements in 16 bit from sm70 on, to 4 in fp32 from sm80 on.
* `math`: products and a softmax as kernels of their own, where neither can.
* `mps` is the one kernel of Apple's GPUs, `cpu` that of processors.

`flash_attention_2` is `flash2` without a choice. `flash3` runs only where a caller asks for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpt2cost.device.dtypes import HALF_DTYPES
from gpt2cost.device.gpu_constants import ATTENTION_KERNELS
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, echo

FLASH_HEAD_DIM = 256
"""The largest head that flash attention's kernels are built for."""
CUDNN_HEAD_DIM = 128
"""The largest head that cuDNN's kernel is built for in both directions."""


def sdpa_kernel(hw: Hardware, dtype: str, head_dim: int, masked: bool) -> str:
    """The kernel that `scaled_dot_product_attention` runs; `masked`: with an explicit mask."""
    if hw.vendor != "nvidia":
        return "mps" if hw.vendor == "apple" else "cpu"
    has_cudnn = dtype in HALF_DTYPES and hw.compute_capability in (9.0, 10.0)
    if has_cudnn and head_dim % 8 == 0 and head_dim <= CUDNN_HEAD_DIM:
        return "cudnn"
    if not masked and head_dim <= FLASH_HEAD_DIM and hw.has_flash_attention(dtype):
        return "flash2"
    return "efficient" if head_dim % _alignment(hw, dtype) == 0 else "math"


def _alignment(hw: Hardware, dtype: str) -> int:
    """Elements that a head's rows must be a multiple of for the memory-efficient kernel."""
    capability = hw.compute_capability or 0
    if dtype in HALF_DTYPES:
        return 8 if capability >= 7 else 1
    return 4 if capability >= 8 else 1


def has_flash3(hw: Hardware) -> bool:
    """Whether FlashAttention-3 runs, which is built for sm90 alone, and there are constants that time it."""
    return 9 <= (hw.compute_capability or 0) < 10 and "flash3" in hw.gpu_model.attention


def check_attention_kernel(hw: Hardware, kernel: str, dtype: str, head_dim: Any, masked: bool) -> None:
    """Raise `InputError` where a device cannot run an attention kernel, or has no constants that time it.

    `math` is timed as the products and the softmax that it consists of, so that it needs none. `head_dim`: an integer
    or an array of them. flash2 and flash3 pad a head to a multiple of 8; the others load rows as they are. A head
    larger than those that a kernel has constants of, such as 256 in flash3 and cudnn, is timed by the nearest size.
    """
    known = (
        ("cpu",)
        if hw.vendor == "cpu"
        else (*(name for name in ATTENTION_KERNELS if name in hw.gpu_model.attention), "math")
    )
    if kernel not in known:
        raise InputError(f"kernel: {hw.name} has no constants of {echo(kernel)}; it has {', '.join(known)}")
    if kernel in ("flash2", "flash3", "cudnn"):
        if not hw.has_flash_attention(dtype):
            raise InputError(f"kernel: {kernel} runs in fp16 or bf16, from compute capability 8.0 on")
        if kernel == "flash3" and not has_flash3(hw):
            raise InputError(f"kernel: flash3 runs on devices of compute capability 9.0, which {hw.name} is not")
        if masked and kernel != "cudnn":
            raise InputError(f"kernel: {kernel} takes no explicit mask; cudnn, efficient and math do")
        check_flash_head_dim(int(np.max(head_dim)), f"kernel: {kernel}")
    if kernel in ("efficient", "cudnn"):
        step = 8 if kernel == "cudnn" else _alignment(hw, dtype)
        if np.any(uneven := np.ravel(head_dim) % step != 0):
            got = np.ravel(head_dim)[uneven][0]
            raise InputError(f"kernel: {kernel} runs heads of multiples of {step} in {dtype}, got head_dim {got}")


def check_flash_head_dim(head_dim: int, what: str) -> None:
    """Raise `InputError` for a head that flash attention has no kernel for; `what` begins the message."""
    if head_dim > FLASH_HEAD_DIM:
        raise InputError(f"{what} runs heads of up to {FLASH_HEAD_DIM}, got head_dim {head_dim}; sdpa runs any")
