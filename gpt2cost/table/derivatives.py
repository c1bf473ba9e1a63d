"""The derivative of each op of the forward pass: the kernels that its node runs, as torch's derivatives.yaml has them.

A rule emits kernels in torch's order (that of the names of an op's operands: a product's second operand first) and
returns the gradient of each operand in the order of the op's arguments. What a rule reads of the forward's tensors is
what autograd saves.
"""

from __future__ import annotations

from dataclasses import replace

from gpt2cost.table.backward import Gives, Grad, Rule, Tape, short_name
from gpt2cost.table.builders import weight
from gpt2cost.table.formula import ALWAYS, NEVER, formula, symbol
from gpt2cost.table.kernel import FusedAttention, Gemm, Tensor
from gpt2cost.table.symbols import D, V, b8

EMBEDDINGS = {"wte": V, "wpe": symbol("n_positions")}
"""Embeddings by name -> their rows."""


def _products(tape: Tape, grad: Grad, x: Tensor, weight: Tensor, *, input_first: bool = False) -> tuple[Grad, Grad]:
    """The gradients of the operands of a product of (m, k) and (k, n): `x` (m, k), and `weight` (k, n).

    nn.Linear's weight lies transposed, and so does its gradient: a product of (n, m) and (m, k). A batch of products
    writes by heads; the gradient of keys, which are read transposed, is written transposed. An operand that needs no
    gradient has no product.
    """
    kernel, g = tape.kernel, grad.tensor
    shape, is_batch = kernel.shape, kernel.kind == "bmm"
    assert isinstance(shape, Gemm)
    reads_transposed = shape.layout == "NT"
    of_x = Gemm(shape.batch, shape.m, shape.k, shape.n, "NN" if reads_transposed else "NT")
    of_weight, reads = Gemm(shape.batch, shape.k, shape.n, shape.m, "TN"), (x, g)
    if reads_transposed and not is_batch:
        of_weight, reads = Gemm(shape.batch, shape.n, shape.k, shape.m, "TN"), (g, x)
    plan = {"weight": (weight, reads, of_weight), "input": (x, (g, weight), of_x)}
    made = {"input": g}
    for role in reversed(plan) if input_first else plan:
        of, operands, product = plan[role]
        if not tape.needs(of):
            continue
        name = f"grad_{short_name(of) if is_batch else role}"
        op = "bmm" if is_batch else "mm"
        made[role] = tape.emit(name, op, kernel.kind, operands, (tape.part(of),), kernel.flops, product)
        if shape.scaled:
            made[role] = tape.pointwise(f"{name}.scale", "mul", (made[role],), tape.part(of))
    by_head = ALWAYS if is_batch else NEVER
    return Grad(made["input"], by_head=by_head), Grad(made["weight"], by_head=NEVER if reads_transposed else by_head)


def _addmm(tape: Tape, grad: Grad) -> Gives:
    x, weight, bias = tape.kernel.inputs
    of_x, of_weight = _products(tape, grad, x, weight, input_first=True)
    total = tape.part(bias)
    tape.emit("grad_bias", "sum", "reduction", (grad.tensor,), (total,), grad.tensor.elements)
    return [(bias, Grad(total)), (x, of_x), (weight, of_weight)]


def _mm(tape: Tape, grad: Grad) -> Gives:
    x, weight = tape.kernel.inputs
    of_x, of_weight = _products(tape, grad, x, weight)
    return [(x, of_x), (weight, of_weight)]


def _baddbmm(tape: Tape, grad: Grad) -> Gives:
    """The scores of upcast attention, scaled in the product: each gradient is scaled on its own."""
    query, key = tape.kernel.inputs
    of_query, of_key = _products(tape, grad, query, key, input_first=True)
    return [(query, of_query), (key, of_key)]


def _native_layer_norm(tape: Tape, grad: Grad) -> Gives:
    """Twice the arithmetic of the forward."""
    (x, *weights), (_, mean, rstd) = tape.kernel.inputs, tape.kernel.outputs
    parts = tuple(map(tape.part, tape.kernel.inputs))
    reads = (grad.tensor, x, mean, rstd, *weights)
    tape.emit("backward", "native_layer_norm_backward", "reduction", reads, parts, 2 * tape.kernel.flops)
    return [(tensor, Grad(part)) for tensor, part in zip(tape.kernel.inputs, parts, strict=True)]


