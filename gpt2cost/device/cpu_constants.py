"""A CPU's fitted constants, as the `model` section of a hardware file with `vendor: cpu` holds them.

A CPU's kernels are its library's, each with its own rate, and none of them is known beforehand: `gpt2cost calibrate`
measures them. What each constant means stands at the form that uses it, in `timing/cpu.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

from gpt2cost.device.dtypes import HALF_DTYPES
from gpt2cost.device.gpu_constants import POSITIVE, RESIDUAL
from gpt2cost.errors import InputError

CPU_KINDS = ("elementwise", "tanh", "gelu", "softmax", "layer_norm", "copy", "cat", "where", "gather", "fill")
"""Kinds of memory-bound kernels with rates of their own."""
CPU_DTYPES = ("fp32", *HALF_DTYPES)
"""Dtypes that a CPU multiplies."""


@dataclass(frozen=True, kw_only=True)
class ProductCurve:
    """Products of one kind: what an element of the (k, n) operand costs, by the number of rows m that use it.

    `element_s` are its seconds at each of `rows`, straight lines in between and beyond. They never fall. `row_s`: what
    a matrix-vector product, m = 1, takes beside them for each row of the operand as it is stored.
    """

    rows: tuple[int, ...] = field(metadata=POSITIVE)
    element_s: tuple[float, ...]
    start_s: float = 0.0  # of one product of a batch
    row_s: float = 0.0
    launch_s: float

    def __post_init__(self) -> None:
        if not self.rows or len(self.rows) != len(self.element_s):
            raise InputError("expected as many values in element as in rows, and at least one")
        if list(self.rows) != sorted(set(self.rows)):
            raise InputError("expected rows in rising order")
        if list(self.element_s) != sorted(self.element_s):
            raise InputError("expected no value in element below the one before it")


@dataclass(frozen=True, kw_only=True)
class CpuProducts:
    """Products with kernels of their own: a Conv1D's, a Linear's (whose weights are transposed, as lm_head's), and the
    two batched ones of eager attention."""

    addmm: ProductCurve
    mm: ProductCurve
    scores: ProductCurve
    context: ProductCurve

    def map(self, change: Callable[[ProductCurve], ProductCurve]) -> CpuProducts:
        """The same with `change` made to each curve."""
        return CpuProducts(**{field.name: change(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True, kw_only=True)
class CpuKind:
    """One kind of memory-bound kernel, by its output elements: on one thread, and on all."""

    launch_s: float
    element_s: float
    fork_s: float  # to start the other threads
    parallel_element_s: float


@dataclass(frozen=True, kw_only=True)
class CpuConstants:
    """The machine model of a CPU. `products` and `attention` are by dtype.

    Fresh memory is what the operating system has to hand out anew, page by page: that of outputs of `fresh_from` or
    more.
    """

    products: dict[str, CpuProducts] = field(metadata={"keys": CPU_DTYPES})
    attention: dict[str, ProductCurve] = field(metadata={"keys": CPU_DTYPES})
    masked_attention: float = field(default=1.0, metadata=POSITIVE)  # rate with an explicit mask over that without
    kinds: dict[str, CpuKind] = field(metadata={"keys": CPU_KINDS, "required": ("elementwise", "copy")})
    fresh_from_bytes: float
    fresh_bytes_per_s: float
    residual: float | None = field(default=None, metadata=RESIDUAL)  # 90th percentile of |log(error)| of addmm or mm

    def __post_init__(self) -> None:
        if lacking := [dtype for dtype in self.products if dtype not in self.attention]:
            raise InputError(f"attention: missing {', '.join(lacking)}")

    def has_products(self, dtype: str) -> bool:
        """Whether matrix products in a dtype can be timed."""
        return dtype in self.products

    def residual_of(self, dtype: str) -> float | None:
        """The spread of the kernels' errors, in the logarithm."""
        return self.residual

    def without_launch(self) -> CpuConstants:
        """The same machine, if starting a kernel cost nothing."""
        return replace(
            self.scaled_products(launch=0.0),
            kinds={name: replace(c, launch_s=0.0, fork_s=0.0) for name, c in self.kinds.items()},
        )

    def scaled_products(self, element: float = 1.0, launch: float = 1.0) -> CpuConstants:
        """The same machine, if products and attention took `element` times as long for their arithmetic, and `launch`
        times to start."""

        def scaled(c: ProductCurve) -> ProductCurve:
            seconds = tuple(element * element_s for element_s in c.element_s)
            return replace(c, element_s=seconds, start_s=launch * c.start_s, launch_s=launch * c.launch_s)

        return replace(
            self,
            products={dtype: curves.map(scaled) for dtype, curves in self.products.items()},
            attention={dtype: scaled(curve) for dtype, curve in self.attention.items()},
        )

    def scaled_memory(self, factor: float) -> CpuConstants:
        """The same machine, if everything else took `factor` times as long for its elements."""
        return replace(
            self,
            kinds={
                name: replace(c, element_s=factor * c.element_s, parallel_element_s=factor * c.parallel_element_s)
                for name, c in self.kinds.items()
            },
            fresh_bytes_per_s=self.fresh_bytes_per_s / factor,
        )
