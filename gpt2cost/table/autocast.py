"""Mixed precision: the forward pass as `torch.autocast` runs it, derived from the one without.

Weights stay in float32 (`w_bytes`), and so does everything that no product has made. Each op is of one of torch's
lists for CUDA (`ATen/autocast_mode.h`): products and fused attention run in 16 bit (`a_bytes`), powers, norms, softmax
and losses in float32, and an op of neither list in the widest dtype of its operands. An operand in another dtype is
cast by a kernel of its own. A weight's cast is kept until the forward ends, but no weight is used twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gpt2cost.table.builders import copy
from gpt2cost.table.formula import Formula
from gpt2cost.table.kernel import Free, Kernel, Module, Tensor
from gpt2cost.table.symbols import a, f32, w

LOWER_PRECISION = {
    "addmm", "mm", "bmm", "scaled_dot_product_attention", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "flash_attn_func",
}  # fmt: skip
"""`baddbmm` is of that list too, but where GPT-2 calls it autocast is off."""
FLOAT32 = {"pow", "softplus", "native_layer_norm", "_softmax", "nll_loss_forward"}
"""`_log_softmax` is of that list too, but `F.cross_entropy` tells it the dtype of its logits."""
EXPLICIT = {"_to_copy", "scalar_tensor", "zeros"}
"""Ops that are told the dtype of their result."""
FLOATING = (a, w, f32)


def autocast(module: Module) -> Module:
    """`module`, a model, with its tensors retyped and the casts put in."""
    return _Autocast().module(module)


class _Autocast:
    def __init__(self) -> None:
        self.known: dict[str, Formula] = {}  # tensor -> the size of its elements
        self.casts: dict[str, int] = {}

    def module(self, module: Module) -> Module:
        children: list[Module | Kernel | Free] = []
        for child in module.children:
            if isinstance(child, Module):
                children.append(self.module(child))
            elif isinstance(child, Kernel):
                children.extend(self.kernel(child, conv1d=module.cls == "Conv1D"))
            else:
                keeps, inputs, outputs = (
                    tuple(map(self.retyped, group)) for group in (child.keeps, child.inputs, child.outputs)
                )
                children.append(replace(child, keeps=keeps, inputs=inputs, outputs=outputs))
        return replace(module, children=tuple(children))

    def retyped(self, tensor: Tensor, size: Formula | None = None) -> Tensor:
        """`tensor` with elements of the given size, or of that which it is known to have."""
        size = size or self.known.get(tensor.name) or self.known.get(tensor.view_of)
        if not size or tensor.element not in FLOATING or tensor.is_weight:
            return tensor
        return replace(tensor, element=size)

    def kernel(self, kernel: Kernel, conv1d: bool) -> Iterator[Kernel]:
        inputs = {index: self.retyped(tensor) for index, tensor in enumerate(kernel.inputs)}
        wanted = a if kernel.op in LOWER_PRECISION else f32 if kernel.op in FLOAT32 else None
        for index in _cast_order(len(inputs), conv1d) if wanted else ():
            size = f32 if inputs[index].is_weight else inputs[index].element
            if wanted and size in FLOATING and size != wanted:
                cast = self.cast(kernel, inputs[index], wanted)
                yield cast
                inputs[index] = cast.outputs[0]
        sizes = {f32 if t.element == w else t.element for t in inputs.values() if t.element in FLOATING}
        made = wanted or (a if sizes == {a} else f32)
        first, *others = kernel.outputs
        outputs = (first if kernel.op in EXPLICIT else self.retyped(first, made), *others)
        self.known.update((tensor.name, tensor.element) for tensor in outputs)
        yield replace(kernel, inputs=tuple(inputs[index] for index in range(len(inputs))), outputs=outputs)

    def cast(self, kernel: Kernel, tensor: Tensor, size: Formula) -> Kernel:
        name = f"{tensor.name}.cast"
        self.casts[name] = self.casts.get(name, 0) + 1
        made = Tensor(name if self.casts[name] == 1 else f"{name}_{self.casts[name]}", tensor.shape, size)
        role = tensor.name.rpartition(".")[2] if tensor.is_weight else "input"
        label = ".".join(filter(None, (kernel.name, f"cast_{role}")))
        return copy(label, "_to_copy", tensor, made, kernel.source, kernel.when)


def _cast_order(count: int, conv1d: bool) -> list[int]:
    """The operands in the order in which they are cast: C++ evaluates the arguments of a call from the last.

    A kernel's operands are listed as input, weight, bias; Conv1D calls `addmm(bias, input, weight)`.
    """
    order = list(reversed(range(count)))
    return [*order[1:], order[0]] if conv1d else order
