"""What pictures of memory, generations and training steps say is what `predict`, `generate` and `train` say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpt2cost
from gpt2cost.errors import InputError
from gpt2cost.output.pictures.plot_memory import memory, memory_of_training, memory_over_tokens
from gpt2cost.output.pictures.plot_runs import HOST_ALONE, WITH_CACHE, WITHOUT_CACHE, generated, step_split
from gpt2cost.prediction.train_settings import check_train_how
from gpt2cost.table.kernel import Kernel
from gpt2cost.units import format_quantity

MODEL, A100, T4 = gpt2cost.load_model("distilgpt2"), gpt2cost.load_hardware("a100"), gpt2cost.load_hardware("t4")

# ---------------------------------------------------------------------------------------------- memory of a pass

PASSES: list[dict[str, Any]] = [
    {"batch": 8, "seq": 512},
    {"batch": 8, "seq": 512, "logits": "last"},
    {"batch": 8, "seq": 1, "cache": 512},
    {"batch": 4, "seq": 300, "cache": 64, "attn": "eager"},
    {"batch": 2, "seq": 64, "use_cache": False},
    {"batch": 2, "seq": 1, "cache": 64, "cache_type": "static"},
    {"batch": 2, "seq": 64, "runtime": "compile"},
    {"batch": 2, "seq": 64, "runtime": "cuda-graph"},
    {"batch": 2, "seq": 64, "impl": "nanogpt", "attn": "eager"},
]


@pytest.mark.parametrize("settings", PASSES, ids=str)
def test_the_peak_over_a_pass_is_the_memory_of_predict(settings: dict[str, Any]) -> None:
    prediction = gpt2cost.predict(MODEL, A100, phase="prefill", **settings)
    (phase,), data = prediction.phases, memory(prediction)
    assert data.peak_bytes == np.max(data.whole.total) == prediction.memory.total_bytes
    assert len(data.whole.names) == phase.totals.launches
    for part, own in data.whole.parts.items():
        assert np.all(own >= 0), part
    assert np.all(data.whole.parts["weights"] == prediction.memory.weights_bytes)
    if prediction.how.use_cache:
        cache = data.whole.parts["KV cache"]
        assert cache[-1] == prediction.memory.kv_cache_bytes
        assert cache[0] == (cache[-1] if "cache_type" in settings else cache[-1] * phase.cache_len / phase.kv_len)
        assert np.all(np.diff(cache) >= 0) or settings.get("cache"), "an old key goes when its new one is there"
    assert data.close is not None
    beyond = data.whole.parts["activations"][-len(data.close.names) :]
    buffers = beyond - data.close.total
    assert np.all(buffers == buffers[0])  # nanoGPT's masks, which no kernel of the pass makes


@pytest.mark.parametrize("cache_type", ["dynamic", "static"])
@pytest.mark.parametrize("cached", [0, 64])
def test_the_cache_holds_an_encoders_keys_and_values(cache_type: str, cached: int) -> None:
    """Made layer by layer in the first pass, there from the start in later ones."""
    model = gpt2cost.change_model(MODEL, {"add_cross_attention": True, "encoder_len": 700})
    prediction = gpt2cost.predict(model, A100, batch=2, seq=1, cache=cached, cache_type=cache_type, phase="prefill")
    data = memory(prediction)
    assert data.peak_bytes == np.max(data.whole.total) == prediction.memory.total_bytes
    cache = data.whole.parts["KV cache"]
    assert cache[-1] == prediction.memory.kv_cache_bytes
    new = 2 * 2 * 6 * 768 * 2 * (1 if cache_type == "dynamic" else 0)
    assert cache[0] == (cache[-1] - new if cached else 0)


def test_each_layer_adds_its_keys_and_values() -> None:
    """A pass without old tokens begins with no cache, and has all layers' at the end, one after the other."""
    prediction = gpt2cost.predict(MODEL, A100, batch=8, seq=128, phase="prefill")
    data = memory(prediction).whole
    layers = [section for section in data.sections if section.label.startswith("h.")]
    assert [section.label for section in layers] == [f"h.{layer}" for layer in range(6)]
    cache = data.parts["KV cache"]
    for number, section in enumerate(layers):
        assert cache[section.last] == (number + 1) * prediction.memory.kv_cache_bytes / 6
    activations = data.parts["activations"]
    first, *others = (activations[section.first : section.last + 1] for section in layers)
    for other in others:
        assert np.array_equal(first, other)


