"""Seconds of one kernel on a CPU, whose threads run it while the interpreter waits.

    product    core = batch * (start + max(k n * element(m), rows * row + k n * element(1)))
               element(m): straight lines between measured rows; rows of the operand as stored: k, of lm_head n
    attention  core = batch heads * (start + head_dim * keys * element(new tokens) / masked_attention)
               without a mask, masked_attention is 1
    other      core = min(elements * one thread's, fork + elements * all threads')
    T          = launch + max(core, FLOPs / peak, spilled bytes / DRAM bandwidth) + fresh
    fresh      = output bytes / rate at which the system hands out memory; 0 for attention, and for what is written in
               place, whose DRAM bytes count for 2/3
    foreach    the sum of its tensors, one op after the other; nothing of one op's list is in the cache for the next
    backward   products and memory-bound kernels by the same curves; attention its forward, as its FLOPs are more

What only training runs has no constants of its own: none of it is fitted to a training step.

A library packs the weights of a product before it multiplies, has kernels of its own for one row and for few, and
rounds rows up to its registers: that is what the curve holds. All forms grow with every size. Nothing is faster than
the fastest product measured, nor than DRAM once its bytes exceed the last-level cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpt2cost.device.cpu_constants import CpuConstants, ProductCurve
from gpt2cost.device.dtypes import ELEMENT_BYTES
from gpt2cost.device.hardware import Hardware
from gpt2cost.table.kernel import Foreach, FusedAttention, Gemm, Kernel
from gpt2cost.table.liveness import OLD_CACHE
from gpt2cost.timing.gpu_attention import FLOPS_OF_BACKWARD
from gpt2cost.timing.terms import Array, Terms, at_least, product_dtype, residency

_RESIDENT_FROM = 0.5
"""Footprint over the last-level cache where residency starts to fade: the cache is shared with what came before."""

_IN_PLACE = 2 / 3
"""Of the time that DRAM takes for its bytes where they are written in place. The bandwidth is that of copies: a store
reads its cache line first, so that three bytes move for two that are counted. In place that line is there already."""

_SLOW_FUNCTIONS = ("tanh", "gelu", "silu", "sigmoid", "erf", "mish", "elu", "selu", "celu", "softplus", "sqrt")
"""Element-wise ops that evaluate a function; they cost what `tanh` does unless they have a rate of their own."""


def element_seconds(curve: ProductCurve, m: Array) -> Array:
    """Seconds of an element of the (k, n) operand of a product with `m` rows."""
    rows, seconds = np.array(curve.rows, float), np.array(curve.element_s)
    if len(rows) == 1:
        return seconds[0] * np.maximum(m / rows[0], 1.0)
    slope = max((seconds[-1] - seconds[-2]) / (rows[-1] - rows[-2]), 0.0)
    return np.interp(m, rows, seconds) + slope * np.maximum(m - rows[-1], 0.0)


def product_terms(
    hw: Hardware, dtype: str, name: str, batch: Array, m: Array, n: Array, k: Array, element_bytes: float
) -> Terms:
    """`batch` products of (m, k) and (k, n) of one of the fields of `CpuProducts`; sizes broadcast."""
    c = hw.cpu_model
    curve: ProductCurve = getattr(c.products[dtype], name)
    vector_s = (n if name == "mm" else k) * curve.row_s + k * n * curve.element_s[0]
    core_s = batch * (curve.start_s + np.maximum(k * n * element_seconds(curve, m), vector_s))
    compute_s = 2.0 * batch * m * n * k / hw.compute.peak_flop_per_s[dtype]
    moved = batch * (m * k + k * n + m * n) * element_bytes
    fresh_s = fresh_seconds(c, batch * m * n * element_bytes)
    return _terms(hw, curve.launch_s, np.maximum(core_s, compute_s), compute_s, moved, fresh_s)


def attention_terms(
    hw: Hardware,
    dtype: str,
    pairs: Array,
    head_dim: Array,
    new_tokens: Array,
    cached_tokens: Array,
    element_bytes: float,
    *,
    masked: bool = False,
) -> Terms:
    """Fused attention of `pairs` = batch * heads: `new_tokens` queries each over `cached_tokens + new_tokens` keys.

    Blocks of keys are so long that the causal rule saves little: every query is taken to meet every key.
    """
    c = hw.cpu_model
    curve = c.attention[dtype]
    kv_len = cached_tokens + new_tokens
    slow = 1.0 / c.masked_attention if masked else 1.0
    core_s = pairs * (curve.start_s + head_dim * kv_len * element_seconds(curve, new_tokens) * slow)
    compute_s = 4.0 * pairs * head_dim * new_tokens * kv_len / hw.compute.peak_flop_per_s[dtype]
    moved = pairs * head_dim * element_bytes * 2 * (new_tokens + kv_len)
    return _terms(hw, curve.launch_s, np.maximum(core_s, compute_s), compute_s, moved, 0.0)


def memory_terms(
    hw: Hardware,
    kind: str,
    read_bytes: Array,
    write_bytes: Array,
    elements: Array,
    reuse_bytes: Array = 0.0,
    *,
    in_place: bool = False,
) -> Terms:
    """A kernel of one of `CPU_KINDS`, which writes `elements`. `reuse_bytes`: what was touched since most of what it
    reads was last used; `in_place`: it writes to what it reads."""
    c = hw.cpu_model
    rate = c.kinds.get(kind) or c.kinds["elementwise"]
    work_s = np.minimum(elements * rate.element_s, rate.fork_s + elements * rate.parallel_element_s)
    nothing = 0.0 * elements
    fresh_s = nothing if in_place else fresh_seconds(c, write_bytes)
    moved = read_bytes + write_bytes
    since = np.maximum(moved, reuse_bytes)
    dram = moved * _IN_PLACE if in_place else moved
    terms = _terms(hw, rate.launch_s, work_s, nothing, dram, fresh_s, since)
    return replace(terms, memory_s=terms.device_s - rate.launch_s, serial_s=nothing)


def foreach_terms(hw: Hardware, kernel: Kernel, values: Mapping[str, Array], read: Array, write: Array) -> Terms:
    """An op over lists of tensors, which a CPU runs tensor by tensor; `read` and `write` are the bytes of all."""
    shape = kernel.shape
    assert isinstance(shape, Foreach)
    sizes = [(one.elements.evaluate(values), one.count.evaluate(values)) for one in shape.parameters]
    whole = sum(size * count for size, count in sizes)
    passes = kernel.written_elements.evaluate(values) / whole
    if kernel.op == "_foreach_norm":  # each element read is added
        passes = 1.0
    kind, in_place = cpu_kind(hw.cpu_model, kernel), writes_in_place(kernel)
    total: Terms | None = None
    for size, count in sizes:
        share = size / whole
        one = memory_terms(
            hw, kind, share * read, share * write, passes * size, read + write, in_place=in_place
        ).scaled(count)  # fmt: skip
        total = one if total is None else total + one
    assert total is not None
    return total


def writes_in_place(kernel: Kernel) -> bool:
    """Whether all that a kernel writes is among what it reads."""
    read = {tensor.name for tensor in kernel.inputs}
    return all(tensor.name in read for tensor in kernel.outputs)


def _terms(
    hw: Hardware,
    launch_s: float,
    core_s: Array,
    compute_s: Array,
    moved_bytes: Array,
    fresh_s: Array,
    reuse_bytes: Array = 0.0,
) -> Terms:
    footprint = np.maximum(moved_bytes, reuse_bytes)
    dram_bytes = (1.0 - residency(footprint, hw.memory.l2_bytes, _RESIDENT_FROM)) * moved_bytes
    memory_s = dram_bytes / hw.memory.bandwidth_bytes_per_s
    waiting_s = np.maximum(core_s - np.maximum(compute_s, memory_s), 0.0)
    total_s = launch_s + np.maximum(core_s, memory_s) + fresh_s
    return Terms(total_s, compute_s, memory_s + fresh_s, 0.0 * memory_s, waiting_s, launch_s, dram_bytes)


def fresh_seconds(c: CpuConstants, output_bytes: Array) -> Array:
    """What the operating system takes to hand out the memory of an output.

    glibc gives a block of more than 32 MiB back when it is freed, unless it finds room for it in the up to 64 MiB that
    it keeps. All that is smaller it reuses: a step's cache takes the place of what the step before freed.
    """
    fresh_share = np.clip(output_bytes / c.fresh_from_bytes - 1.0, 0.0, 1.0)
    return output_bytes * fresh_share / c.fresh_bytes_per_s


@dataclass(frozen=True)
class CpuMachine:
    """A CPU that times kernels. The methods are those of `GpuMachine`."""

    hw: Hardware

    def fade(self, kernel: Kernel, dtype: str) -> tuple[float, float]:
        """Between which numbers of touched bytes the last-level cache loses what a kernel reads."""
        return 0.99 * _RESIDENT_FROM * self.hw.memory.l2_bytes, 1.01 * self.hw.memory.l2_bytes

    def kernel(
        self, kernel: Kernel, values: Mapping[str, Array], dtype: str, floor_s: float, reuse: Sequence[Array]
    ) -> Terms:
        """One launch in a pass.

        `reuse` counts where a cache grows: what it held was last touched a step ago, and all of it moves. Of all else
        it changes nothing: products are measured with cold weights, and what is small stays in the cache.
        """
        hw, element_bytes = self.hw, ELEMENT_BYTES[dtype]
        match kernel.shape:
            case Gemm(batch, m, n, k):
                count, rows, columns, depth = (size.evaluate(values) for size in (batch, m, n, k))
                own = product_dtype(kernel, dtype)
                size = ELEMENT_BYTES[own]
                terms = product_terms(hw, own, product_name(kernel), count, rows, columns, depth, size)
            case FusedAttention(batch, heads, head_dim, new_tokens, kv_len, masked, backward):
                new, kv = new_tokens.evaluate(values), kv_len.evaluate(values)
                pairs, width = batch.evaluate(values) * heads.evaluate(values), head_dim.evaluate(values)
                terms = attention_terms(hw, dtype, pairs, width, new, kv - new, element_bytes, masked=masked)
                if backward:
                    terms = terms.scaled(FLOPS_OF_BACKWARD)
            case Foreach():
                read, write = kernel.reads.evaluate(values), kernel.writes.evaluate(values)
                terms = foreach_terms(hw, kernel, values, read, write)
            case None:
                read, write = kernel.reads.evaluate(values), kernel.writes.evaluate(values)
                grows = kernel.op == "cat" and kernel.inputs[0].name in OLD_CACHE
                since = reuse[0] if grows else 0.0
                elements = kernel.written_elements.evaluate(values)
                if kernel.op == "sum":  # each element read is added
                    elements = sum((tensor.elements.evaluate(values) for tensor in kernel.inputs), elements)
                kind, in_place = cpu_kind(hw.cpu_model, kernel), writes_in_place(kernel)
                terms = memory_terms(hw, kind, read, write, elements, since, in_place=in_place)
        return at_least(floor_s, terms)

    def product(
        self, dtype: str, batch: Array, m: Array, n: Array, k: Array, batched: bool, reuse: Array | None = None
    ) -> Terms:
        """A product on its own. `reuse` changes nothing, as in a pass."""
        name = "scores" if batched else "addmm"
        return product_terms(self.hw, dtype, name, batch, m, n, k, ELEMENT_BYTES[dtype])

    def attention(
        self, dtype: str, kernel: str, batch: Array, heads: Array, head_dim: Array, new_tokens: Array,
        cached_tokens: Array, causal: bool = True, masked: bool = False, write_cache: bool = False,
        kv_reuse: tuple[Array, Array] | None = None,
    ) -> Terms:  # fmt: skip
        """Fused attention on its own. `causal` changes nothing: see `attention_terms`. `kernel`: there is one."""
        size, pairs = ELEMENT_BYTES[dtype], batch * heads
        terms = attention_terms(self.hw, dtype, pairs, head_dim, new_tokens, cached_tokens, size, masked=masked)
        if not write_cache:
            return terms
        new_bytes = 2.0 * pairs * head_dim * new_tokens * size
        return terms + memory_terms(self.hw, "copy", new_bytes, new_bytes, new_bytes / size)

    def memory(
        self, kind: str, dtype: str, read_bytes: Array, write_bytes: Array, columns: Array, reuse: Array | None = None
    ) -> Terms:
        """A kernel that moves bytes, on its own. `reuse` changes nothing, as in a pass."""
        return memory_terms(self.hw, kind, read_bytes, write_bytes, write_bytes / ELEMENT_BYTES[dtype])

    def improvements(self) -> list[tuple[str, Hardware]]:
        """The machine with products twice as fast, and with everything else twice as fast."""
        hw, model = self.hw, self.hw.cpu_model
        products = replace(hw, compute=hw.compute.scaled(2.0), model=model.scaled_products(element=0.5))
        return [
            ("2x as fast products", products),
            ("2x as fast everything else", replace(hw, model=model.scaled_memory(0.5))),
        ]


def product_name(kernel: Kernel) -> str:
    """Which of the fields of `CpuProducts` times a kernel."""
    return kernel.op if kernel.op in ("addmm", "mm") else "context" if kernel.name == "context" else "scores"


def cpu_kind(c: CpuConstants, kernel: Kernel) -> str:
    """Which of `CPU_KINDS` times `kernel`; of a fusion, the slowest."""
    kinds = [_kind_of(op, kernel.kind) for op in kernel.op.split("+")]
    measured = [kind for kind in kinds if kind in c.kinds]
    return max(measured, key=lambda kind: c.kinds[kind].element_s) if measured else "elementwise"


def _kind_of(op: str, kind: str) -> str:
    names = {"_softmax": "softmax", "native_layer_norm": "layer_norm", "cat": "cat", "where": "where", "gelu": "gelu"}
    if op in names:
        return names[op]
    if op in _SLOW_FUNCTIONS:
        return "tanh"
    return kind if kind in ("copy", "gather", "fill") else "elementwise"
