"""The memory of a training step, against every storage that the real model's step holds on the meta device.

So are the kernels that gradient accumulation and activation checkpointing add, against the real ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers import unrolled, values
from oracle import Launch, tiny
from oracle_memory import kept, launches, memory
from transformers import GPT2Config

from gpt2cost.table.accumulation import accumulating, accumulation_rows
from gpt2cost.table.checkpointing import is_recomputed
from gpt2cost.table.config import load_model
from gpt2cost.table.heads import CLASSES, CLASSIFIES
from gpt2cost.table.kernel import Kernel, Row
from gpt2cost.table.optimizer import parameters
from gpt2cost.table.options import Checkpointing, Head, TableOptions
from gpt2cost.table.training import TrainingTable, saved, training_table
from gpt2cost.table.training_memory import StepMemory, step_memory

BF16 = torch.bfloat16
pytestmark = pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")


def sizes(config: GPT2Config, batch: Any, seq: Any, autocast: torch.dtype | None) -> dict[str, Any]:
    found: dict[str, Any] = values(load_model(config), "fp32", batch, seq, 0)
    return {**found, "a_bytes": 2} if autocast else found


def table_of(
    config: GPT2Config, attn: str, autocast: torch.dtype | None, checkpointing: Checkpointing = "none"
) -> TrainingTable:
    dropout = tuple(name for name in ("embd", "attn", "resid") if getattr(config, f"{name}_pdrop"))
    options = TableOptions(
        attn=attn,
        train=True,
        tied=config.tie_word_embeddings,
        autocast=bool(autocast),
        dropout=dropout,  # type: ignore[arg-type]
    )
    return training_table(options, checkpointing)


def memory_of(
    config: GPT2Config, attn: str, batch: Any, seq: Any, autocast: torch.dtype | None, **how: Any
) -> StepMemory:
    table = table_of(config, attn, autocast, how.pop("checkpointing", "none"))
    weights = parameters(TableOptions(), config.tie_word_embeddings)
    return step_memory(table, weights, sizes(config, batch, seq, autocast), "adamw-fused", **how)


def of_the_pass(found: StepMemory) -> int:
    """The bytes at the peak beside parameters and moments."""
    return int(found.total_bytes - found.parameters_bytes - found.optimizer_bytes - found.bucket_bytes)


def moved(rows: Sequence[Row], config: GPT2Config, at: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Op, bytes read and bytes written of each launch."""
    steps = [step for _, step in unrolled(list(rows), config.n_layer) if isinstance(step, Kernel)]
    return [(k.op, k.reads.evaluate(at), k.writes.evaluate(at)) for k in steps if k.when.evaluate(at)]


def real(record: Sequence[Launch]) -> list[tuple[str, int, int]]:
    return [(launch.op, launch.read_bytes, launch.write_bytes) for launch in record]


def config_of(dropout: float, **keys: Any) -> GPT2Config:
    return tiny(attn_pdrop=dropout, embd_pdrop=dropout, resid_pdrop=dropout, **keys)


