"""The training table against a real step: a dispatch trace of `GPT2LMHeadModel`, forward and backward, on meta."""

from __future__ import annotations

from typing import Any

import oracle
import oracle_train
import pytest
import torch
from helpers import values
from oracle import tiny
from training_match import PRECISIONS, assert_equal, saved_bytes, unrolled
from transformers import GPT2Config

from gpt2cost.errors import InputError
from gpt2cost.table.activations import ACTIVATIONS
from gpt2cost.table.config import load_model
from gpt2cost.table.heads import CLASSES, CLASSIFIES
from gpt2cost.table.kernel import Kernel, short_path
from gpt2cost.table.options import Head, TableOptions
from gpt2cost.table.training import TrainingTable, training_table

DROPOUT = {"embd": "embd_pdrop", "attn": "attn_pdrop", "resid": "resid_pdrop"}


def dropping(*places: str) -> dict[str, float]:
    return {name: 0.1 if place in places else 0.0 for place, name in DROPOUT.items()}


def table_of(config: GPT2Config, attn: str, precision: str, **options: Any) -> TrainingTable:
    made = TableOptions(
        attn,  # type: ignore[arg-type]
        config.activation_function,
        config.reorder_and_upcast_attn,
        use_cache=config.use_cache,
        scale_attn_weights=config.scale_attn_weights,
        train=True,
        dropout=tuple(place for place, name in DROPOUT.items() if getattr(config, name)),
        tied=config.tie_word_embeddings,
        autocast=precision.endswith("-mixed"),
        has_pad_token=config.pad_token_id is not None,
        **options,
    )
    return training_table(made)


def sizes_of(config: GPT2Config, precision: str, batch: int, seq: int) -> dict[str, int]:
    sizes = values(load_model(config), "fp32" if precision == "fp32" else "fp16", batch, seq, 0)
    return sizes | {"w_bytes": 4} if precision.endswith("-mixed") else sizes


def assert_table_equals_step(
    config: GPT2Config, attn: str, precision: str, batch: int, seq: int, encoder: int = 0, head: Head = "lm",
    **options: Any,
) -> None:  # fmt: skip
    dtype, autocast = PRECISIONS[precision]
    with oracle.capturing(options.get("traced", False)):
        real = oracle_train.step(config, attn, dtype, batch, seq, autocast, encoder, CLASSES[head])
    table = table_of(config, attn, precision, encoder=encoder > 0, head=head, **options)
    sizes = {**sizes_of(config, precision, batch, seq), "encoder_len": encoder}
    layers = range(config.n_layer)
    assert_equal(unrolled(table.forward, layers), real.forward, sizes, modules=True)
    assert_equal(unrolled(table.backward, layers[::-1]), real.backward, sizes, modules=False)
    assert saved_bytes(table, sizes) == real.saved_bytes


@pytest.mark.parametrize("places", [(), ("embd", "attn", "resid"), ("embd",), ("attn",), ("resid",)], ids="-".join)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_is_the_real_one(precision: str, attn: str, places: tuple[str, ...]) -> None:
    """At batch 1 and 4; fused attention in float32 rounds a row of its log-sum-exp up to 32 tokens."""
    for batch, seq in ((4, 64), (1, 32)):
        assert_table_equals_step(tiny(n_layer=2, **dropping(*places)), attn, precision, batch, seq)


ODD = {
    "n_inner": {"n_inner": 100, "n_head": 4},
    "relu": {"activation_function": "relu", "tie_word_embeddings": False, "n_layer": 1},
    "upcast": {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
    "upcast, unscaled": {"reorder_and_upcast_attn": True, "scale_attn_weights": False},
    "one head": {"n_head": 1, "n_positions": 3000, "vocab_size": 50300},
    "silu": {"activation_function": "silu", "n_layer": 1, "n_embd": 40, "n_head": 5},
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_odd_configs(precision: str, attn: str, odd: str) -> None:
    for places in ((), tuple(DROPOUT)):
        config = tiny(**{"n_layer": 2, **dropping(*places), **ODD[odd]})
        assert_table_equals_step(config, attn, precision, 3, 96)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS.keys() - {"mish"}))
def test_activations(name: str) -> None:
    """All but mish, whose backward is one kernel on CUDA and ten on the meta device."""
    for precision in PRECISIONS:
        assert_table_equals_step(tiny(n_layer=1, activation_function=name, **dropping()), "sdpa", precision, 2, 32)