def test_the_peak_has_a_name_and_a_way_down() -> None:
    """What the advice saves is what `predict` says with it."""
    prediction = gpt2cost.predict(MODEL, A100, batch=8, seq=512, phase="prefill")
    logits = next(c for c in prediction.phases[0].kernels if c.row.path == "lm_head").write_bytes
    data = memory(prediction)
    assert data.peak_text == f"lm_head: logits {format_quantity(logits, 'B')}"
    changed = gpt2cost.predict(MODEL, A100, batch=8, seq=512, phase="prefill", logits="last")
    saved = prediction.memory.total_bytes - changed.memory.total_bytes
    assert data.advice == f"--logits last would save {format_quantity(saved, 'B')}"
    step = memory(gpt2cost.predict(MODEL, A100, batch=8, seq=1, cache=512, logits="last"))
    assert "old values of the layer" in step.peak_text
    assert step.advice == ""


# ---------------------------------------------------------------------------------------------- memory over more


@pytest.mark.parametrize(
    "settings",
    [{}, {"batch": 8, "new_tokens": 300}, {"use_cache": False}, {"cache_type": "static"}, {"new_tokens": 1}],
    ids=str,
)
def test_the_peak_over_tokens_is_the_peak_of_generate(settings: dict[str, Any]) -> None:
    run = gpt2cost.generate(MODEL, T4, **settings)
    data = memory_over_tokens(run)
    assert data.peak_bytes == run.peak_bytes
    assert len(data.whole.positions) == run.settings.new_tokens
    if settings.get("new_tokens") == 300:
        grown = np.diff(data.whole.parts["KV cache"])
        assert np.all(grown == 8 * 2 * 6 * 768 * 2)  # sequences, keys and values, layers, width, bytes


@pytest.mark.parametrize(
    "settings",
    [
        {"micro_batch": 8},
        {"micro_batch": 8, "checkpointing": "block"},
        {"micro_batch": 1, "seq": 8},
        {"micro_batch": 2, "gpus": 8, "zero": 3, "grad_accum": 2},
        {"micro_batch": 4, "runtime": "compile", "optimizer": "adamw-fused"},
        {"micro_batch": 4, "attn": "eager", "precision": "fp32"},
        {"micro_batch": 2, "impl": "nanogpt"},
    ],
    ids=str,
)
def test_the_peak_of_a_training_step_is_the_memory_of_train(settings: dict[str, Any]) -> None:
    training = gpt2cost.train(MODEL, A100, **settings)
    data = memory_of_training(training)
    assert data.peak_bytes == training.memory.total_bytes
    for name, own in data.whole.parts.items():
        assert own[data.peak] == getattr(training.memory, f"{name}_bytes"), name
    assert data.whole.names[data.peak] == training.memory.peak_at
    assert [section.label for section in data.whole.sections] == ["forward", "backward", "optimizer"]
    rows = [row for part in training.phases if part.phase in ("forward", "backward") for row in part.pass_.rows]
    launched = sum(
        int(row.count.evaluate(training.phases[0].symbols))
        for row in rows
        if isinstance(row.step, Kernel) and row.step.when.evaluate(training.phases[0].symbols)
    )
    assert len(data.whole.names) == launched + 1
    if settings.get("checkpointing") != "block":
        changed = gpt2cost.train(MODEL, A100, **settings, checkpointing="block")
        saved = training.memory.total_bytes - changed.memory.total_bytes
        assert data.advice == (f"--checkpointing block would save {format_quantity(saved, 'B')}" if saved > 0 else "")


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("batch", [{"micro_batch": 1, "seq": 8}, {"micro_batch": 8}], ids=str)
def test_the_same_of_few_layers_where_something_runs_between_them(layers: int, batch: dict[str, int]) -> None:
    model = gpt2cost.change_model(gpt2cost.load_model(MODEL), {"n_layer": layers})
    for runtime in ("eager", "compile"):
        training = gpt2cost.train(model, A100, runtime=runtime, optimizer="adamw-fused", **batch)
        assert memory_of_training(training).peak_bytes == training.memory.total_bytes


