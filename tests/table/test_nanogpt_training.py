"""The training table of `--impl nanogpt` against a real step of such a model, forward and backward, on meta."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import nanogpt_model
import nanogpt_oracle as oracle
import pytest
import torch
from helpers import values
from nanogpt_model import GPTConfig
from nanogpt_oracle import ODD, model_of, tiny
from oracle import stored_bytes
from training_match import PRECISIONS, assert_equal, saved_bytes, unrolled

from gpt2cost.table.accumulation import accumulating
from gpt2cost.table.citations import line_of
from gpt2cost.table.gpt2 import parameter_count
from gpt2cost.table.kernel import Kernel, Row
from gpt2cost.table.nanogpt import MASKS
from gpt2cost.table.optimizer import element_count, parameters, tensor_count
from gpt2cost.table.options import Attn, Checkpointing, TableOptions
from gpt2cost.table.training import TrainingTable, training_table
from gpt2cost.table.training_memory import step_memory

PLACES = ("embd", "attn", "resid")


def options(precision: str = "fp32", bias: bool = True, dropout: bool = False, attn: Attn = "sdpa") -> TableOptions:
    places, autocast = PLACES if dropout else (), precision.endswith("-mixed")
    return TableOptions(
        attn=attn, impl="nanogpt", bias=bias, use_cache=False, train=True, dropout=places, autocast=autocast
    )


def sizes_of(config: GPTConfig, precision: str, batch: int, seq: int) -> dict[str, int]:
    sizes = values(model_of(config), "fp32" if precision == "fp32" else "fp16", batch, seq, 0)
    return sizes | {"w_bytes": 4} if precision.endswith("-mixed") else sizes


def assert_table_equals_step(config: GPTConfig, precision: str, batch: int, seq: int) -> None:
    dtype, autocast = PRECISIONS[precision]
    real = oracle.step(config, dtype, batch, seq, autocast)
    attn: Attn = "sdpa" if config.flash else "eager"
    table = training_table(options(precision, config.bias, config.dropout > 0, attn))
    sizes, layers = sizes_of(config, precision, batch, seq), range(config.n_layer)
    assert_equal(unrolled(table.forward, layers), real.forward, sizes, modules=True)
    assert_equal(unrolled(table.backward, layers[::-1]), real.backward, sizes, modules=False)
    assert saved_bytes(table, sizes) == real.saved_bytes


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("odd", ODD)
def test_a_step_is_the_real_one(odd: str, precision: str, bias: bool, dropout: float) -> None:
    """At batch 1 and 4; fused attention in float32 rounds a row of its log-sum-exp up to 32 tokens."""
    for batch, seq in ((4, 64), (1, 32)):
        assert_table_equals_step(tiny(**ODD[odd], bias=bias, dropout=dropout), precision, batch, seq)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("odd", ODD)
def test_a_step_with_attention_by_hand_is_the_real_one(odd: str, precision: str, dropout: float) -> None:
    """`attn="eager"`: what the code does where torch has no fused attention."""
    for batch, seq in ((4, 64), (1, 32)):
        assert_table_equals_step(tiny(**ODD[odd], flash=False, dropout=dropout), precision, batch, seq)


def test_the_pipelines_model() -> None:
    """124M with all its layers, at its sequence length."""
    for dropout in (0.0, 0.1):
        assert_table_equals_step(GPTConfig(vocab_size=50257, dropout=dropout), "bf16-mixed", 4, 1024)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_the_oracle_casts_as_cuda_does(autocast: torch.dtype | None, bias: bool, dropout: float) -> None:
    """The same forward on fake CUDA tensors, with torch's own autocast."""
    config = tiny(bias=bias, dropout=dropout)
    real = oracle.fake_cuda_forward(config, torch.float32, 4, 32, autocast)
    assert oracle.step(config, torch.float32, 4, 32, autocast).forward == real


def launches(rows: tuple[Row, ...], sizes: dict[str, int]) -> int:
    counts = (
        row.count.evaluate(sizes) for row in rows if isinstance(row.step, Kernel) and row.step.when.evaluate(sizes)
    )
    return int(sum(counts))


@pytest.mark.parametrize(
    ("precision", "forward", "backward"),
    [("fp32", (8, 10), (10, 19)), ("bf16-mixed", (11, 20), (13, 31))],
)
def test_counts(precision: str, forward: tuple[int, int], backward: tuple[int, int]) -> None:
    """As another trace found them. Under autocast that one has the cast before nll_loss, and its gradient's, in its
    text and not in its counts (10 + 20 L, 12 + 31 L); torch's own autocast on fake CUDA tensors has it."""
    for layers in (1, 12):
        config = tiny(n_layer=layers)
        table, sizes = training_table(options(precision)), sizes_of(config, precision, 4, 64)
        for rows, (fixed, per_layer) in ((table.forward, forward), (table.backward, backward)):
            assert launches(rows, sizes) == fixed + per_layer * layers


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_are_those_of_the_model(bias: bool) -> None:
    """In its order, with every tensor's size: what the optimiser goes through."""
    config = tiny(n_layer=3, bias=bias)
    symbols = model_of(config).symbols()
    real = [(name, p.numel()) for name, p in oracle.build(config, torch.float32).named_parameters()]
    own = parameters(options(bias=bias))
    assert tensor_count(own).evaluate(symbols) == len(real)
    assert element_count(own).evaluate(symbols) == parameter_count(bias=bias).evaluate(symbols)
    layer, found = 1, {p.name.replace("{i}", "1"): p.elements.evaluate(symbols) for p in own}
    outside = [(name, size) for name, size in real if ".h." not in name or f".h.{layer}." in name]
    assert list(found.items()) == outside


