"""The arithmetic modes, and the bytes of their elements."""

from __future__ import annotations

DTYPES = ("fp32", "tf32", "fp16", "bf16")
"""Names of the arithmetic modes. `tf32` is fp32 storage with products on the tensor cores."""


ELEMENT_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}
"""Bytes of a weight or activation element. `tf32` is a way to multiply fp32 elements."""