def _embedding(tape: Tape, grad: Grad) -> Gives:
    """The table's gradient, filled with zeros; then each token's is added to its row."""
    index = tape.kernel.inputs[0]
    name = tape.kernel.outputs[0].name
    table = weight(f"{name}.weight", EMBEDDINGS[name], D)
    part = tape.part(table)
    made = tape.emit("grad_weight", "embedding_dense_backward", "gather", (grad.tensor, index), (part,), 0)
    return [(table, Grad(made))]


def _native_dropout(tape: Tape, grad: Grad) -> Gives:
    (x,), (_, mask) = tape.kernel.inputs, tape.kernel.outputs
    return [(x, Grad(tape.pointwise("backward", "native_dropout_backward", (grad.tensor, mask), tape.part(x))))]


def _passed_on(tape: Tape, grad: Grad) -> Gives:
    """Of a sum, a copy, a concatenation: each operand's gradient is the result's, or a view of it."""
    return [(tensor, grad) for tensor in tape.kernel.inputs]


def _mul(tape: Tape, grad: Grad) -> Gives:
    """Of two tensors, or by a number."""
    if len(tape.kernel.inputs) == 1:
        return _by_a_number("mul")(tape, grad)
    x, y = tape.kernel.inputs
    g = grad.tensor
    of_y = tape.pointwise(f"grad_{short_name(y)}", "mul", (g, x), tape.part(y, tape.wide(g, x)))
    of_x = tape.pointwise(f"grad_{short_name(x)}", "mul", (g, y), tape.part(x, tape.wide(g, y)))
    return [(x, Grad(of_x)), (y, Grad(of_y))]


def _by_a_number(op: str) -> Rule:
    """By a number, which an older transformers had as a tensor."""

    def rule(tape: Tape, grad: Grad) -> Gives:
        x, *number = tape.kernel.inputs
        part = tape.part(x, tape.wide(grad.tensor))
        return [(x, Grad(tape.pointwise("grad", op, (grad.tensor, *number), part)))]

    return rule


def _masked_fill(tape: Tape, grad: Grad) -> Gives:
    """Zero where the mask is set."""
    mask, x = tape.kernel.inputs[:2]
    made = tape.emit("backward", "masked_fill", "copy", (grad.tensor, mask), (tape.part(x),), x.elements)
    return [(x, Grad(made))]


def _chain(*ops: tuple[str, str]) -> Rule:
    """Kernels in a row; each reads the input (i), the output (o), the last result (r) or the gradient (g)."""

    def rule(tape: Tape, grad: Grad) -> Gives:
        (x,), y, last = tape.kernel.inputs, tape.kernel.outputs[0], grad.tensor
        for place, (op, reads) in enumerate(ops):
            read = tuple({"i": x, "o": y, "r": last, "g": grad.tensor}[letter] for letter in reads)
            name = "backward" if place == len(ops) - 1 else f"backward_{op}"
            last = tape.pointwise(name, op, read, tape.part(x, tape.wide(*read)))
        return [(x, Grad(last))]

    return rule


def _clamp(tape: Tape, grad: Grad) -> Gives:
    """Zero outside of the bounds."""
    (x,), g = tape.kernel.inputs, grad.tensor
    part = tape.part(x)
    zero = Tensor(f"{part.name}.zero", (), x.element)
    above, below, inside = (Tensor(f"{part.name}.{name}", x.shape, b8) for name in ("above", "below", "inside"))
    tape.emit("backward_zero", "scalar_tensor", "fill", (), (zero,), 0)
    tape.pointwise("backward_ge", "ge", (x,), above)
    tape.pointwise("backward_le", "le", (x,), below)
    tape.pointwise("backward_and", "logical_and_", (above, below), inside)
    return [(x, Grad(tape.pointwise("backward", "where", (inside, g, zero), part)))]


def _softmax(op: str) -> Rule:
    """Four operations an element: the product with the result, its sum, and what is subtracted and scaled."""

    def rule(tape: Tape, grad: Grad) -> Gives:
        x, y = tape.kernel.inputs[0], tape.kernel.outputs[0]
        made = tape.emit("backward", op, "reduction", (grad.tensor, y), (tape.part(x),), 4 * x.elements)
        return [(x, Grad(made))]

    return rule


def _nll_loss(tape: Tape, grad: Grad) -> Gives:
    """Zeros, and one number a token. Autograd keeps what the loss was taken of, and asks its size alone: no byte."""
    (picked, labels), (_, total) = tape.kernel.inputs, tape.kernel.outputs
    whole = tape.made[picked.view_of]
    reads = (grad.tensor, replace(whole, element=formula(0)), labels, total)
    made = tape.emit("backward", "nll_loss_backward", "fill", reads, (tape.part(whole),), 0)
    return [(whole, Grad(made))]


