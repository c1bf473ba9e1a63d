"""The KV cache of one layer: how new keys and values get into it."""

from __future__ import annotations

from gpt2cost.table.builders import copy, fill, pointwise, tensor
from gpt2cost.table.citations import cite
from gpt2cost.table.kernel import Kernel, Tensor
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import B, C, H, T, hd, i64


def cache_update(new: tuple[Tensor, Tensor], full: tuple[Tensor, Tensor], options: TableOptions) -> tuple[Kernel, ...]:
    """`Cache.update` of one layer: a dynamic cache is concatenated anew, a static one gets the new rows written in."""
    file = "cache_utils.py"
    if not options.use_cache:
        return ()
    if options.cache_type == "dynamic":
        past = (tensor(f"past_{name}", B, H, C, hd) for name in ("key", "value"))
        sources = (cite("DynamicLayer.update", f"self.{name} = torch.cat(", file=file) for name in ("keys", "values"))
        return tuple(
            copy(name, "cat", (old, rows), out, source)
            for name, old, rows, out, source in zip(("cat_key", "cat_value"), past, new, full, sources, strict=True)
        )
    src, first = "StaticLayer.update", C.is_zero()
    arange, position, length = (
        tensor("cache_arange", T, element=i64),
        tensor("cache_position", T, element=i64),
        tensor("length", element=i64),
    )
    index = cite(src, "cache_position = torch.arange(", file=file)
    made = (cite("StaticLayer.lazy_initialization", f"self.{n} = torch.zeros(", file=file) for n in ("keys", "values"))
    write = (cite(src, f"self.{name}.index_copy_(", file=file) for name in ("keys", "values"))
    written = (tensor(f"{name}_rows", B, H, T, hd) for name in ("key", "value"))
    return (
        *(fill(n, "zeros", t, c, first) for n, t, c in zip(("zeros_key", "zeros_value"), full, made, strict=True)),
        fill("cache_arange", "arange", arange, index),
        pointwise("cache_position", "add", (arange, length), position, index),
        pointwise("cache_length", "add_", (length,), length, cite(src, "self.cumulative_length.add_(", file=file)),
        *(
            copy(name, "index_copy_", (position, rows), out, source)
            for name, rows, out, source in zip(("write_key", "write_value"), new, written, write, strict=True)
        ),
    )
