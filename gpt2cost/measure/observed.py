"""An op or a kernel that took time, as a trace or a record of measurements has it, and what it is called. No torch.

The cost table names one level of the ops that contain each other. `WRAPPERS` are above it and views beside it; the
first op from the top that is neither is taken whole, with everything inside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

ATTENTION = "scaled_dot_product_attention"
ANCHOR = "native_layer_norm"
"""The op whose number tells how many passes a trace holds."""
COMPILED = "triton_"
"""How the names of Inductor's kernels begin, and of what launches them."""
PRODUCTS = frozenset({"_addmm_activation", "addmm", "baddbmm", "bias_addmm", "bmm", "linear", "mm"})
TELLING = PRODUCTS | {ANCHOR, ATTENTION, "cat", "embedding"}
"""The ops whose shapes and types say something of the model."""
WRAPPERS = {
    "alias", "as_strided", "chunk", "contiguous", "detach", "detach_", "dropout", "empty", "empty_like",
    "empty_strided", "expand", "expand_as", "flatten", "_fused_sdp_choice", "is_nonzero", "item", "layer_norm",
    "lift_fresh", "linear", "_local_scalar_dense", "matmul", "movedim", "multinomial", "narrow", "new_empty",
    "numpy_T", "pad", "permute", "reshape", "_reshape_alias", "resize_", "resolve_conj", "resolve_neg", "result_type",
    "scaled_dot_product_attention", "select", "set_", "slice", "softmax", "split", "split_with_sizes", "squeeze", "t",
    "to", "transpose", "type_as", "unbind", "unflatten", "unsafe_split", "_unsafe_view", "unsqueeze", "view",
    "view_as",
}  # fmt: skip
"""Ops that compute nothing themselves: what they contain does. Views and allocations contain nothing that counts."""
LEAVES = {
    "layer_norm": "native_layer_norm",
    "linear": "linear",
    "scaled_dot_product_attention": ATTENTION,
    "softmax": "_softmax",
}
"""Of those what computes where it contains no op, as on Apple's GPUs and in a predicted trace: under which name."""

_ATTENTION_BACKEND = re.compile(
    r"_?(scaled_dot_product|flash|efficient|cudnn)_\w*(attention|attn)\w*|flash_attn\w*::\w+"
)


@dataclass(frozen=True, slots=True)
class Observed:
    """One op that took time, or one kernel of which no op is known.

    `op` is the aten op without `aten::`, of any backend of fused attention `scaled_dot_product_attention`, "" if only
    the kernel is known. `kernels` are names on the device. `seconds` are those of the kernels; where there is no
    device, the op's own. `start_s` counts from the first of a trace; of a record without times, it adds up `seconds`.
    `dims` and `types`: of the op's inputs, where they were recorded. `in_stream`: a predicted kernel's `seconds` are
    its share of a busy stream, which the launch bounds from below; those of a recorded one are its own.
    """

    op: str
    kernels: tuple[str, ...]
    seconds: float
    start_s: float
    dims: Sequence[Any] = ()
    types: Sequence[str] = ()
    in_stream: bool = False


# ------------------------------------------------------------------------------------------------ ops


@lru_cache(10_000)
def table_op(name: str) -> str:
    """An op's name as the cost table has it."""
    op = name.removeprefix("aten::").removeprefix("bitsandbytes::")
    op = LEAVES.get(op, op)
    return ATTENTION if _ATTENTION_BACKEND.fullmatch(op) and op != ATTENTION else op


@lru_cache(10_000)
def counts(name: str) -> bool:
    """Whether an op is at the table's level. What is no `namespace::op` and none of Inductor's is an annotation."""
    namespace, colons, op = name.partition("::")
    is_op = bool(colons) and op.isidentifier() and namespace != "profiler"
    return (is_op and name.removeprefix("aten::") not in WRAPPERS) or name.startswith(COMPILED)


def is_leaf(name: str) -> bool:
    """Whether an op computes where it contains no other."""
    return name.removeprefix("aten::") in LEAVES


def wraps(following: Sequence[str]) -> bool:
    """Whether a `where` only makes a tensor of a Python number and calls `where` again, as what follows it shows."""
    return following[:1] == ["aten::scalar_tensor"] and "aten::where" in following


def embeds(op: str) -> bool:
    """Whether the name of an op is that of an embedding, or of a kernel into which Inductor fused one."""
    return op == "embedding" or (op.startswith(COMPILED) and "embedding" in op)


