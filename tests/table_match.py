"""The cost table beside a dispatch trace: the same launches in the same order, with the same figures."""

from __future__ import annotations

import oracle
from helpers import unrolled, values
from oracle import DTYPES
from shapes import assert_kernel_is
from transformers import GPT2Config

from gpt2cost.table.config import load_model
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.heads import CLASSES
from gpt2cost.table.kernel import Free, Kernel, walk
from gpt2cost.table.options import TableOptions

FUSED = {"scaled_dot_product_attention", "flash_attn_func"}


def assert_table_equals_trace(
    config: GPT2Config,
    attn: str,
    dtype: str,
    batch: int,
    seq: int,
    cache: int,
    use_cache: bool = True,
    logits: str = "all",
    padded: bool = False,
    static: int = 0,
    captured: bool = False,
    head: str = "lm",
    encoder: int = 0,
) -> None:
    trace = oracle.trace(
        config, attn, DTYPES[dtype], batch, seq, cache, use_cache, int(logits == "last"), padded, static, captured,
        CLASSES[head], encoder,  # type: ignore[index]
    )  # fmt: skip
    model = load_model(config)
    options = TableOptions(
        attn,  # type: ignore[arg-type]
        config.activation_function,
        config.reorder_and_upcast_attn,
        use_cache,
        logits,  # type: ignore[arg-type]
        padded=padded,
        cache_type="static" if static else "dynamic",
        traced=captured,
        head=head,  # type: ignore[arg-type]
        encoder=encoder > 0,
        has_pad_token=config.pad_token_id is not None,
    )
    sizes = {**values(model, dtype, batch, seq, cache), "encoder_len": encoder}
    sizes["kv_len"] = static or sizes["kv_len"]
    steps = unrolled(list(walk(cost_table(options))), model.n_layer)
    launched = [(module, step) for module, step in steps if step.when.evaluate(sizes)]
    kernels = [(module, step) for module, step in launched if isinstance(step, Kernel)]
    ops = [(launch.module, launch.op) for launch in trace.launches]
    assert [(module, "attention" if k.op in FUSED else k.op) for module, k in kernels] == [
        (module, "attention" if "attention" in op else op) for module, op in ops
    ]
    for (module, kernel), launch in zip(kernels, trace.launches, strict=True):
        where = f"{module} {kernel.name} {kernel.op}"
        assert_kernel_is(kernel, launch, sizes, where)
    assert sum(step.count for _, step in launched if isinstance(step, Free) and step.op == "sync") == trace.syncs