def test_the_gradients_of_all_weights_are_made() -> None:
    for bias in (True, False):
        table: TrainingTable = training_table(options("bf16-mixed", bias))
        made = {out.name for row in table.backward if isinstance(row.step, Kernel) for out in row.step.outputs}
        names = {own.name.partition("{i}.")[2] or own.name for own in parameters(options(bias=bias))}
        assert {f"{name.removeprefix('transformer.')}.grad" for name in names} <= made


# ---------------------------------------------------------------------------------------------- memory

WHERE = {  # the peak stands at the logits, at the embeddings' gradients, in a block
    "logits": ({"n_embd": 96, "n_head": 4, "vocab_size": 5000}, 4, 64),
    "embeddings": ({"n_embd": 96, "n_head": 4, "vocab_size": 5000}, 2, 8),
    "block": ({"n_embd": 96, "n_head": 4}, 2, 96),
}
BF16 = torch.bfloat16


def of_the_pass(table: TrainingTable, config: GPTConfig, precision: str, batch: int, seq: int, **how: Any) -> int:
    """The bytes at the peak beside parameters and moments."""
    weights, sizes = parameters(options(bias=config.bias)), sizes_of(config, precision, batch, seq)
    found = step_memory(table, weights, sizes, "adamw-fused", **how)
    return int(found.total_bytes - found.parameters_bytes - found.optimizer_bytes)


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("checkpointing", get_args(Checkpointing))
def test_the_peak_with_attention_by_hand(checkpointing: Checkpointing, dropout: float, precision: str) -> None:
    """The masks that the model has registered are there too."""
    keys, batch, seq = WHERE["block"]
    config, autocast = tiny(n_layer=3, dropout=dropout, flash=False, **keys), PRECISIONS[precision][1]
    table = training_table(options(precision, dropout=dropout > 0, attn="eager"), checkpointing)
    tracker, _, _ = oracle.trained(config, batch, seq, autocast, checkpointing == "block", 1)
    masks = MASKS.evaluate(sizes_of(config, precision, batch, seq))
    assert masks == sum(stored_bytes(mask) for mask in oracle.build(config, torch.float32).buffers())
    assert of_the_pass(table, config, precision, batch, seq) + masks == tracker.peak_bytes


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("bias", [True, False])
def test_the_peak_is_the_real_models(bias: bool, dropout: float, precision: str, where: str) -> None:
    keys, batch, seq = WHERE[where]
    for layers in (1, 3):
        config = tiny(n_layer=layers, bias=bias, dropout=dropout, **keys)
        table, autocast = training_table(options(precision, bias, dropout > 0)), PRECISIONS[precision][1]
        tracker, _, _ = oracle.trained(config, batch, seq, autocast, False, 1)
        assert of_the_pass(table, config, precision, batch, seq) == tracker.peak_bytes


def test_the_pipelines_peak() -> None:
    config = GPTConfig(vocab_size=50257)
    tracker, _, _ = oracle.trained(config, 4, 1024, BF16, False, 1)
    assert of_the_pass(training_table(options("bf16-mixed")), config, "bf16-mixed", 4, 1024) == tracker.peak_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_later_micro_step(bias: bool, precision: str) -> None:
    """Its kernels in their order, and what it holds: the gradients of those before are there."""
    keys, batch, seq = WHERE["block"]
    config, autocast = tiny(n_layer=3, bias=bias, dropout=0.1, **keys), PRECISIONS[precision][1]
    table = training_table(options(precision, bias, dropout=True))
    tracker, _, backward = oracle.trained(config, batch, seq, autocast, False, 2)
    rows, sizes = accumulating(table).backward, sizes_of(config, precision, batch, seq)
    assert_equal(unrolled(rows, range(config.n_layer)[::-1]), backward, sizes, modules=False)
    weights = 4 * parameter_count(bias=bias).evaluate(model_of(config).symbols())
    held = of_the_pass(table, config, precision, batch, seq, accumulates=True)
    assert held == weights + tracker.peak_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_checkpointed_blocks(dropout: float, precision: str) -> None:
    keys, batch, seq = WHERE["block"]
    config, autocast = tiny(n_layer=3, dropout=dropout, **keys), PRECISIONS[precision][1]
    table = training_table(options(precision, dropout=dropout > 0), "block")
    tracker, forward, backward = oracle.trained(config, batch, seq, autocast, True, 1)
    sizes, layers = sizes_of(config, precision, batch, seq), range(config.n_layer)
    assert_equal(unrolled(table.forward, layers), forward, sizes, modules=False)
    assert_equal(unrolled(table.backward, layers[::-1]), backward, sizes, modules=False)
    assert of_the_pass(table, config, precision, batch, seq) == tracker.peak_bytes


# ---------------------------------------------------------------------------------------------- citations


def test_every_citation_is_in_the_model_that_is_traced() -> None:
    table = training_table(options("bf16-mixed", dropout=True))
    for row in (*table.forward, *table.backward):
        if isinstance(row.step, Kernel):
            assert line_of(row.step.source, Path(nanogpt_model.__file__)) > 0