def pass_starts(ops: Sequence[Observed]) -> list[int]:
    """Where passes begin: with the embedding of their token ids, the first after the layer norms of the pass before.

    In compiled code it is the first kernel, which has a name of its own, and a layer norm in it too.
    """
    first = next((op.op for op in ops if embeds(op.op)), "")
    if first != "embedding":
        return [i for i, op in enumerate(ops) if first and op.op == first]
    starts: list[int] = []
    inside = False
    for i, op in enumerate(ops):
        if op.op == "embedding" and not inside:
            starts.append(i)
            inside = True
        elif op.op == ANCHOR:
            inside = False
    return starts


# ------------------------------------------------------------------------------------------------ products


def product_of(observed: Observed) -> tuple[int, ...]:
    """(m, k, n) of a product of matrices, or (batch, m, k, n) of several; empty for another op and unknown shapes."""
    if observed.op not in PRODUCTS:
        return ()
    has_bias = "add" in observed.op
    sides = [tuple(dim) for dim in observed.dims[has_bias : has_bias + 2]]
    if len(sides) != 2 or len(sides[0]) != len(sides[1]) or not all(_is_size(size) for side in sides for size in side):
        return ()
    left, right = sides
    return (*left, right[-1]) if len(left) in (2, 3) else ()


def _is_size(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool)


def aligned(size: int) -> int:
    """A size as Inductor pads it: to a multiple of 8, 16 bytes in 16 bit."""
    return -(-size // 8) * 8


# ------------------------------------------------------------------------------------------------ labels

KERNEL_LABELS = {
    r"flash|(?i:fmha)|attention|attn_fwd|sdpa": "attention",
    r"CatArrayBatchedCopy|fused_cat": "cat",
    r"layer_?norm|LayerNorm|RowwiseMoments": ANCHOR,
    r"(?i:softmax)": "_softmax",
    r"(?i:gemm|cutlass|nvjet|wgmma|gemv|split_?k)|triton_tem|Cijk_": "product",
    r"indexSelect|index_select|gather|embedding": "embedding",
    r"arange|elementwise_kernel_with_index": "arange",
    r"FillFunctor|fill_kernel": "fill",
    r"copy_kernel|Memcpy DtoD|CopyFunctor|CopyDeviceToDevice|rocclr_copyBuffer": "copy",
    r"where_kernel": "where",
    r"tanh": "tanh",
    r"pow_": "pow",
    r"gelu|Gelu|GELU": "gelu",
    r"Functor\w*_add\b|AddFunctor": "add",
    r"MulFunctor": "mul",
    r"DivFunctor|div_true": "div",
    r"elementwise|triton_poi": "elementwise",
    r"reduce_kernel|triton_(per|red)": "reduction",
}
"""Pattern -> what a kernel's name that holds it says, the first that fits: an op, a kind of kernel, or `product` for
any of matrices. `Cijk_`, `rocclr` and `attn_fwd` are names of AMD's libraries."""

SECOND_KERNEL = re.compile(
    r"(?i:splitk_?reduce|memset|splitkv_?combine)|LayerNormForwardCUDAKernel|rocclr_fillBuffer|PostGSU"
)
"""Kernels that end or prepare the work of a neighbour: one op with the kernel before."""

FROM_HOST = ("Memcpy HtoD", "CopyHostToDevice")
"""How copies from the host begin: of a number, as `torch.tensor(0.0, device=...)` makes it, they are a fill."""
OP_LABELS = {
    "clamp_min": "elementwise", "copy_": "copy", "fill_": "fill", "zero_": "fill", "index_select": "embedding",
    ATTENTION: "attention", "linear": "product", "bias_addmm": "addmm", "_addmm_activation": "addmm",
    "__and__": "bitwise_and", "__or__": "bitwise_or",
}  # fmt: skip
"""Ops that the table has under another name: those that a device profile names by the inner op (`relu` clamps;
`clone`, `_to_copy` and `cat` copy; `zeros` and `scalar_tensor` fill), and attention, by the function that runs it."""


def label_of(observed: Observed) -> str:
    """One of the labels that the kernel of the table has, if the table has it."""
    if observed.op == "_to_copy" and all(name.startswith(FROM_HOST) for name in observed.kernels or ("",)):
        return "fill"
    if observed.op and not observed.op.startswith(COMPILED):
        return OP_LABELS.get(observed.op, observed.op)
    return label_of_kernel(observed.op or observed.kernels[0])


@lru_cache(10_000)
def label_of_kernel(name: str) -> str:
    """The label that a kernel's name says; the name itself where it says none."""
    return next((label for pattern, label in KERNEL_LABELS.items() if re.search(pattern, name)), name)
