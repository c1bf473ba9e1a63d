"""The compiled table is derived from the eager one: the same arithmetic, fewer bytes, fewer launches.

Numbers of tokens and masks are the exception: they are computed wherever they are read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from helpers import values
from hypothesis import given
from hypothesis import strategies as st

from gpt2cost.table.activations import ACTIVATIONS
from gpt2cost.table.config import load_model
from gpt2cost.table.fusion import fuse, parts_of
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.inlining import MASK, NUMBERS
from gpt2cost.table.kernel import FusedAttention, Gemm, Kernel, Row, walk
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS, TableOptions
from gpt2cost.table.symbols import B, D, F, T, a, w

MODEL = load_model("distilgpt2")

options = st.builds(
    TableOptions,
    attn=st.sampled_from(ATTENTION_IMPLEMENTATIONS),
    activation_function=st.sampled_from(sorted(ACTIVATIONS)),
    reorder_and_upcast_attn=st.booleans(),
    use_cache=st.booleans(),
    logits=st.sampled_from(["all", "last"]),
)


def tables(chosen: TableOptions) -> tuple[list[Row], list[Row]]:
    rows = list(walk(cost_table(chosen)))
    return rows, fuse(rows)


def launched(rows: list[Row], sizes: dict[str, int]) -> list[tuple[Row, Kernel, int]]:
    """The kernels that run at these sizes, and how often."""
    kernels = [(row, row.step) for row in rows if isinstance(row.step, Kernel)]
    return [(row, k, row.count.evaluate(sizes)) for row, k in kernels if k.when.evaluate(sizes)]


def total(rows: list[Row], figure: str, sizes: dict[str, int]) -> int:
    return sum(getattr(kernel, figure).evaluate(sizes) * count for _, kernel, count in launched(rows, sizes))


def arithmetic(rows: list[Row], sizes: dict[str, int]) -> int:
    """All FLOPs but those of what is computed where it is read."""
    return sum(
        part.step.flops.evaluate(sizes) * count
        for row, _, count in launched(rows, sizes)
        for part in parts_of(row)
        if isinstance(part.step, Kernel) and part.step.fusion_group not in (NUMBERS, MASK)
    )


@given(options, st.integers(1, 4), st.integers(1, 40), st.integers(0, 40))
def test_flops_are_conserved_and_bytes_never_grow(chosen: TableOptions, batch: int, seq: int, cache: int) -> None:
    rows, fused = tables(chosen)
    sizes = values(MODEL, "fp16", batch, seq, cache if chosen.use_cache else 0)
    assert arithmetic(fused, sizes) == arithmetic(rows, sizes)
    assert total(fused, "flops", sizes) >= arithmetic(rows, sizes)
    assert total(fused, "reads", sizes) < total(rows, "reads", sizes)
    assert total(fused, "writes", sizes) < total(rows, "writes", sizes)
    assert sum(count for *_, count in launched(fused, sizes)) < sum(count for *_, count in launched(rows, sizes))


@given(options)
def test_products_and_fused_attention_are_left_alone(chosen: TableOptions) -> None:
    """But that a compiler calls them, as it does all that it runs."""

    def products(rows: list[Row]) -> list[Any]:
        kept = (
            row for row in rows if isinstance(row.step, Kernel) and isinstance(row.step.shape, Gemm | FusedAttention)
        )
        return [(row.module, replace(row.step, compiled=False), row.count) for row in kept]

    rows, fused = tables(chosen)
    assert not any(row.step.compiled for row in rows if isinstance(row.step, Kernel))
    assert all(row.step.compiled for row in fused if isinstance(row.step, Kernel))
    assert products(fused) == products(rows)


@given(options)
def test_rows_are_numbered_by_their_place(chosen: TableOptions) -> None:
    for rows in tables(chosen):
        assert [row.index for row in rows] == list(range(len(rows)))


@given(options)
def test_every_input_was_made_before(chosen: TableOptions) -> None:
    """What a fused kernel reads is a weight, an input of the model, or the output of another kernel.

    One name differs: the last layer's turn of mlp_residual+ln_1 makes what lm_head reads under the name of ln_f.
    """
    rows, fused = tables(chosen)
    made = {t.name for row in rows if isinstance(row.step, Kernel) for t in row.step.outputs}
    left = {t.name for row in fused if isinstance(row.step, Kernel) for t in row.step.outputs}
    needed = {t.name for row in fused if isinstance(row.step, Kernel) for t in row.step.inputs}
    assert (needed & made) - left <= {"ln_f"}


def test_the_gelu_chain_is_one_kernel() -> None:
    _, fused = tables(TableOptions())
    (gelu,) = (row.step for row in fused if row.module == "transformer.h.mlp.act" and isinstance(row.step, Kernel))
    assert gelu.op == "mul+pow+mul+add+mul+tanh+add+mul"
    assert gelu.reads == gelu.writes == B * T * F * a
    assert gelu.flops == 8 * B * T * F


def test_residual_and_layer_norm_merge_across_the_block_boundary() -> None:
    _, fused = tables(TableOptions())
    by_name = {row.path: row.step for row in fused if isinstance(row.step, Kernel)}
    inner = by_name["transformer.h.attn_residual+ln_2"]
    outer = by_name["transformer.h.mlp_residual+ln_1"]
    for kernel in (inner, outer):  # two residual streams and the norm's weights in; the sum and the normed out
        assert isinstance(kernel, Kernel)
        assert kernel.reads == 2 * B * T * D * a + 2 * D * w
        assert kernel.flops == 9 * B * T * D
    assert "transformer.ln_f" not in by_name, "the last block's turn of mlp_residual+ln_1 stands for it"
    assert "transformer.wte+wpe+add+ln_1" in by_name, "the first block's, before the loop"


# A layer: c_attn, two cats, attention, c_proj, residual + ln_2, c_fc, gelu, c_proj, residual + ln. Around the layers:
# the embeddings with the first ln_1, and lm_head. A mask is a kernel of each layer in sdpa, and in eager none.
@pytest.mark.parametrize(
    ("attn", "point", "a_layer", "around"),
    [
        ("sdpa", (8, 512, 0), 10, 2),
        ("sdpa", (1, 1, 64), 10, 2),
        ("sdpa", (8, 512, 1024), 11, 2),
        ("flash_attention_2", (8, 512, 1024), 10, 2),
        ("eager", (1, 1, 64), 12, 2),  # scores, softmax, context
        ("eager", (1, 40, 0), 13, 2),  # and the copy that merges the heads
        ("eager", (8, 512, 0), 14, 2),  # and the copy of the query
    ],
)
def test_launches(attn: Any, point: tuple[int, int, int], a_layer: int, around: int) -> None:
    _, fused = tables(TableOptions(attn))
    count = sum(count for *_, count in launched(fused, values(MODEL, "fp16", *point)))
    assert count == a_layer * MODEL.n_layer + around
