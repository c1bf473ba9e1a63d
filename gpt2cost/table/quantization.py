"""Linear layers whose weights bitsandbytes has quantised, as transformers puts them in the place of Conv1D and Linear.

Read it beside bitsandbytes' `nn/modules.py` and `backends/cuda/ops.py`, of version 0.50. int8 (`Linear8bitLt`) rounds
the activations too, row by row, multiplies in int8 and scales the result. 4 bit (`Linear4bit`) packs two weights in a
byte and gives 64 of them a scale; few rows are multiplied by one kernel that unpacks as it reads, many by an ordinary
product after a kernel that has unpacked the whole weight: see `fused_4bit`.

Activations are taken to have no outliers: with some, int8 multiplies their columns apart in 16 bit, as many as there
are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from math import prod
from operator import or_

from gpt2cost.table.builders import copy, linear, pointwise, reduction, tensor, weight
from gpt2cost.table.citations import Citation
from gpt2cost.table.formula import ALWAYS, NEVER, Condition, Formula, formula
from gpt2cost.table.fused_4bit import BLOCK, fused_rows
from gpt2cost.table.kernel import Free, Gemm, Kernel, Module, Tensor
from gpt2cost.table.options import Quantization, TableOptions
from gpt2cost.table.symbols import B, D, F, N, T, V, a, b8, f32, i32

INT8 = b8
"""Bytes of an int8, and of two weights of 4 bit: as many as of a boolean."""
FLOAT16 = 2 * b8
"""Bytes of a float16 where activations are float32."""

DOUBLE_BLOCK = 256
"""Scales that share one of the second quantisation."""
CODE_BYTES, DOUBLE_CODE_BYTES, OFFSET_BYTES = 16 * 4, 256 * 4, 4
"""A layer's own copy of the 16 values, of the 256 values that scales are rounded to, and what is taken off scales."""

CALLS_4BIT, CALLS_INT8, CALLS_OUTLIERS = 7, 15, 6
"""What bitsandbytes' own Python takes of the host in a layer, beside its launches, in calls of a module that computes
nothing; the last where int8 looks for outliers. From its code with a library that does nothing, on a CPU: a layer of
4-bit weights took 28 us, one of int8 58 and with outliers looked for 90, of which 10 are torch's ops; a call 3.7."""

LINEARS: tuple[tuple[str, Formula, Formula, bool], ...] = (
    ("attn.c_attn", 3 * D, D, True), ("attn.c_proj", D, D, True), ("crossattention.q_attn", D, D, True),
    ("crossattention.c_attn", 2 * D, D, True), ("crossattention.c_proj", D, D, True), ("mlp.c_fc", F, D, True),
    ("mlp.c_proj", D, F, True), ("lm_head", V, D, False), ("score", N, D, False), ("classifier", N, D, True),
    ("multiple_choice_head.summary", formula(1), D, True),
)  # fmt: skip
"""Every linear layer that a GPT-2 may have: its name without the block's, outputs, inputs, and whether it has a
bias."""
OPS = (
    "int8_vectorwise_quant", "int8_linear_matmul", "int8_mm_dequant", "gemm_4bit", "dequantize_4bit",
    "dequantize_blockwise",
)  # fmt: skip
"""The ops that are bitsandbytes' and not torch's."""
IN_BLOCK = ("attn", "crossattention", "mlp")
"""The modules of a block that have linear layers."""


def projection(
    x: Tensor,
    n: Formula,
    k: Formula,
    path: str,
    source: Citation,
    options: TableOptions,
    *,
    cls: str = "Conv1D",
    bias: bool = True,
    rows: tuple[Formula | int, ...] = (B, T),
    out: str = "",
    when: Condition = ALWAYS,
) -> Module:
    """A Conv1D or Linear, as `builders.linear` has it, or the layer of quantised weights that stands in its place.

    `when`: at which sizes it is called.
    """
    quantised = options.quantization
    if quantised is None or path in quantised.kept:
        module = linear(x, n, k, path, source, cls=cls, bias=bias, rows=rows, out=out)
    else:
        layer = _Layer(x, n, k, path, bias, rows, out or path, quantised)
        is_int8 = quantised.weights == "int8"
        steps = tuple(_int8(layer) if is_int8 else _4bit(layer))
        module = Module(path.rpartition(".")[2], "Linear8bitLt" if is_int8 else "Linear4bit", steps)
    if when == ALWAYS:
        return module
    own = (replace(step, when=step.when & when) for step in module.children if not isinstance(step, Module))
    return replace(module, children=tuple(own))


