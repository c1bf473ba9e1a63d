"""Dropout in train mode: one kernel that also writes the mask which the backward pass reads."""

from __future__ import annotations

from gpt2cost.table.citations import Citation
from gpt2cost.table.kernel import Free, Kernel, Module, Tensor
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import b8


def drops(options: TableOptions, place: str) -> bool:
    """Whether dropout does anything at `place`: embd, attn or resid."""
    return options.train and place in options.dropout


NOT_CALLED = Module("attn_dropout", "Dropout", ())
"""GPT2Attention's own: its probability is given to other functions, but for the one that it is called in."""


def native_dropout(name: str, x: Tensor, out: Tensor, source: Citation, group: str = "norm") -> Kernel:
    """`x` with some elements set to 0 and the rest scaled, and a boolean mask of those that were kept."""
    mask = Tensor(f"{out.name}.mask", x.shape, b8)
    return Kernel(
        name, "native_dropout", "elementwise", (x,), (out, mask), x.elements, source, fusion_group=group,
        in_module=not name,
    )  # fmt: skip


def dropout(
    name: str, place: str, x: Tensor, out: str, options: TableOptions, source: Citation, keeps: tuple[Tensor, ...] = ()
) -> tuple[Module, Tensor]:
    """The nn.Dropout `name` of `x`: nothing but a call in inference, or where the probability is 0."""
    if not drops(options, place):
        return Module(name, "Dropout", (Free(name, "call", keeps=keeps, inputs=(x,), outputs=(x,)),), passes=x), x
    dropped = Tensor(out, x.shape, x.element)
    return Module(name, "Dropout", (native_dropout("", x, dropped, source),)), dropped
