"""Every table that can be made: the ways of running a model that have kernels or free steps of their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product

from gpt2cost.table import nanogpt
from gpt2cost.table.accumulation import accumulating
from gpt2cost.table.activations import ACTIVATIONS
from gpt2cost.table.config import load_model
from gpt2cost.table.ddp import copy_rows
from gpt2cost.table.fusion import fuse
from gpt2cost.table.generate_loop import after, before, setup
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.heads import CLASSIFIES
from gpt2cost.table.kernel import Row, walk
from gpt2cost.table.optimizer import DECAYS, OPTIMIZERS, clip_rows, optimizer_rows
from gpt2cost.table.options import (
    ATTENTION_IMPLEMENTATIONS,
    CHECKPOINTING,
    HEADS,
    KERNEL_VARIANTS,
    LOGITS,
    Quantization,
    TableOptions,
)
from gpt2cost.table.training import training_table
from gpt2cost.table.training_fusion import fuse_training

DROPOUT = ("embd", "attn", "resid")
SWITCH = (False, True)


def of_passes() -> Iterator[TableOptions]:
    """HuggingFace's forward passes, and those of other code."""
    caches = ({"use_cache": False}, {}, {"cache_type": "static"})
    for attn, how, padded, traced, in_generate in product(ATTENTION_IMPLEMENTATIONS, caches, SWITCH, SWITCH, SWITCH):
        own = TableOptions(
            attn, padded=padded, traced=traced, in_generate=in_generate, pads_mask=attn == "sdpa", **how,
        )  # fmt: skip
        yield own
        if attn == "eager":
            yield replace(own, reorder_and_upcast_attn=True)
    for name in ACTIVATIONS:
        yield TableOptions(activation_function=name)
    for head, has_pad_token, traced in product(HEADS, SWITCH, SWITCH):
        yield TableOptions(head=head, has_pad_token=has_pad_token, traced=traced)
    for attn, how, traced, in_generate in product(ATTENTION_IMPLEMENTATIONS, caches, SWITCH, SWITCH):
        own = TableOptions(attn, encoder=True, traced=traced, in_generate=in_generate, **how)
        yield own
        if attn == "eager":
            yield replace(own, reorder_and_upcast_attn=True)
    numbers = tuple(load_model("gpt2").symbols().items())
    for weights, dtype, nested in product(("int8", "nf4"), ("fp16", "bf16", "fp32"), SWITCH):
        own = Quantization(weights, nested, nested, dtype, "fp16", ("lm_head",), numbers, (108, 8.0))  # type: ignore[arg-type]
        yield TableOptions(quantization=own)
    for mask, scale in product(KERNEL_VARIANTS["mask"], KERNEL_VARIANTS["scale"]):
        yield TableOptions("eager", variants=(("mask", mask), ("scale", scale)))
    for attn, logits, bias, traced in product(("eager", "sdpa"), LOGITS, SWITCH, SWITCH):
        yield TableOptions(attn, logits=logits, bias=bias, traced=traced, use_cache=False, impl="nanogpt")  # type: ignore[arg-type]


def of_training() -> Iterator[TableOptions]:
    """Forward and backward passes."""
    for attn, dropout, autocast, other in product(ATTENTION_IMPLEMENTATIONS, ((), DROPOUT), SWITCH, SWITCH):
        own = TableOptions(
            attn, dropout=dropout, autocast=autocast, traced=other, tied=other, has_flash=other, train=True
        )
        for encoder in SWITCH:
            own = replace(own, encoder=encoder)
            yield own
            yield replace(own, use_cache=False)
            if attn == "eager":
                yield replace(own, reorder_and_upcast_attn=True, scale_attn_weights=other)
    for head, autocast, pads, traced in product(CLASSIFIES, SWITCH, SWITCH, SWITCH):
        yield TableOptions(head=head, train=True, autocast=autocast, has_pad_token=pads, traced=traced)
    for name, autocast in product(ACTIVATIONS, SWITCH):
        yield TableOptions(activation_function=name, train=True, autocast=autocast)
    for attn, dropout, autocast, bias in product(("eager", "sdpa"), ((), DROPOUT), SWITCH, SWITCH):
        yield TableOptions(
            attn, dropout=dropout, autocast=autocast, bias=bias, train=True, use_cache=False, impl="nanogpt",  # type: ignore[arg-type]
        )  # fmt: skip


def _tables() -> Iterator[tuple[Row, ...]]:
    for options in of_passes():
        rows = tuple(walk(cost_table(options)))
        yield rows
        if options.traced:
            yield fuse(rows)
        if options.impl == "hf":
            yield before(options)
            yield from (after(options, sample) for sample in SWITCH)
    for options, checkpointing in product(of_training(), CHECKPOINTING):
        table = training_table(options, checkpointing)
        yield table.forward
        yield accumulating(table).backward
        if options.traced or options.impl == "nanogpt":
            merged = fuse_training(table, 2 if options.autocast else 4)
            yield from (merged.forward, merged.backward)
    for encoder, several, prompted in product(SWITCH, SWITCH, SWITCH):
        yield setup(TableOptions(encoder=encoder), several, prompted)
    yield from (nanogpt.before(), *(nanogpt.after(sample) for sample in SWITCH))
    hf = (TableOptions(encoder=True), *(TableOptions(head=head) for head in ("lm", *CLASSIFIES)))
    for options, tied in product((*hf, TableOptions(impl="nanogpt")), SWITCH):
        yield from copy_rows(options, tied)
        for optimizer, decay, scaler, clips in product(OPTIMIZERS, DECAYS, SWITCH, SWITCH):
            yield clip_rows(options, tied, scaler)
            yield optimizer_rows(optimizer, options, tied, decay=decay, scaler=scaler, clips=clips)


@cache
def different_rows() -> tuple[Row, ...]:
    """A row for each step that differs from the others by path, op, source or what it is made of; of a kernel that a
    compiler has merged its parts too."""
    found: dict[object, Row] = {}
    for table in _tables():
        for row in table:
            parts = getattr(row.step, "parts", ())
            for each in (row, *parts):
                step = each.step
                own = (each.path, step.op, getattr(step, "source", None), getattr(step, "outputs", ())[:1])
                found.setdefault((own, tuple(part.path for part in getattr(step, "parts", ()))), each)
    return tuple(found.values())
