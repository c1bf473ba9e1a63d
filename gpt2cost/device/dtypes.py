"""The arithmetic modes, and the bytes of their elements."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Dtype: TypeAlias = Literal["fp32", "tf32", "fp16", "bf16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
"""Names of the arithmetic modes. `tf32` is fp32 storage with products on the tensor cores."""

ELEMENT_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}
"""Bytes of a weight or activation element. `tf32` is a way to multiply fp32 elements."""
HALF_DTYPES = tuple(dtype for dtype, size in ELEMENT_BYTES.items() if size == 2)
"""The dtypes that flash attention's kernels take."""

FP32_FAMILY, HALF_FAMILY = ("fp32",), ("fp16", "bf16", "tf32")
"""Dtypes whose products run on the same units: CUDA cores, and tensor cores."""
