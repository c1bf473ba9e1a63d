"""A GPU's constants and the forms that they belong to: which form times which kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from gpt2cost.device.dtypes import ELEMENT_BYTES, HALF_FAMILY
from gpt2cost.device.hardware import Hardware
from gpt2cost.table.formula import formula
from gpt2cost.table.kernel import Foreach, FusedAttention, Gemm, Kernel
from gpt2cost.table.liveness import NEW_CACHE
from gpt2cost.timing.gpu_attention import attention_fade, attention_kernel, attention_terms
from gpt2cost.timing.gpu_gemm import gemm_fade, gemm_terms
from gpt2cost.timing.gpu_memory import memory_terms, missing
from gpt2cost.timing.gpu_training import is_gradient, training_terms, with_odd_rows
from gpt2cost.timing.terms import Array, Terms, at_least, product_dtype

EARLIER, LATER = 0.99, 1.01
"""What keeps `GpuMachine.fade` clear of rounding."""
ROW_BYTES = 16
"""To a multiple of so many bytes a compiler pads a product's rows where that is faster, the copies of its operands
included (Inductor's `pad_mm`, which times both)."""


@dataclass(frozen=True)
class GpuMachine:
    """A GPU that times kernels. `CpuMachine` has the same methods."""

    hw: Hardware

    def fade(self, kernel: Kernel, dtype: str) -> tuple[float, float]:
        """After how many touched bytes L2 begins to lose what a kernel reads, and after how many it has lost it: below
        and above, more make no difference."""
        model = self.hw.gpu_model
        shares = [(model.memory.resident_from, model.memory.resident_to)]
        if isinstance(kernel.shape, Gemm | FusedAttention):
            products = gemm_fade(model.products(model.dtype_in_pass(product_dtype(kernel, dtype))))
            shares = [products] if isinstance(kernel.shape, Gemm) else [*shares, products, attention_fade(model)]
        l2_bytes = self.hw.memory.l2_bytes
        begins, gone = min(first for first, _ in shares), max(last for _, last in shares)
        return EARLIER * begins * l2_bytes, LATER * gone * l2_bytes

    def kernel(
        self, kernel: Kernel, values: Mapping[str, Array], dtype: str, floor_s: float, reuse: Sequence[Array]
    ) -> Terms:
        """One launch of `kernel` in a pass, at the sizes in `values`; never below `floor_s`.

        `reuse`: for each input, the bytes touched since it was last used.
        """
        match kernel.shape:
            case Gemm(batch, m, n, k, layout):
                count, rows, columns, depth = (size.evaluate(values) for size in (batch, m, n, k))
                own_dtype = self.hw.gpu_model.dtype_in_pass(product_dtype(kernel, dtype))
                is_int8 = kernel.shape.dtype == "int8"
                product = partial(
                    gemm_terms, self.hw, own_dtype, element_bytes=1 if is_int8 else ELEMENT_BYTES[own_dtype],
                    batched=kernel.kind == "bmm", input_reuse=reuse[0], weight_reuse=reuse[1],
                    transposed=layout == "TN",
                    stored=_stored(kernel, values) if is_int8 or kernel.shape.unpacks else None,
                )  # fmt: skip
                terms = product(count, rows, columns, depth)
                if kernel.compiled and own_dtype in HALF_FAMILY:
                    row = ROW_BYTES // ELEMENT_BYTES[own_dtype]
                    if np.any(copied := count * _unaligned(rows, columns, depth, layout, row)):
                        moved = copied * ELEMENT_BYTES[own_dtype]
                        padded = product(count, *(row * np.ceil(size / row) for size in (rows, columns, depth)))
                        padded += self.memory("elementwise", own_dtype, moved, moved, 1.0)
                        terms = terms.where(terms.device_s <= padded.device_s, padded)
                elif is_gradient(kernel):
                    terms = with_odd_rows(self.hw, terms, own_dtype, rows, columns, depth, layout)
            case FusedAttention(batch, heads, head_dim, new_tokens, kv_len, masked, backward):
                new, kv = new_tokens.evaluate(values), kv_len.evaluate(values)
                count, many, width = (size.evaluate(values) for size in (batch, heads, head_dim))
                name, kv_reuse = attention_kernel(kernel, values, self.hw, dtype) or "", (reuse[1], reuse[2])
                terms = self.attention(
                    dtype, name, count, many, width, new, kv - new,
                    causal=kernel.shape.causal, masked=masked, kv_reuse=None if backward else kv_reuse,
                    backward=backward,
                )  # fmt: skip
            case Foreach() | None:
                read, write = kernel.reads.evaluate(values), kernel.writes.evaluate(values)
                columns = 1.0  # a compiler's kernels wait for no rows
                if kernel.columns is not None and "+" not in kernel.op:
                    columns = kernel.columns.evaluate(values)
                cold_read, cold_write = self._cold(kernel, values, reuse, read + write)
                own = training_terms(self.hw, kernel, values, columns, floor_s, (cold_read, cold_write))
                return own or memory_terms(
                    self.hw,
                    memory_kind(kernel),
                    read,
                    write,
                    _elements(kernel, values),
                    columns,
                    floor_s,
                    cold_read=cold_read,
                    cold_write=cold_write,
                    indexed=is_indexed(kernel),
                )  # it has the floor in it
        return at_least(floor_s, terms)

    def _cold(
        self, kernel: Kernel, values: Mapping[str, Array], reuse: Sequence[Array], moved_bytes: Array
    ) -> tuple[Array, Array]:
        """How many of the bytes that a kernel reads and writes DRAM moves.

        The memory of a result is soon used again, so that it need not leave L2; but for the KV cache, which stays. A
        distance holds all operands of the kernel that used the tensor last, so also the tensor.
        """
        read: Array = 0.0
        for tensor, distance in zip(kernel.inputs, reuse, strict=True):
            read = read + tensor.bytes.evaluate(values) * missing(self.hw, distance)
        write: Array = 0.0
        for tensor in kernel.outputs:
            size = tensor.bytes.evaluate(values)
            write = write + (size if tensor.name in NEW_CACHE else size * missing(self.hw, moved_bytes))
        return read, write

    def product(
        self, dtype: str, batch: Array, m: Array, n: Array, k: Array, batched: bool, reuse: Array | None = None
    ) -> Terms:
        """`batch` products of (m, k) and (k, n), as the public grids timed them: a Conv1D's, which finds its weights in
        L2 as far as they stay there, or, `batched`, those of eager attention's scores. `reuse`: bytes
        touched between two uses of the (k, n) operand, if not as there."""
        size = ELEMENT_BYTES[dtype]
        return gemm_terms(self.hw, dtype, batch, m, n, k, size, batched=batched, weight_reuse=reuse)

    def attention(
        self, dtype: str, kernel: str, batch: Array, heads: Array, head_dim: Array, new_tokens: Array,
        cached_tokens: Array, causal: bool = True, masked: bool = False, write_cache: bool = False,
        kv_reuse: tuple[Array, Array] | None = None, backward: bool = False,
    ) -> Terms:  # fmt: skip
        """Fused attention by a kernel of `device/sdpa.py`, or (`backward`) its gradients.

        With `write_cache`, the new keys and values are copied into a cache before it: by a kernel of its own, but where
        the device has constants of a serving framework's call, which writes a paged cache itself. `kv_reuse`: see
        `attention_terms`.
        """
        size, sizes = ELEMENT_BYTES[dtype], (batch, heads, head_dim, new_tokens, cached_tokens)
        if kernel == "math":
            terms = self._math(dtype, *sizes, causal=causal, masked=masked, kv_reuse=kv_reuse)
            if backward:  # four products and the gradient of a softmax for two products and a softmax
                terms = terms + terms
        else:
            paged = write_cache and self.hw.gpu_model.writes_cache(kernel)
            terms = attention_terms(
                self.hw, dtype, kernel, *sizes, size,
                causal=causal, masked=masked, write_cache=paged, kv_reuse=kv_reuse, backward=backward,
            )  # fmt: skip
            write_cache = write_cache and not paged
        if not write_cache:
            return terms
        new_bytes = 2.0 * batch * heads * head_dim * new_tokens * size
        return terms + self.memory("copy", dtype, new_bytes, new_bytes, 1.0)

    def _math(
        self, dtype: str, batch: Array, heads: Array, head_dim: Array, new: Array, cached: Array,
        causal: bool, masked: bool, kv_reuse: tuple[Array, Array] | None,
    ) -> Terms:  # fmt: skip
        """Attention as kernels of its own: query and key scaled, scores, a mask added, softmax, context.

        A single query meets every key, so that the causal rule needs no mask.
        """
        pairs, keys, size = batch * heads, new + cached, ELEMENT_BYTES[dtype]
        scores = pairs * new * keys * size
        query, key = pairs * new * head_dim * size, pairs * keys * head_dim * size
        keys_since, values_since = kv_reuse or (None, None)
        terms = self.memory("elementwise", dtype, query, query, 1.0)
        terms += self.memory("elementwise", dtype, key, key, 1.0, keys_since)
        terms += self.product(dtype, pairs, new, keys, head_dim, batched=True)
        terms += self.memory("softmax", dtype, scores, scores, keys)
        terms += self.product(dtype, pairs, new, head_dim, keys, batched=True, reuse=values_since)
        if not (masked or causal):
            return terms
        added = self.memory("elementwise", dtype, scores + new * keys * size, scores, 1.0)
        return (terms + added).where(masked | (new > 1), terms)

    def memory(
        self, kind: str, dtype: str, read_bytes: Array, write_bytes: Array, columns: Array, reuse: Array | None = None
    ) -> Terms:
        """A kernel that moves bytes; `columns` is the length of the rows that it reduces (1 for none). `reuse`: bytes
        touched since what it reads was last used, if not repeated on its own operands."""
        floor_s, elements = self.hw.launch.stream_floor_s, write_bytes / ELEMENT_BYTES[dtype]
        cold = None if reuse is None else read_bytes * missing(self.hw, reuse)
        return memory_terms(self.hw, kind, read_bytes, write_bytes, elements, columns, floor_s, cold_read=cold)

    def improvements(self) -> list[tuple[str, Hardware]]:
        """The device with twice the bandwidth of DRAM, of L2, and with twice the arithmetic."""
        hw, memory, constants = self.hw, self.hw.memory, self.hw.gpu_model
        l2_copy = replace(constants.memory, l2_copy_bytes_per_s=2 * constants.memory.l2_copy_bytes_per_s)
        dram = replace(memory, bandwidth_bytes_per_s=2 * memory.bandwidth_bytes_per_s)
        l2 = replace(memory, l2_bandwidth_bytes_per_s=2 * memory.l2_bandwidth_bytes_per_s)
        faster = replace(constants.with_attention_at(2.0), memory=constants.memory.with_twice_the_arithmetic())
        return [
            ("2x DRAM bandwidth", replace(hw, memory=dram)),
            ("2x L2 bandwidth", replace(hw, memory=l2, model=replace(constants, memory=l2_copy))),
            ("2x FLOP/s", replace(hw, compute=hw.compute.scaled(2.0), model=faster)),
        ]


def _stored(kernel: Kernel, values: Mapping[str, Array]) -> tuple[float, float, float]:
    """Bytes of an element in a product of quantised weights: of the weight with its scales, the input, the result."""
    x, weight, *scales = kernel.inputs
    size = sum(float(tensor.bytes.evaluate(values)) for tensor in (weight, *scales))
    n, k = weight.packs or weight.shape
    elements = float((n * k).evaluate(values))
    return size / elements, float(x.element.evaluate(values)), float(kernel.outputs[0].element.evaluate(values))


def memory_kind(kernel: Kernel) -> str:
    """Which of the memory-bound kinds times `kernel`.

    A fusion with a softmax is timed as a softmax. One with a layer norm moves its bytes as an element-wise kernel does:
    a compiler's layer norm, measured on an A100 (LLMCompass), has none of the waits of PyTorch's own.
    """
    if "_softmax" in kernel.op.split("+"):
        return "softmax"
    if kernel.op == "_to_copy":  # a cast, of elements in a row
        return "elementwise"
    if kernel.kind in ("copy", "gather", "fill"):
        return "cat" if kernel.op == "cat" else kernel.kind
    kinds = {"native_layer_norm": "layer_norm", "where": "where", "div": "scalar_op", "gelu": "gelu"}
    return kinds.get(kernel.op, "elementwise")


def _unaligned(m: Array, n: Array, k: Array, layout: str, row: int) -> Array:
    """Elements of those operands of a product of (m, k) and (k, n) whose rows in memory are no multiple of `row`
    elements: a compiler copies them to pad them."""
    leading = m if layout == "TN" else k
    return m * k * (leading % row > 0) + k * n * ((n % row > 0) | (k % row > 0))


def is_indexed(kernel: Kernel) -> bool:
    """Whether `kernel` computes an index for each element: PyTorch's own copies, which permute, and its element-wise
    kernels that repeat an operand, such as a mask. A number, a cast, an assertion, which writes nothing, and a
    compiler's kernel need none."""
    if kernel.compiled or not kernel.outputs or kernel.op in ("cat", "_to_copy"):
        return False
    out = kernel.outputs[0].elements
    repeats = any(tensor.elements not in (out, formula(1)) for tensor in kernel.inputs)
    return kernel.kind == "copy" or (kernel.kind == "elementwise" and repeats)


def _elements(kernel: Kernel, values: Mapping[str, Array]) -> Array:
    """Elements that a memory-bound kernel writes one by one.

    Keys and values are put behind those of the cache word by word only where the new ones lie in a row: those of one
    token alone, since others are strided views of what `c_attn` returns. What else is concatenated lies in rows, and a
    compiler's kernel copies words anyway.
    """
    elements = kernel.written_elements.evaluate(values)
    if kernel.op != "cat":
        return elements
    if kernel.compiled or kernel.outputs[0].name not in NEW_CACHE:
        return 0.0 * elements
    batch, _, tokens, _ = kernel.inputs[-1].shape
    return elements * ((batch * tokens).evaluate(values) > 1)
