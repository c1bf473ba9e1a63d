"""The arithmetic modes, and the bytes of their elements."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Precision:
    """How a model is trained: the arithmetic mode of its products, and the bytes of a weight and of an activation.

    With `autocast` weights, gradients and moments stay float32, and what multiplies is cast to 16 bit.
    """

    dtype: Dtype
    w_bytes: int
    a_bytes: int
    autocast: bool = False


def _pure(dtype: Dtype) -> Precision:
    return Precision(dtype, ELEMENT_BYTES[dtype], ELEMENT_BYTES[dtype])


PRECISIONS: dict[str, Precision] = {
    "fp32": _pure("fp32"), "tf32": _pure("tf32"), "bf16-mixed": Precision("bf16", 4, 2, autocast=True),
    "fp16-mixed": Precision("fp16", 4, 2, autocast=True), "bf16": _pure("bf16"),
}  # fmt: skip
"""What a model is trained in. `fp16-mixed` scales its loss, so that small gradients do not vanish."""


def precision_of(name: str) -> Precision:
    """A precision of training by its name, or a dtype in which everything is stored."""
    return PRECISIONS[name] if name in PRECISIONS else _pure(name)  # type: ignore[arg-type]