WHERE = {  # the peak stands at the logits, at the embeddings' gradients, in a block
    "logits": ({"n_embd": 96, "n_head": 4, "vocab_size": 5000}, 4, 64),
    "embeddings": ({"n_embd": 96, "n_head": 4, "vocab_size": 5000}, 2, 8),
    "block": ({"n_embd": 96, "n_head": 4}, 2, 96),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("autocast", [None, BF16])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_peak_is_the_real_models(dropout: float, attn: str, autocast: torch.dtype | None, where: str) -> None:
    keys, batch, seq = WHERE[where]
    for layers in (1, 3):
        config = config_of(dropout, n_layer=layers, **keys)  # type: ignore[arg-type]
        found = memory_of(config, attn, batch, seq, autocast)
        assert of_the_pass(found) == memory(config, attn, torch.float32, batch, seq, autocast).peak_bytes
        place = {"logits": "log_softmax", "embeddings": "wte", "block": "transformer.h."}[where]
        assert place in found.peak_at


ODD: tuple[tuple[dict[str, Any], str, torch.dtype, Checkpointing, tuple[int, int]], ...] = (
    ({"n_head": 1, "activation_function": "gelu_pytorch_tanh"}, "eager", BF16, "none", (2, 32)),
    ({"n_inner": 100, "activation_function": "silu"}, "eager", torch.float32, "block", (3, 200)),
    ({"reorder_and_upcast_attn": True, "tie_word_embeddings": False}, "eager", BF16, "block", (3, 32)),
    ({"vocab_size": 5000, "activation_function": "relu"}, "sdpa", torch.float32, "none", (1, 5)),
    ({"n_inner": 100, "activation_function": "gelu"}, "sdpa", BF16, "block", (3, 32)),
)


@pytest.mark.parametrize(("keys", "attn", "dtype", "checkpointing", "at"), ODD)
def test_odd_configs(
    keys: dict[str, Any], attn: str, dtype: torch.dtype, checkpointing: Checkpointing, at: tuple[int, int]
) -> None:
    """The memory-efficient kernel's rows of the log-sum-exp are charged as they are, not rounded up to 32 tokens."""
    config = config_of(0.1, n_layer=3, n_embd=96, **{"n_head": 4, **keys})
    options = TableOptions(
        attn, config.activation_function, config.reorder_and_upcast_attn, train=True,  # type: ignore[arg-type]
        tied=config.tie_word_embeddings, dropout=("embd", "attn", "resid"),
    )  # fmt: skip
    sized = values(load_model(config), "bf16" if dtype == BF16 else "fp32", *at, 0)
    weights = parameters(TableOptions(), config.tie_word_embeddings)
    found = step_memory(training_table(options, checkpointing), weights, sized, "adamw-fused")
    tracker = memory(config, attn, dtype, *at, checkpoints=checkpointing == "block")
    assert of_the_pass(found) == pytest.approx(tracker.peak_bytes, rel=1e-3)


@pytest.mark.parametrize("autocast", [None, BF16])
def test_gpt2_in_all_its_layers(autocast: torch.dtype | None) -> None:
    config = GPT2Config()
    tracker = memory(config, "sdpa", torch.float32, 4, 1024, autocast)
    found = memory_of(config, "sdpa", 4, 1024, autocast)
    assert of_the_pass(found) == tracker.peak_bytes
    assert tracker.op_at_peak == "_log_softmax_backward_data"
    assert found.peak_at == "log_softmax.backward (logits.float.grad)"
    parts = (found.gradients_bytes, found.casts_bytes, found.logits_bytes, found.activations_bytes)
    assert sum(parts) == tracker.peak_bytes


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("autocast", [None, BF16])
def test_a_later_micro_step_adds_to_the_gradients_that_are_there(where: str, autocast: torch.dtype | None) -> None:
    keys, batch, seq = WHERE[where]
    config = config_of(0.1, n_layer=3, **keys)  # type: ignore[arg-type]
    found = memory_of(config, "sdpa", batch, seq, autocast, accumulates=True)
    tracker = memory(config, "sdpa", torch.float32, batch, seq, autocast, micro_steps=2)
    assert of_the_pass(found) == found.parameters_bytes + tracker.peak_bytes


def test_arrays_are_the_loop_over_points() -> None:
    config = GPT2Config()
    batch, seq = np.array([1, 2, 8, 64]), np.array([[1024], [64]])
    for how in ({}, {"accumulates": True}, {"checkpointing": "block"}):
        grid = memory_of(config, "sdpa", batch, seq, BF16, **how)
        for (i, j), total in np.ndenumerate(grid.total_bytes):
            point = memory_of(config, "sdpa", int(batch[j]), int(seq[i, 0]), BF16, **how)
            assert total == point.total_bytes
            assert grid.peak_at[i, j] == point.peak_at
            assert grid.logits_bytes[i, j] == point.logits_bytes


def test_the_optimiser_may_be_the_peak() -> None:
    """foreach AdamW has a temporary as large as the matrices: it is seen where the passes need little."""
    config = GPT2Config()
    weights, at = parameters(TableOptions()), sizes(config, 1, 16, None)
    table = table_of(config, "sdpa", None)
    foreach = step_memory(table, weights, at, "adamw")
    assert foreach.peak_at.startswith("optimizer.")
    assert foreach.total_bytes / foreach.parameters_bytes == pytest.approx(5, rel=2e-3)
    assert step_memory(table, weights, at, "adamw-fused").total_bytes < foreach.total_bytes


def test_what_gpus_share() -> None:
    """The stages of ZeRO, each of which shares what the one before it does."""
    config, gpus = GPT2Config(), np.array([2, 8])
    weights, at = parameters(TableOptions()), sizes(config, 1, 16, None)
    table, p = table_of(config, "sdpa", None), 4 * load_model(config).parameters

    def held(zero: int) -> StepMemory:
        return step_memory(table, weights, at, "adamw-fused", accumulates=True, gpus=gpus, zero=zero)

    stages = [held(zero) for zero in range(4)]
    assert all(np.all(m.optimizer_bytes == (2 * p if zero < 1 else 2 * p // gpus)) for zero, m in enumerate(stages))
    assert all(np.all(m.bucket_bytes == (p if zero < 2 else 0)) for zero, m in enumerate(stages))
    assert np.all(stages[2].gradients_bytes < stages[1].gradients_bytes)
    assert all(np.all(m.parameters_bytes == p) for m in stages[:3])
    assert np.all(stages[3].parameters_bytes == p // gpus)
    gathered = stages[3].activations_bytes - stages[2].activations_bytes
    assert np.all(gathered == 4 * (2 * 7_087_872 + (50257 + 1024 + 2) * 768)), "two blocks, and what is in none"
    totals = [m.total_bytes for m in stages]
    assert all(np.all(after < before) for before, after in itertools.pairwise(totals[:3]))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("autocast", [None, BF16])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_accumulation_is_the_engines(dropout: float, attn: str, autocast: torch.dtype | None, tied: bool) -> None:
    """One `add_` a parameter, as soon as its gradient is there."""
    config = config_of(dropout, n_layer=3, tie_word_embeddings=tied)
    _, backward = launches(config, attn, torch.float32, 2, 32, autocast, micro_steps=2)
    table, at = table_of(config, attn, autocast), sizes(config, 2, 32, autocast)
    assert moved(accumulating(table).backward, config, at) == real(backward)
    added = moved(accumulation_rows(table), config, at)
    assert len(added) == 12 * 3 + 4 + (not tied)
    assert sum(read + written for _, read, written in added) == 12 * load_model(config).parameters


@pytest.mark.parametrize("autocast", [None, BF16])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_checkpointing_is_transformers(dropout: float, attn: str, autocast: torch.dtype | None) -> None:
    for layers in (1, 3):
        config = config_of(dropout, n_layer=layers)
        forward, backward = launches(config, attn, torch.float32, 2, 32, autocast, checkpoints=True)
        table, at = table_of(config, attn, autocast, "block"), sizes(config, 2, 32, autocast)
        assert moved(table.forward, config, at) == real(forward)
        assert moved(table.backward, config, at) == real(backward)


def test_a_block_runs_again_but_for_what_no_node_has_saved() -> None:
    """Without dropout, the last product: it comes after the last tensor that is saved."""
    table = table_of(config_of(0.0), "sdpa", None, "block")

    def products(rows: Sequence[Row]) -> list[str]:
        kernels = [row for row in rows if isinstance(row.step, Kernel) and row.step.op == "addmm"]
        return [row.path.removesuffix(".recompute") for row in kernels]

    assert products([row for row in table.backward if is_recomputed(row)]) == products(table.forward)[:-1]


@pytest.mark.parametrize("checkpointing", ["none", "block"])
@pytest.mark.parametrize("autocast", [None, BF16])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_what_a_loss_holds(
    dropout: float, attn: str, autocast: torch.dtype | None, checkpointing: Checkpointing
) -> None:
    """With checkpointing, each block's input and its mask: autograd's hooks do not see them."""
    for layers in (1, 3):
        config = config_of(dropout, n_layer=layers)
        at = sizes(config, 2, 32, autocast)
        every = saved(table_of(config, attn, autocast, checkpointing))
        found = sum(int(s.when.evaluate(at)) * s.count.evaluate(at) * s.tensor.bytes.evaluate(at) for s in every)
        assert found == kept(config, attn, torch.float32, 2, 32, autocast, checkpointing == "block")


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("autocast", [None, BF16])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_peak_with_checkpointing(dropout: float, autocast: torch.dtype | None, where: str) -> None:
    keys, batch, seq = WHERE[where]
    for layers in (1, 3):
        config = config_of(dropout, n_layer=layers, **keys)  # type: ignore[arg-type]
        found = memory_of(config, "sdpa", batch, seq, autocast, checkpointing="block")
        tracker = memory(config, "sdpa", torch.float32, batch, seq, autocast, checkpoints=True)
        assert of_the_pass(found) == tracker.peak_bytes


ENCODED: tuple[tuple[str, bool, float, torch.dtype | None, Checkpointing], ...] = (
    ("sdpa", False, 0.0, None, "none"),
    ("sdpa", False, 0.1, BF16, "none"),
    ("sdpa", False, 0.1, BF16, "block"),
    ("eager", False, 0.0, BF16, "none"),
    ("eager", False, 0.1, None, "block"),
    ("eager", True, 0.1, BF16, "none"),
    ("eager", True, 0.0, None, "block"),
)


def encoded_options(config: GPT2Config, attn: str, autocast: torch.dtype | None) -> TableOptions:
    dropout = ("embd", "attn", "resid") if config.attn_pdrop else ()
    upcast = config.reorder_and_upcast_attn
    return TableOptions(
        attn, reorder_and_upcast_attn=upcast, train=True, autocast=bool(autocast), dropout=dropout, encoder=True,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(("attn", "upcast", "dropout", "autocast", "checkpointing"), ENCODED)
@pytest.mark.parametrize(("batch", "seq", "encoder"), [(2, 96, 160), (3, 32, 8)])
@pytest.mark.parametrize("vocabulary", [11, 5000])
def test_cross_attention(
    attn: str, upcast: bool, dropout: float, autocast: torch.dtype | None, checkpointing: Checkpointing, batch: int,
    seq: int, encoder: int, vocabulary: int,
) -> None:  # fmt: skip
    """Over states that need no gradient: the peak, what a loss holds, the kernels, and those of later micro-steps."""
    for layers in (1, 3):
        config = config_of(
            dropout, n_layer=layers, n_embd=96, n_head=4, reorder_and_upcast_attn=upcast, vocab_size=vocabulary,
            add_cross_attention=True,
        )  # fmt: skip
        table = training_table(encoded_options(config, attn, autocast), checkpointing)
        at = {**values(load_model(config), "fp32", batch, seq, 0), "encoder_len": encoder}
        at |= {"a_bytes": 2} if autocast else {}
        given = (config, attn, torch.float32, batch, seq, autocast, checkpointing == "block")
        found = step_memory(table, parameters(TableOptions(encoder=True)), at, "adamw-fused")
        assert of_the_pass(found) == memory(*given, encoder=encoder).peak_bytes
        if vocabulary > 11:
            continue
        held = sum(int(s.when.evaluate(at)) * s.count.evaluate(at) * s.tensor.bytes.evaluate(at) for s in saved(table))
        assert held == kept(*given, encoder=encoder)
        forward, backward = launches(*given, encoder=encoder)
        assert (moved(table.forward, config, at), moved(table.backward, config, at)) == (real(forward), real(backward))
        _, backward = launches(*given, micro_steps=2, encoder=encoder)
        assert moved(accumulating(table).backward, config, at) == real(backward)


@pytest.mark.parametrize("pad_token", [None, 3])
@pytest.mark.parametrize("head", CLASSIFIES)
@pytest.mark.parametrize("autocast", [None, BF16])
def test_classifiers(autocast: torch.dtype | None, head: Head, pad_token: int | None) -> None:
    batch = 1 if pad_token is None else 3
    """Rows of zeros are added to in place, as on a GPU, where the oracle's `index_put` copies them: of few labels."""
    for layers, labels in ((1, 5), (3, 5)):
        config = config_of(0.1, n_layer=layers, n_embd=96, n_head=4, num_labels=labels, pad_token_id=pad_token)
        options = TableOptions(
            train=True, autocast=bool(autocast), dropout=("embd", "attn", "resid"), head=head,
            has_pad_token=pad_token is not None,
        )  # fmt: skip
        at = {**sizes(config, batch, 64, autocast), "num_labels": labels}
        found = step_memory(training_table(options), parameters(options), at, "adamw-fused")
        tracker = memory(config, "sdpa", torch.float32, batch, 64, autocast, cls=CLASSES[head])
        assert of_the_pass(found) == tracker.peak_bytes