class _Layer:
    """A layer of quantised weights: its operands, and what it computes in.

    `element`: bytes of an activation that it computes with; `dtype`: their dtype where that is not the model's.
    """

    def __init__(
        self, x: Tensor, n: Formula, k: Formula, path: str, bias: bool, rows: tuple[Formula | int, ...], out: str,
        quantised: Quantization,
    ) -> None:  # fmt: skip
        self.x, self.n, self.k, self.path, self.quantised = x, n, k, path, quantised
        self.rows, self.m = rows, prod(map(formula, rows), start=formula(1))
        self.out = tensor(out, *rows, n)
        self.casts = quantised.computes_in != quantised.dtype
        self.dtype = quantised.computes_in if self.casts else ""
        is_wide, is_model_wide = quantised.computes_in == "fp32", quantised.dtype == "fp32"
        self.element = a if is_wide == is_model_wide else f32 if is_wide else FLOAT16
        self.bias = (replace(weight(f"{path}.bias", n), element=self.element),) if bias else ()

    def named(self, name: str, *dims: Formula | int, element: Formula) -> Tensor:
        """One of its activations."""
        return tensor(f"{self.path}.{name}", *dims, element=element)

    def state(self, name: str, size: Formula | int, element: Formula = f32) -> Tensor:
        """What is stored beside the weights."""
        return replace(weight(f"{self.path}.{name}", formula(size)), element=element)

    def cast_input(self, source: Citation) -> Kernel:
        """The input in what the layer computes in."""
        out = self.named("cast_input", *self.rows, self.k, element=self.element)
        return replace(copy("cast_input", "_to_copy", self.x, out, source), in_module=True)


def _int8(layer: _Layer) -> Iterator[Kernel | Free]:
    """MatMul8bitLt.forward in inference, with the CUDA backend's kernels."""
    quantised, rows, n, k = layer.quantised, layer.rows, layer.n, layer.k
    source = Citation("bnb/functional.py", "int8_vectorwise_quant", "torch.ops.bitsandbytes")
    matmul, scale = (
        Citation("bnb/functional.py", name, "torch.ops.bitsandbytes")
        for name in ("int8_linear_matmul", "int8_mm_dequant")
    )
    x = layer.x
    yield Free("python", "call", CALLS_INT8 + CALLS_OUTLIERS * quantised.finds_outliers)
    yield Free("flatten", "view", 1 + (len(rows) > 1))
    if layer.casts:
        cast = Citation("bnb/_functions.py", "MatMul8bitLt.forward", "A.to(torch.float16)")
        yield layer.cast_input(cast)
        x = layer.cast_input(cast).outputs[0]
    first = not layer.casts
    if quantised.finds_outliers:
        magnitudes = layer.named("abs", *rows, k, element=layer.element)
        outliers, found = layer.named("outliers", *rows, k, element=b8), layer.named("any_outlier", element=b8)
        yield replace(pointwise("abs", "abs", (x,), magnitudes, source), in_module=first)
        yield pointwise("outliers", "ge", (magnitudes,), outliers, source)
        yield reduction("any_outlier", "any", outliers, found, outliers.elements, source)
        yield Free("outlier_sync", "sync")
        first = False
    rounded, row_scales = layer.named("int8", *rows, k, element=INT8), layer.named("row_scales", *rows, element=f32)
    yield Kernel(
        "quantize", "int8_vectorwise_quant", "elementwise", (x,), (rounded, row_scales), rounded.elements, source,
        in_module=first,
    )  # fmt: skip
    if quantised.finds_outliers:
        yield Free("quantize_locals", "view", 0, keeps=(outliers,))
        yield Free("zero_sync", "sync", when=layer.m > 1)
    product = layer.named("int32", *rows, n, element=i32)
    yield Kernel(
        "matmul", "int8_linear_matmul", "gemm",
        (rounded, replace(weight(f"{layer.path}.weight", n, k), element=INT8)), (product,), 2 * layer.m * n * k, matmul,
        shape=Gemm(formula(1), layer.m, n, k, "NT", dtype="int8"),
    )  # fmt: skip
    bias = () if layer.casts else layer.bias
    scaled = layer.out if not layer.casts else layer.named("scaled", *rows, n, element=layer.element)
    inputs = (product, row_scales, layer.state("SCB", n), *bias)
    yield Kernel("dequantize", "int8_mm_dequant", "elementwise", inputs, (scaled,), scaled.elements, scale)
    yield Free("int8_locals", "view", 0, keeps=(rounded, row_scales, product))
    if layer.casts:
        if layer.bias:
            own = replace(layer.bias[0], element=a)
            yield pointwise("bias", "add_", (scaled, own), scaled, scale)
        yield copy("cast_output", "_to_copy", scaled, layer.out, scale)