# ---------------------------------------------------------------------------------------------- whole runs


def test_a_generation_with_and_without_a_cache() -> None:
    data = generated(MODEL, T4, batch=8, prompt_tokens=64, new_tokens=20)
    assert [line.label for line in data.lines] == [WITH_CACHE, WITHOUT_CACHE]
    for line, use_cache in zip(data.lines, (True, False), strict=True):
        run = gpt2cost.generate(MODEL, T4, batch=8, prompt_tokens=64, new_tokens=20, use_cache=use_cache)
        assert len(line.values) == len(data.sizes) == 20
        assert line.values[0] == run.ttft_s
        assert np.sum(line.values) == pytest.approx(run.total_s, rel=1e-12)
        assert np.all(line.low < line.values)
        assert np.all(line.values < line.high)
    assert data.missing == ""


def test_a_generation_says_what_it_cannot_show() -> None:
    (line,) = generated(MODEL, A100, new_tokens=3, impl="nanogpt").lines
    assert line.label == WITHOUT_CACHE
    data = generated(MODEL, A100, new_tokens=3, runtime="reduce-overhead", cache_type="static")
    assert [line.label for line in data.lines] == [WITH_CACHE]
    assert "static" in data.missing
    with pytest.raises(InputError, match="batch"):
        generated(MODEL, A100, batch=0)


@pytest.mark.parametrize(
    ("sizes", "points"),
    [
        ({"micro_batch": "1-16*4"}, [{"micro_batch": size} for size in (1, 4, 16)]),
        (
            {"micro_batch": 4, "gpus": "1,8,32", "seq": "512"},
            [{"micro_batch": 4, "seq": 512, "gpus": n, "nodes": m} for n, m in ((1, 1), (8, 1), (32, 4))],
        ),
        (
            {"gpus": "1,2,4", "global_batch": "16", "micro_batch": "2"},
            [{"micro_batch": 2, "global_batch": 16, "gpus": n} for n in (1, 2, 4)],
        ),
    ],
)
def test_a_step_is_split_as_train_splits_it(sizes: dict[str, Any], points: list[dict[str, Any]]) -> None:
    data = step_split(MODEL, A100, check_train_how(), sizes)
    trained = [gpt2cost.train(MODEL, A100, **point) for point in points]
    for number, training in enumerate(trained):
        step = training.step
        assert sum(parts[number] for parts in data.parts.values()) == pytest.approx(step.step_s, rel=1e-12)
        assert np.all(data.parts[HOST_ALONE] >= 0)
        assert data.parts["backward"][number] == pytest.approx(step.backward_s, rel=1e-12)
        assert data.tokens[number] == training.batch.global_tokens
        assert data.fits[number] == training.memory.fits
        if data.axis == "gpus":
            one = trained[0].step.tokens_per_s_per_gpu
            assert data.efficiency[number] == pytest.approx(step.tokens_per_s_per_gpu / one, rel=1e-12)
        else:
            assert data.efficiency[number] == pytest.approx(step.mfu, rel=1e-12)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "exactly one of micro_batch"),
        ({"micro_batch": "1,2", "gpus": "1,2"}, "exactly one of .* got micro_batch and gpus"),
        ({"micro_batch": "0,1"}, "micro_batch"),
        ({"gpus": "1,3", "global_batch": 4, "micro_batch": 1}, "no whole number"),
    ],
)
def test_sizes_that_are_no_sweep_of_steps(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        step_split(MODEL, A100, check_train_how(), sizes)