def assert_oracle_is_cuda(attn: str, autocast: torch.dtype | None, **keys: Any) -> None:
    """The same forward on fake CUDA tensors, with torch's own autocast."""
    config = tiny(n_layer=1, **dropping(*DROPOUT), **keys)
    real = oracle_train.fake_cuda_forward(config, attn, torch.float32, 2, 32, autocast)
    assert oracle_train.step(config, attn, torch.float32, 2, 32, autocast).forward == real


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_the_oracle_casts_as_cuda_does(autocast: torch.dtype | None, attn: str) -> None:
    for upcast in (False, True):
        assert_oracle_is_cuda(attn, autocast, reorder_and_upcast_attn=upcast)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_the_oracle_casts_activations_as_cuda_does(name: str) -> None:
    assert_oracle_is_cuda("sdpa", torch.bfloat16, activation_function=name)


@pytest.mark.parametrize(
    ("precision", "attn", "dropout", "forward", "backward"),
    [
        ("fp32", "sdpa", True, "12 + 21 * L", "11 + 31 * L"),
        ("fp32", "sdpa", False, "11 + 19 * L", "10 + 29 * L"),
        ("bf16-mixed", "sdpa", True, "15 + 33 * L", "14 + 49 * L"),
        ("bf16-mixed", "sdpa", False, "14 + 31 * L", "13 + 47 * L"),
        ("bf16-mixed", "eager", False, "24 + 38 * L", "13 + 55 * L"),
    ],
)
def test_counts(precision: str, attn: str, dropout: bool, forward: str, backward: str) -> None:
    """As another trace found them, less the two fills of nothing that the gradient of an empty cache is."""
    for layers in (1, 12):
        config = tiny(n_layer=layers, **dropping(*(DROPOUT if dropout else ())))
        table, sizes = table_of(config, attn, precision), sizes_of(config, precision, 4, 64)
        for rows, count in ((table.forward, forward), (table.backward, backward)):
            found = sum(
                row.count.evaluate(sizes)
                for row in rows
                if isinstance(row.step, Kernel) and row.step.when.evaluate(sizes)
            )
            assert found == eval(count, {"L": layers})


@pytest.mark.parametrize(("attn", "ratio"), [("eager", 3.0), ("sdpa", 3.5)])
def test_flops_of_the_backward(attn: str, ratio: float) -> None:
    """Two products for each of the forward; flash attention computes its scores anew, 2.5 times its forward."""
    config = GPT2Config(**dropping())
    table, sizes = table_of(config, attn, "bf16-mixed"), sizes_of(config, "bf16-mixed", 4, 1024)

    def flops(kinds: tuple[str, ...]) -> tuple[int, int]:
        forward, backward = (
            sum(
                row.step.flops.evaluate(sizes) * row.count.evaluate(sizes)
                for row in rows
                if isinstance(row.step, Kernel) and row.step.kind in kinds and row.step.when.evaluate(sizes)
            )
            for rows in (table.forward, table.backward)
        )
        return forward, backward

    attention, linear = flops(("bmm", "attention")), flops(("gemm",))
    assert sum(attention) == ratio * attention[0]
    assert sum(linear) == 3 * linear[0]