def _4bit(layer: _Layer) -> Iterator[Kernel | Free]:
    """Linear4bit.forward: the fused kernel, or the weight unpacked and an ordinary product."""
    quantised, rows, n, k, m = layer.quantised, layer.rows, layer.n, layer.k, layer.m
    forward = Citation("bnb/modules.py", "Linear4bit.forward", "x = x.to(self.compute_dtype)")
    fused = Citation("bnb/ops.py", "_gemm_4bit_kernel_impl", "fn(")
    fallback, operators = (
        "_dequant_linear_fallback",
        ("_dequantize_blockwise_impl(", "absmax_dq + absmax_offset", "_dequantize_4bit_impl(", "functional.linear("),
    )
    unnested, shifted, unpack, product = (Citation("bnb/ops.py", fallback, fragment) for fragment in operators)
    x, y = layer.x, layer.out
    yield Free("python", "call", CALLS_4BIT)
    if layer.casts:
        yield layer.cast_input(forward)
        x, y = layer.cast_input(forward).outputs[0], layer.named("wide", *rows, n, element=layer.element)
    packed_bytes, scales, second = _stored(quantised, n, k)
    packed = replace(weight(f"{layer.path}.weight", formula(packed_bytes)), element=INT8, packs=(n, k))
    absmax: Tensor = layer.state("absmax", scales, INT8 if quantised.double else f32)
    nested = (
        (layer.state("nested_absmax", second), layer.state("nested_code", DOUBLE_CODE_BYTES // 4))
        if quantised.double
        else ()
    )
    offset = (layer.state("offset", 1),) if quantised.double else ()
    once = _fused(quantised, m, n, k)
    apart = ~once
    if once.any_of:
        yield Kernel(
            "gemm_4bit", "gemm_4bit", "gemm", (x, packed, absmax, *nested, *offset, *layer.bias), (y,), 2 * m * n * k,
            fused, once, Gemm(formula(1), m, n, k, "NT", dtype=layer.dtype, unpacks=True), in_module=not layer.casts,
        )  # fmt: skip
    if apart.any_of:
        if quantised.double:
            wide, whole = layer.named("scales", scales, element=f32), layer.named("absmax", scales, element=f32)
            yield Kernel(
                "dequantize_absmax", "dequantize_blockwise", "elementwise", (absmax, *nested), (wide,), wide.elements,
                unnested, apart, in_module=not layer.casts,
            )  # fmt: skip
            yield pointwise("offset", "add", (wide, *offset), whole, shifted, when=apart)
            absmax = whole
        dense = layer.named("dequantized", n, k, element=layer.element)
        yield Kernel(
            "dequantize", "dequantize_4bit", "elementwise", (packed, absmax), (dense,), dense.elements, unpack, apart,
            in_module=not layer.casts and not quantised.double,
        )  # fmt: skip
        yield Kernel(
            "matmul", "addmm" if layer.bias else "mm", "gemm", (x, dense, *layer.bias), (y,), 2 * m * n * k, product,
            apart, Gemm(formula(1), m, n, k, "NT", dtype=layer.dtype),
        )  # fmt: skip
    if layer.casts:
        yield copy("cast_output", "_to_copy", y, layer.out, forward)


def _fused(quantised: Quantization, m: Formula, n: Formula, k: Formula) -> Condition:
    """At which rows 4-bit weights are multiplied as they are."""
    numbers = dict(quantised.numbers)
    half, is_fp16 = quantised.computes_in != "fp32", quantised.computes_in == "fp16"
    found = fused_rows(quantised.device, half, is_fp16, n.evaluate(numbers), k.evaluate(numbers))
    conditions = (m.at_most(run[-1]) & (ALWAYS if run[0] == 1 else m > run[0] - 1) for run in found)
    return reduce(or_, conditions, NEVER)


def _stored(quantised: Quantization, n: Formula, k: Formula) -> tuple[int, int, int]:
    """Of a layer of 4-bit weights: bytes of the weights, how many scales they have, and how many those."""
    numbers = dict(quantised.numbers)
    elements = int(n.evaluate(numbers) * k.evaluate(numbers))
    scales = -(-elements // BLOCK)
    return (elements + 1) // 2, scales, -(-scales // DOUBLE_BLOCK)


# ---------------------------------------------------------------------------------------------- what is stored


def layers_of(head: str, crossed: bool) -> Iterator[tuple[str, Formula, Formula, bool]]:
    """The linear layers of a model, as in `LINEARS`. `crossed`: its blocks have cross-attention."""
    heads = {
        "lm": ("lm_head",), "sequence-classification": ("score",), "token-classification": ("classifier",),
        "double-heads": ("lm_head", "multiple_choice_head.summary"), "none": (),
    }[head]  # fmt: skip
    for name, *rest in LINEARS:
        if name in heads or (name.partition(".")[0] in IN_BLOCK and (crossed or "cross" not in name)):
            yield name, *rest  # type: ignore[misc]


def saved_bytes(quantised: Quantization, head: str, crossed: bool, layers: int, w_bytes: int) -> int:
    """By how many bytes quantised weights with their scales are fewer than the same weights in the dtype.

    A bias counts in what it is computed in, which the first pass turns it into.
    """
    numbers, saved = dict(quantised.numbers), 0
    for name, n, k, bias in layers_of(head, crossed):
        if name in quantised.kept:
            continue
        outputs, elements = int(n.evaluate(numbers)), int((n * k).evaluate(numbers))
        stored = elements + 4 * outputs
        if quantised.weights != "int8":
            packed, scales, second = _stored(quantised, n, k)
            own_scales = scales + 4 * second + DOUBLE_CODE_BYTES + OFFSET_BYTES if quantised.double else 4 * scales
            stored = packed + own_scales + CODE_BYTES
            bias_bytes = 4 if quantised.computes_in == "fp32" else 2
            stored += bias * outputs * (bias_bytes - w_bytes)
        saved += (layers if name.partition(".")[0] in IN_BLOCK else 1) * (elements * w_bytes - stored)
    return saved
