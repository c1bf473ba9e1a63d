"""The training table of `--impl nanogpt` against a real step of such a model, forward and backward, on meta."""

from __future__ import annotations

from pathlib import Path

import nanogpt_model
import nanogpt_oracle as oracle
import pytest
import torch
from helpers import values
from nanogpt_model import GPTConfig
from nanogpt_oracle import ODD, model_of, tiny
from training_match import PRECISIONS, assert_equal, saved_bytes, unrolled

from gpt2cost.table.citations import line_of
from gpt2cost.table.gpt2 import parameter_count
from gpt2cost.table.kernel import Kernel, Row
from gpt2cost.table.optimizer import element_count, parameters, tensor_count
from gpt2cost.table.options import TableOptions
from gpt2cost.table.training import TrainingTable, training_table

PLACES = ("embd", "attn", "resid")


def options(precision: str = "fp32", bias: bool = True, dropout: bool = False) -> TableOptions:
    places, autocast = PLACES if dropout else (), precision.endswith("-mixed")
    return TableOptions(impl="nanogpt", bias=bias, use_cache=False, train=True, dropout=places, autocast=autocast)


def sizes_of(config: GPTConfig, precision: str, batch: int, seq: int) -> dict[str, int]:
    sizes = values(model_of(config), "fp32" if precision == "fp32" else "fp16", batch, seq, 0)
    return sizes | {"w_bytes": 4} if precision.endswith("-mixed") else sizes


def assert_table_equals_step(config: GPTConfig, precision: str, batch: int, seq: int) -> None:
    dtype, autocast = PRECISIONS[precision]
    real = oracle.step(config, dtype, batch, seq, autocast)
    table = training_table(options(precision, config.bias, config.dropout > 0))
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


def test_every_citation_is_in_the_model_that_is_traced() -> None:
    table = training_table(options("bf16-mixed", dropout=True))
    for row in (*table.forward, *table.backward):
        if isinstance(row.step, Kernel):
            assert line_of(row.step.source, Path(nanogpt_model.__file__)) > 0
