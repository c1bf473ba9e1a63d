"""Cross-attention over an encoder's states, against the real model on the meta device."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from helpers import assert_refused
from oracle import tiny
from table_match import assert_table_equals_trace

from gpt2cost.errors import InputError
from gpt2cost.prediction.generate import generate
from gpt2cost.prediction.model_tree import tree
from gpt2cost.prediction.one_step import explain_step
from gpt2cost.prediction.predict import predict
from gpt2cost.prediction.train import train
from gpt2cost.table.config import Model, change_model, load_model

RUNTIMES = ("eager", "compile")


def crossed(**keys: Any) -> Model:
    return change_model(load_model(tiny(add_cross_attention=True)), {"encoder_len": 7, **keys})


@pytest.mark.parametrize("attn", ["sdpa", "eager", "flash_attention_2"])
def test_the_table_is_that_of_the_real_model(attn: str) -> None:
    config = tiny(add_cross_attention=True)
    for batch, seq, cache in ((2, 5, 0), (2, 5, 4), (1, 1, 4), (1, 6, 0), (3, 1, 0)):
        for encoder in (7, 1):
            assert_table_equals_trace(config, attn, "fp16", batch, seq, cache, encoder=encoder)
    assert_table_equals_trace(config, attn, "fp16" if "flash" in attn else "fp32", 2, 5, 4, encoder=9)
    for batch, seq, encoder in ((2, 5, 7), (2, 1, 1), (1, 5, 7)):
        assert_table_equals_trace(config, attn, "fp16", batch, seq, 0, use_cache=False, encoder=encoder)
    assert_table_equals_trace(config, attn, "fp16", 2, 5, 4)
    assert_table_equals_trace(config, attn, "fp16", 2, 5, 4, captured=True, encoder=7)


@pytest.mark.parametrize("upcast", [False, True])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_static_caches_and_upcast_scores(attn: str, upcast: bool) -> None:
    """A static cache is one of the encoder's keys and values too, as `generate` makes it."""
    config = tiny(add_cross_attention=True, reorder_and_upcast_attn=upcast)
    for dtype, (batch, seq, cache), encoder in product(
        ("fp16", "fp32"), ((2, 5, 0), (2, 5, 4), (1, 1, 4), (2, 1, 4)), (7, 1)
    ):
        assert_table_equals_trace(config, attn, dtype, batch, seq, cache, encoder=encoder)
        assert_table_equals_trace(config, attn, dtype, batch, seq, cache, static=16, encoder=encoder)
    assert_table_equals_trace(config, attn, "fp16", 2, 5, 0, use_cache=False, encoder=7)


def test_parameters_and_modules() -> None:
    config = tiny(add_cross_attention=True)
    real = oracle.build(config, "sdpa", torch.float32)
    real.tie_weights()
    assert load_model(config).parameters == sum(p.numel() for p in real.parameters())
    root = tree(crossed(), seq=4).root
    assert {node.path for node in root.walk()} == {path for path, _ in real.named_modules() if ".h.1" not in path}
    assert root.parameters == load_model(config).parameters


@pytest.mark.parametrize("cache", [0, 4])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_what_is_explained_is_what_the_real_modules_launch(attn: str, cache: int) -> None:
    """Launches, FLOPs and bytes of all that is in the two modules, by hooks of the real model."""
    real = oracle.trace(tiny(add_cross_attention=True), attn, torch.float16, 2, 5, cache, encoder=7).launches
    for module in ("crossattention", "ln_cross_attn"):
        own = [each for each in real if module in each.module.split(".")]
        found = explain_step(crossed(), f"h.{module}", batch=2, seq=5, cache=cache, dtype="fp16", attn=attn).steps
        assert sum(step.launches for step in found if step.kernel) == len(own) > 0
        for figure, of_launch in (("flops", "flops"), ("reads", "read_bytes"), ("writes", "write_bytes")):
            products = [step for step in found if figure != "flops" or step.row.step.op in ("addmm", "bmm")]
            launched = [each for each in own if figure != "flops" or each.op in ("addmm", "bmm")]
            assert sum(step.figure(figure) for step in products) == sum(getattr(x, of_launch) for x in launched)


def test_the_cache_has_the_encoders_keys_and_values() -> None:
    """Made in the prefill, read in the decode step."""
    plain, model = crossed(encoder_len=0), crossed(encoder_len=700)
    runs = [predict(one, "a100", seq=8) for one in (plain, model)]
    caches = [run.memory.kv_cache_bytes for run in runs]
    assert caches[1] - caches[0] == 2 * model.n_layer * model.n_embd * 700 * 2
    assert runs[0].memory.kv_bytes_per_token == runs[1].memory.kv_bytes_per_token
    passes = [run.phases[number].totals for run in runs for number in (0, 1)]
    assert passes[2].launches - passes[0].launches == model.n_layer * 8
    assert passes[3].launches - passes[1].launches == model.n_layer * 5


def test_every_query_meets_every_key() -> None:
    """There is no causal rule, which would spare half of the blocks."""
    model = change_model(load_model("gpt2"), {"add_cross_attention": True, "encoder_len": 4096, "n_positions": 4096})
    (phase,) = predict(model, "a100", seq=4096, phase="prefill").phases
    own, cross = (
        next(float(cost.device_s) for cost in phase.kernels if cost.row.path == f"transformer.h.{module}.{op}")
        for op in ("scaled_dot_product_attention",)
        for module in ("attn", "crossattention")
    )
    assert 1.5 < cross / own < 2.5


def test_what_does_not_go_together() -> None:
    with pytest.raises(InputError, match="add_cross_attention"):
        change_model(load_model("gpt2"), {"encoder_len": 7})
    with pytest.raises(InputError, match="padded"):
        generate(crossed(), "a100", padded=True)
    with pytest.raises(InputError, match="encoder_len"):
        train(crossed(encoder_len=0), "a100")
    assert "--encoder-len" in predict(crossed(encoder_len=0), "a100").warnings[0]


def test_a_training_step_is_of_all_parameters() -> None:
    plain, model = crossed(encoder_len=0, add_cross_attention=False), crossed(encoder_len=64)
    runs = [
        train(one, "a100", seq=16, micro_batch=4, runtime=runtime) for one in (plain, model) for runtime in RUNTIMES
    ]
    for before, after in zip(runs[:2], runs[2:], strict=True):
        assert after.memory.optimizer_bytes == 8 * model.parameters
        assert after.step.step_s > before.step.step_s
        assert after.memory.total_bytes > before.memory.total_bytes


def test_the_decoder_of_a_vision_encoder_decoder(gpt2cost: Any, tmp_path: Path) -> None:
    decoder = {"model_type": "gpt2", "add_cross_attention": True, "is_decoder": True, "n_layer": 2}
    whole = {"model_type": "vision-encoder-decoder", "encoder": {"model_type": "vit"}, "decoder": decoder}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(whole))
    flags = ("--gpu", "a100", "--encoder-len", "197", "--seq", "8")
    assert_refused(gpt2cost("predict", "--model", str(path), *flags), "decoder")
    path.write_text(json.dumps(decoder))
    result = gpt2cost("predict", "--model", str(path), *flags)
    assert (result.code, result.err) == (0, "")
    assert "crossattention" in result.out


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_weights_of_another_method_are_refused_by_name(method: str, tmp_path: Path) -> None:
    own = {"model_type": "gpt2", "quantization_config": {"quant_method": method, "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(own))
    with pytest.raises(InputError, match=f"{method}.*is not modelled"):
        load_model(tmp_path)
