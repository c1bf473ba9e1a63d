"""The KV cache of one layer: how new keys and values get into it."""

from __future__ import annotations

from gpt2cost.table.builders import copy, fill, pointwise, tensor
from gpt2cost.table.citations import cite
from gpt2cost.table.formula import ALWAYS, Condition, Formula, formula
from gpt2cost.table.inlining import NUMBERS
from gpt2cost.table.kernel import Kernel, Tensor
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import B, C, H, hd, i64


def cache_update(
    new: tuple[Tensor, Tensor],
    full: tuple[Tensor, Tensor],
    options: TableOptions,
    past: Formula | int = C,
    when: Condition = ALWAYS,
) -> tuple[Kernel, ...]:
    """`Cache.update` of one layer: a dynamic cache is concatenated anew, a static one gets the new rows written in.

    `new` and `full`: keys and values of the pass, and of the whole cache, which has those of `past` tokens before.
    """
    if not options.use_cache:
        return ()
    return (_dynamic if options.cache_type == "dynamic" else _static)(new, full, formula(past), when)


def _dynamic(
    new: tuple[Tensor, Tensor], full: tuple[Tensor, Tensor], past: Formula, when: Condition
) -> tuple[Kernel, ...]:
    return tuple(
        copy(
            f"cat_{out.name}", "cat", (*((tensor(f"past_{out.name}", B, H, past, hd),) if past else ()), rows), out,
            cite("DynamicLayer.update", f"self.{name} = torch.cat(", file="cache_utils.py"), when,
        )
        for name, rows, out in zip(("keys", "values"), new, full, strict=True)
    )  # fmt: skip


def _static(
    new: tuple[Tensor, Tensor], full: tuple[Tensor, Tensor], past: Formula, when: Condition
) -> tuple[Kernel, ...]:
    src, file, first = "StaticLayer.update", "cache_utils.py", when & C.is_zero()
    tokens, prefix = new[0].shape[2], full[0].name.removesuffix("key")
    arange, position = (tensor(f"{prefix}cache_{name}", tokens, element=i64) for name in ("arange", "position"))
    length = tensor(f"{prefix}length", element=i64)
    index = cite(src, "cache_position = torch.arange(", file=file)
    made = (cite("StaticLayer.lazy_initialization", f"self.{n} = torch.zeros(", file=file) for n in ("keys", "values"))
    write = (cite(src, f"self.{name}.index_copy_(", file=file) for name in ("keys", "values"))
    counted = cite(src, "self.cumulative_length.add_(", file=file)
    written = (tensor(f"{out.name}_rows", B, H, tokens, hd) for out in full)
    return (
        *(fill(f"zeros_{out.name}", "zeros", out, source, first) for out, source in zip(full, made, strict=True)),
        fill(arange.name, "arange", arange, index, when, NUMBERS),
        pointwise(position.name, "add", (arange, length), position, index, when=when, fusion_group=NUMBERS),
        pointwise(f"{prefix}cache_length", "add_", (length,), length, counted, when=when),
        *(
            copy(f"write_{whole.name}", "index_copy_", (position, rows), out, source, when)
            for whole, rows, out, source in zip(full, new, written, write, strict=True)
        ),
    )
