"""The backward pass, derived from the rows of the forward: reverse mode over kernels, as torch's autograd runs it.

Nodes run in the reverse order of the forward's. A node emits its kernels by the rule of its op (`derivatives.py`); the
engine then brings each gradient to the shape (a sum over what was broadcast) and dtype (a cast) of the tensor that it
is of, and adds it to what has arrived there. Views are free; a gradient whose memory does not allow the view back is
copied. The gradients of the slices of one tensor are put together by one cat. A weight takes its first gradient as it
is; those of a tied one are added.

The repeated block is gone through once, as in the forward: what enters it bears one name before and after.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from gpt2cost.errors import InputError
from gpt2cost.table.formula import ALWAYS, NEVER, Condition, Formula, formula
from gpt2cost.table.kernel import FusedAttention, Gemm, Kernel, Kind, Row, Tensor
from gpt2cost.table.qkv import HALF, SPLIT_HEADS_COPY
from gpt2cost.table.symbols import B, D, H, T, a, f32, w


@dataclass(frozen=True)
class Grad:
    """The gradient of a tensor, the condition under which it exists, and that under which it lies by heads."""

    tensor: Tensor
    when: Condition = ALWAYS
    by_head: Condition = NEVER


@dataclass
class Tape:
    """The backward rows so far, and the gradients that wait for the kernel which made their tensor."""

    autocast: bool
    made: dict[str, Tensor]  # by the forward's kernels
    needed: set[str]  # tensors that depend on a weight
    slice_of: dict[str, str]  # a view that is no whole tensor's -> its tensor
    tied: bool
    rows: list[Row] = field(default_factory=list)
    grads: dict[str, Grad] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)
    final: dict[str, str] = field(default_factory=dict)  # a gradient's name while it grows -> its own
    taken: dict[str, Grad] = field(default_factory=dict)  # what was taken stays for a kernel that is an alternative
    at: Row | None = None  # the forward row whose node runs

    def needs(self, tensor: Tensor) -> bool:
        return tensor.is_weight or tensor.name in self.needed or tensor.view_of in self.needed

    # ------------------------------------------------------------------------------------------ what rules call

    @property
    def kernel(self) -> Kernel:
        """The forward kernel whose node runs."""
        assert self.at is not None
        assert isinstance(self.at.step, Kernel)
        return self.at.step

    def part(self, of: Tensor, element: Formula | None = None) -> Tensor:
        """A tensor for a gradient of `of`, with elements of the size `element` instead of its own."""
        count = self.arrived[of.name] = self.arrived.get(of.name, -1) + 1
        return Tensor(f"{of.name}.grad.{count}", of.shape, of.element if element is None else element)

    def wide(self, *tensors: Tensor) -> Formula:
        """The size of the elements of what is computed from `tensors`: float32 where one of them is."""
        sizes = {tensor.element for tensor in tensors}
        return f32 if f32 in sizes or (self.autocast and w in sizes) else a

    def emit(
        self,
        name: str,
        op: str,
        kind: Kind,
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        flops: Formula | int,
        shape: Gemm | FusedAttention | None = None,
        when: Condition = ALWAYS,
        in_node: bool = True,
    ) -> Tensor:
        """One more kernel of the node; its first output. Not `in_node`: it runs where the node's own does not too."""
        assert self.at is not None
        source = self.kernel
        group = source.fusion_group and f"{source.fusion_group}.grad"
        label = ".".join(filter(None, (source.name, name)))
        columns = source.columns if op.endswith(("softmax_backward_data", "layer_norm_backward")) else None
        step = Kernel(
            label, op, kind, inputs, outputs, formula(flops), source.source, source.when & when if in_node else when,
            shape, columns,
            group if kind in ("elementwise", "reduction", "copy", "fill") else "",
        )  # fmt: skip
        self.rows.append(Row(self.at.module, step, self.at.count, len(self.rows)))
        return outputs[0]

    def pointwise(self, name: str, op: str, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        return self.emit(name, op, "elementwise", inputs, (out,), out.elements)

    # ------------------------------------------------------------------------------------------ the engine

    def node(self, gives: Sequence[tuple[Tensor, Grad]]) -> None:
        """The end of a node: each gradient is made like its tensor, and then each is added to what is there."""
        ready = [(tensor, self.validated(tensor, grad)) for tensor, grad in gives if self.needs(tensor)]
        for tensor, grad in ready:
            self.accumulate(tensor, grad)

    def validated(self, tensor: Tensor, grad: Grad) -> Grad:
        made, label = grad.tensor, short_name(tensor)
        if made.elements != tensor.elements:
            total = replace(self.part(tensor, made.element), view_of=made.name)
            lacks_batch = len(tensor.shape) < len(made.shape)  # then it is summed over a batch of one too
            shrinks = ALWAYS if lacks_batch else made.elements > tensor.elements
            self.emit(f"grad_{label}", "sum", "reduction", (made,), (total,), made.elements, when=shrinks)
            made = total
        if self.wide(made) != self.wide(tensor):
            cast = replace(self.part(tensor), view_of=made.name)
            self.emit(f"grad_{label}.cast", "_to_copy", "copy", (made,), (cast,), 0, when=HALF)
            made = cast
        return replace(grad, tensor=made)

    def accumulate(self, tensor: Tensor, grad: Grad) -> None:
        """Slices of another tensor wait under their own name; any other view under that of its tensor."""
        name = tensor.name
        if self.tied and name == "lm_head.weight":
            self.finish(name, grad)
            name = "wte.weight"
        base = self.made.get(tensor.view_of)
        if name not in self.made and base is not None and base.elements == tensor.elements:
            name = base.name
            if len(tensor.shape) > len(base.shape):  # it is by heads, and its tensor by tokens
                grad = Grad(self.by_token(tensor.name, grad, base.shape[1]), grad.when)
        there = self.grads.get(name)
        if there is None:
            self.grads[name] = grad
        elif there.when.excludes(grad.when):
            self.final[grad.tensor.name] = there.tensor.name
            self.grads[name] = replace(there, when=there.when | grad.when, by_head=there.by_head | grad.by_head)
        else:
            both = self.part(tensor)
            self.emit(
                f"grad_{short_name(tensor)}.add", "add", "elementwise", (there.tensor, grad.tensor), (both,),
                both.elements, when=there.when & grad.when,
            )  # fmt: skip
            self.grads[name] = Grad(both, there.when | grad.when)

    def take(self, tensor: Tensor) -> Grad | None:
        """The whole gradient of what a kernel made, when all that read it have run."""
        slices = [name for name in self.grads if name not in self.made and self.slice_of.get(name) == tensor.name]
        if slices:
            parts = [self.by_token(name, self.grads.pop(name), tensor.shape[1]) for name in slices]
            whole = self.part(tensor)
            self.emit("grad_split", "cat", "copy", tuple(parts), (whole,), 0)
            self.grads[tensor.name] = Grad(whole)
        grad = self.grads.pop(tensor.name, None) or self.taken.get(tensor.name)
        if grad is None:
            return None
        self.taken[tensor.name] = grad
        self.finish(tensor.name, grad)
        if tensor.by_head and self.kernel.kind == "bmm" and not grad.by_head.any_of:
            copied = replace(self.part(tensor), view_of=grad.tensor.name)
            when = SPLIT_HEADS_COPY & (T > 1)
            self.emit("grad_clone", "clone", "copy", (grad.tensor,), (copied,), 0, when=when)
            return replace(grad, tensor=copied)
        return grad

    def by_token(self, name: str, grad: Grad, tokens: Formula) -> Tensor:
        """The gradient of a view by heads of a tensor by tokens, (B, tokens, D), copied where it lies by heads."""
        turned = (B, tokens, D)
        if not grad.by_head.any_of:
            return replace(grad.tensor, shape=turned)
        copied = Tensor(f"{name}.grad.tokens", turned, grad.tensor.element, view_of=grad.tensor.name)
        when = grad.by_head & (tokens > 1) & (H > 1)
        self.emit(f"grad_{name}", "clone", "copy", (grad.tensor,), (copied,), 0, when=when, in_node=False)
        return copied

    def finish(self, name: str, grad: Grad) -> None:
        """Give a gradient that has grown to its whole the name of its tensor."""
        if grad.tensor.name.startswith(f"{name}.grad."):
            self.final[grad.tensor.name] = f"{name}.grad"

    def finished(self) -> tuple[Row, ...]:
        """The rows, with the gradients of the weights and of all else under their final names."""
        for name, grad in self.grads.items():
            self.finish(name, grad)

        def own(tensor: Tensor) -> Tensor:
            name, view_of = tensor.name, tensor.view_of
            while name in self.final:
                name = self.final[name]
            while view_of in self.final:
                view_of = self.final[view_of]
            return (
                tensor
                if (name, view_of) == (tensor.name, tensor.view_of)
                else replace(tensor, name=name, view_of=view_of)
            )

        rows = []
        for row in self.rows:
            assert isinstance(row.step, Kernel)
            step = replace(row.step, inputs=tuple(map(own, row.step.inputs)), outputs=tuple(map(own, row.step.outputs)))
            rows.append(replace(row, step=step))
        return tuple(rows)


Gives: TypeAlias = list[tuple[Tensor, Grad]]
"""The gradients of a node's operands, in the order of its op's arguments."""
Rule: TypeAlias = Callable[[Tape, Grad], Gives]
"""From the gradient of what a kernel made to those of what it read; emits kernels."""


def short_name(tensor: Tensor) -> str:
    """The last part of a tensor's name; a cast or a copy bears that of what it is made of."""
    return re.sub(r"(\.(cast|copy|float32))+$", "", tensor.name).rpartition(".")[2]


def backward(forward: Sequence[Row], derivatives: Mapping[str, Rule], autocast: bool, tied: bool) -> tuple[Row, ...]:
    """The rows of the backward pass of `forward`, whose last kernel makes the loss; numbered from 0.

    Raises `InputError` for an op whose derivative is not known.
    """
    kernels = [row for row in forward if isinstance(row.step, Kernel)]
    steps = [row.step for row in kernels if isinstance(row.step, Kernel)]
    made = {tensor.name: tensor for step in steps for tensor in step.outputs}
    views = {t.name: t.view_of for step in steps for t in step.inputs if t.view_of and t.name not in made}
    tape = Tape(autocast, made, set(), views, tied)
    for step in steps:
        if any(map(tape.needs, step.inputs)):
            tape.needed.add(step.outputs[0].name)
    for row, step in zip(reversed(kernels), reversed(steps), strict=True):
        tape.at = row
        if step.outputs[0].name not in tape.needed:
            continue
        if not tape.rows:
            seed = tape.part(step.outputs[0])
            tape.emit("grad", "ones_like", "fill", (), (seed,), 0)
            tape.grads[step.outputs[0].name] = Grad(seed)
        if step.op not in derivatives:
            raise InputError(f"training: the gradient of {step.op} is not modelled")
        if grad := tape.take(step.outputs[0]):
            tape.node(derivatives[step.op](tape, grad))
    return tape.finished()