@pytest.mark.parametrize(("attn", "upcast"), [("sdpa", False), ("eager", False), ("eager", True)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_corner_of_the_sizes(precision: str, attn: str, upcast: bool) -> None:
    """Where a dimension is 1, copies are views and sums are of one term."""
    for heads in (1, 3):
        for batch in (1, 2):
            for seq in (1, 2, 7) if (precision, attn) != ("fp32", "sdpa") else (32,):
                config = tiny(n_layer=1, n_head=heads, reorder_and_upcast_attn=upcast, **dropping())
                assert_table_equals_step(config, attn, precision, batch, seq)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_without_a_cache(precision: str, attn: str) -> None:
    for batch in (1, 4):
        config = tiny(n_layer=2, use_cache=False, **dropping(*DROPOUT))
        assert_table_equals_step(config, attn, precision, batch, 32)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16"])
def test_flash_attention_2(precision: str) -> None:
    """With torch's kernel in place of that of the flash-attn package."""
    for batch in (1, 4):
        config = tiny(n_layer=2, **dropping(*DROPOUT))
        assert_table_equals_step(config, "flash_attention_2", precision, batch, 32)


@pytest.mark.parametrize("name", ["distilgpt2", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_presets(name: str, precision: str) -> None:
    """As they come, with dropout and their long vocabulary; the smallest in all its layers, two of the others'."""
    model = load_model(name)
    layers = model.n_layer if name == "distilgpt2" else 2
    config = GPT2Config(n_layer=layers, n_head=model.n_head, n_embd=model.n_embd)
    assert_table_equals_step(config, "sdpa", precision, 4, 1024)


@pytest.mark.parametrize(("attn", "upcast"), [("sdpa", False), ("eager", False), ("eager", True)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cross_attention(precision: str, attn: str, upcast: bool) -> None:
    """Over an encoder's states that need no gradient: those of an encoder that is not trained."""
    for places, use_cache in (((), True), (tuple(DROPOUT), True), ((), False)):
        config = tiny(
            n_layer=2,
            add_cross_attention=True,
            reorder_and_upcast_attn=upcast,
            use_cache=use_cache,
            **dropping(*places),
        )
        for batch, seq, encoder in ((4, 64, 32), (1, 32, 64)):
            assert_table_equals_step(config, attn, precision, batch, seq, encoder)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16"])
@pytest.mark.parametrize("use_cache", [False, True])
def test_cross_attention_by_flash_attention(precision: str, use_cache: bool) -> None:
    """With torch's kernel in place of that of the flash-attn package."""
    config = tiny(n_layer=2, add_cross_attention=True, use_cache=use_cache, **dropping(*DROPOUT))
    for batch, seq, encoder in ((4, 64, 32), (1, 32, 64)):
        assert_table_equals_step(config, "flash_attention_2", precision, batch, seq, encoder)


@pytest.mark.parametrize("pad_token", [None, 3])
@pytest.mark.parametrize("head", CLASSIFIES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_classifiers(precision: str, head: Head, pad_token: int | None) -> None:
    """With their losses. One of sequences that looks for no pad token takes a single one."""
    for attn, places, seq in (("sdpa", (), 32), ("eager", tuple(DROPOUT), 32), ("eager", (), 1)):
        config = tiny(n_layer=2, num_labels=5, pad_token_id=pad_token, **dropping(*places))
        assert_table_equals_step(config, attn, precision, 1 if pad_token is None else 3, seq, head=head)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_corner_of_cross_attention(precision: str) -> None:
    for heads, batch, seq, encoder in ((1, 2, 7, 3), (3, 1, 1, 3), (3, 2, 1, 1), (3, 2, 5, 1)):
        config = tiny(n_layer=1, n_head=heads, add_cross_attention=True, **dropping())
        assert_table_equals_step(config, "eager", precision, batch, seq, encoder)
        if precision != "fp32":
            assert_table_equals_step(config, "sdpa", precision, batch, seq, encoder)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_parameter_gets_one_gradient_of_its_size(precision: str, tied: bool) -> None:
    config = tiny(n_layer=1, tie_word_embeddings=tied)
    sizes = sizes_of(config, precision, 2, 32)
    made = [
        (tensor.name.removesuffix(".grad"), tensor.bytes.evaluate(sizes))
        for row in table_of(config, "sdpa", precision).backward
        if isinstance(row.step, Kernel) and row.step.when.evaluate(sizes)
        for tensor in row.step.outputs
        if tensor.name.endswith((".weight.grad", ".bias.grad"))
    ]
    real = oracle_train.build(config, "sdpa", PRECISIONS[precision][0])
    wanted = {
        short_path(name).removeprefix("h.0."): weight.numel() * weight.element_size()
        for name, weight in real.named_parameters()
    }
    if tied:  # of the head's part, which the token embedding's is added to
        wanted["lm_head.weight"] = wanted["wte.weight"]
    assert sorted(made) == sorted(wanted.items())


def test_what_has_no_known_gradient_is_refused() -> None:
    with pytest.raises(InputError, match="the gradient of where is not modelled"):
        training_table(TableOptions("eager", variants=(("mask", "where"),), train=True))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_gpu_without_flash_attention(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before sm80: the memory-efficient kernel in 16 bit too, whose gradients lie by tokens."""
    monkeypatch.setattr(oracle_train, "runs_flash", lambda dtype: False)
    for batch in (1, 4):
        assert_table_equals_step(tiny(n_layer=2, **dropping(*DROPOUT)), "sdpa", precision, batch, 32, has_flash=False)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_traced_step(precision: str, use_cache: bool, attn: str) -> None:
    """Compiled: without a cache, as with checkpointing, a mask says which tokens are of one sequence."""
    for batch in (1, 4):
        config = tiny(n_layer=2, use_cache=use_cache, **dropping(*DROPOUT))
        assert_table_equals_step(config, attn, precision, batch, 32, traced=True)