def _index(tape: Tape, grad: Grad) -> Gives:
    """Zeros, to some of whose rows the gradient is added in place; of a view, put into zeros like its tensor."""
    (x, *places), g = tape.kernel.inputs, grad.tensor
    whole = tape.made.get(x.view_of, x)
    made = tape.emit("grad_zeros", "new_zeros", "fill", (), (tape.part(x),), 0)
    rows = replace(made, shape=g.shape)
    tape.emit("grad", "index_put", "gather", (rows, *places, g), (rows,), 0)
    if whole is not x:
        made = tape.emit("backward", "select_backward", "fill", (made,), (tape.part(whole),), 0)
    return [(whole, Grad(made))]


def _to_copy(tape: Tape, grad: Grad) -> Gives:
    (x,) = tape.kernel.inputs
    cast = tape.part(x)
    if tape.kernel.when != ALWAYS:
        cast = replace(cast, view_of=grad.tensor.name)
    made = tape.emit("grad", "_to_copy", "copy", (grad.tensor,), (cast,), 0)
    return [(x, Grad(made, by_head=grad.by_head))]


def _fused_attention(op: str, keeps_layout: bool) -> Rule:
    """One kernel: the scores are computed anew, five products in all for the forward's two.

    `keeps_layout`: the gradients lie as the operands do; otherwise by tokens.
    """

    def rule(tape: Tape, grad: Grad) -> Gives:
        kernel = tape.kernel
        assert isinstance(kernel.shape, FusedAttention)
        operands = tuple(filter(tape.needs, kernel.inputs))
        parts = tuple(map(tape.part, operands))
        reads = (grad.tensor, *kernel.inputs, *kernel.outputs)
        flops = 10 * kernel.shape.batch * kernel.shape.heads * kernel.shape.new_tokens * kernel.shape.kv_len
        tape.emit(
            "backward", op, "attention", reads, parts, flops * kernel.shape.head_dim,
            replace(kernel.shape, backward=True),
        )  # fmt: skip
        return [
            (x, Grad(part, kernel.when, kernel.when if keeps_layout and x.by_head else NEVER))
            for x, part in zip(operands, parts, strict=True)
        ]

    return rule


def _one(op: str, reads: str) -> Rule:
    return _chain((op, reads))


DERIVATIVES: dict[str, Rule] = {
    "addmm": _addmm,
    "mm": _mm,
    "bmm": _mm,
    "baddbmm": _baddbmm,
    "native_layer_norm": _native_layer_norm,
    "embedding": _embedding,
    "native_dropout": _native_dropout,
    "add": _passed_on,
    "sub": _passed_on,
    "cat": _passed_on,
    "clone": _passed_on,
    "mul": _mul,
    "div": _by_a_number("div"),
    "pow": _chain(("pow", "i"), ("mul", "r"), ("mul", "gr")),
    "tanh": _one("tanh_backward", "go"),
    "sigmoid": _one("sigmoid_backward", "go"),
    "relu": _one("threshold_backward", "go"),
    "gelu": _one("gelu_backward", "gi"),
    "silu": _one("silu_backward", "gi"),
    "mish": _one("mish_backward", "gi"),
    "hardswish": _one("hardswish_backward", "gi"),
    "hardtanh": _one("hardtanh_backward", "gi"),
    "leaky_relu": _one("leaky_relu_backward", "gi"),
    "softplus": _one("softplus_backward", "gi"),
    "clamp": _clamp,
    "erf": _chain(("pow", "i"), ("neg", "r"), ("exp", "r"), ("mul", "r"), ("mul", "gr")),
    "sqrt": _chain(("mul", "o"), ("div", "gr")),
    "_softmax": _softmax("_softmax_backward_data"),
    "_log_softmax": _softmax("_log_softmax_backward_data"),
    "nll_loss_forward": _nll_loss,
    "masked_fill": _masked_fill,
    "index": _index,
    "_to_copy": _to_copy,
    "_scaled_dot_product_flash_attention": _fused_attention("_scaled_dot_product_flash_attention_backward", True),
    "_scaled_dot_product_efficient_attention": _fused_attention(
        "_scaled_dot_product_efficient_attention_backward", False
    ),
    "flash_attn_func": _fused_attention("flash_attn_backward", True),
}
"""Op of the forward -> its rule."""
