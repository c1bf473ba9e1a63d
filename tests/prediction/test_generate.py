"""`generate`: its kernels against a dispatch trace of the real loop, and its times against single passes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from helpers import unrolled
from oracle import tiny
from shapes import assert_shapes
from transformers import GPT2LMHeadModel, VisionEncoderDecoderModel, ViTConfig, ViTModel

import gpt2cost
from gpt2cost.prediction.generate import check_generate
from gpt2cost.prediction.one_pass import Pass, run_rows, table_options
from gpt2cost.prediction.turns import Turns
from gpt2cost.table.config import change_model, load_model
from gpt2cost.table.generate_loop import after, before, setup
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Free, Gemm, Kernel, Row, walk
from gpt2cost.table.options import GRAPHED
from gpt2cost.table.symbols import CONSTANT_BYTES
from gpt2cost.timing.queue import host_cost
from gpt2cost.timing.queue_steps import unrolled as unrolled_rows

CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "one sequence": {"batch": 1},
    "one token": {"new": 1},
    "prompt of one": {"prompt": 1},
    "sample": {"sample": True},
    "padded": {"padded": True},
    "padded, one sequence": {"padded": True, "batch": 1},
    "static": {"cache_type": "static"},
    "static, prompt of one": {"cache_type": "static", "prompt": 1},
    "static, one sequence": {"cache_type": "static", "batch": 1},
    "static and padded": {"cache_type": "static", "padded": True},
    "static and padded, one token": {"cache_type": "static", "padded": True, "new": 1},
    "no cache": {"use_cache": False},
    "no cache, padded": {"use_cache": False, "padded": True},
}
ENCODED: dict[str, dict[str, Any]] = {
    "start token": {"prompt": 1},
    "prompt": {},
    "one sequence": {"batch": 1},
    "sample": {"sample": True, "prompt": 1},
    "static": {"cache_type": "static"},
    "static, start token": {"cache_type": "static", "prompt": 1},
    "no cache": {"use_cache": False},
    "upcast": {"reorder_and_upcast_attn": True},
}
"""Runs of a decoder in an encoder-decoder model."""
PATCHES = 5
"""States that the tiny encoder gives: of 2 x 2 patches, and one more."""


def real_trace(
    attn: str, batch: int, prompt: int, new: int, sample: bool, padded: bool, cache_type: str, use_cache: bool,
    encoder: int, **keys: Any,
) -> oracle.Trace:  # fmt: skip
    torch.manual_seed(0)
    config = tiny(vocab_size=60, add_cross_attention=encoder > 0, **keys)
    model: Any = GPT2LMHeadModel(config).eval()
    config._attn_implementation = attn
    ids = torch.randint(1, config.vocab_size - 1, (batch, prompt))
    mask = torch.ones_like(ids)
    if padded:
        mask[0, 0] = 0
    options: dict[str, Any] = {"cache_implementation": "static"} if cache_type == "static" else {}
    given: dict[str, Any] = {"inputs": ids, "attention_mask": mask}
    if encoder:
        vit = ViTConfig(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
        model = VisionEncoderDecoderModel(encoder=ViTModel(vit, add_pooling_layer=False), decoder=model).eval()
        model.config._attn_implementation = attn
        ids[:, 0] = 1  # the token that a decoder starts with, alone where nothing is given
        given = {"inputs": torch.zeros(batch, 3, 8, 8), "decoder_start_token_id": 1}
        given |= {"decoder_input_ids": ids} if prompt > 1 else {}
    with torch.no_grad(), oracle.Trace(model) as record:
        record.answer = None
        model.generate(
            **given, min_new_tokens=None, max_new_tokens=new, do_sample=sample, use_cache=use_cache,
            eos_token_id=config.vocab_size - 1, pad_token_id=0, **options,
        )  # fmt: skip
    record.launches = [
        replace(launch, module=launch.module.removeprefix("decoder").removeprefix("."))
        for launch in record.launches
        if not launch.module.startswith("encoder")
    ]
    return record


def expected(
    attn: str, batch: int, prompt: int, new: int, sample: bool, padded: bool, cache_type: str, use_cache: bool,
    encoder: int, **keys: Any,
) -> Iterator[tuple[str, Kernel | Free, dict[str, int]]]:  # fmt: skip
    """The steps of our tables, each with the sizes at which it runs."""
    model = load_model(tiny(vocab_size=60, add_cross_attention=encoder > 0, **keys))
    model = change_model(model, {"encoder_len": encoder})
    how = check_generate(
        model, batch, prompt, new, "fp32", attn, "eager", sample, use_cache, cache_type, None, padded
    ).how  # fmt: skip
    options = replace(table_options(model, how), padded=padded, in_generate=True)
    forward = list(unrolled(list(walk(cost_table(options))), model.n_layer))
    for step in range(new):
        seq, cache = (prompt, 0) if step == 0 else (1, prompt + step - 1) if use_cache else (prompt + step, 0)
        kv_len = prompt + new - 1 if cache_type == "static" else seq + cache
        sizes = {"batch_size": batch, "seq_len": seq, "cache_len": cache, "kv_len": kv_len}
        sizes |= {**model.symbols(), **CONSTANT_BYTES, "w_bytes": 4, "a_bytes": 4}

        def plain(rows: tuple[Row, ...]) -> list[tuple[str, Kernel | Free]]:
            return [("", row.step) for row in rows]

        first = plain(setup(options, batch > 1, prompt > 1)) if step == 0 else []
        for module, one in [*first, *plain(before(options)), *forward, *plain(after(options, sample))]:
            if one.when.evaluate(sizes):
                yield module, one, sizes


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("case", [*CASES, *(f"encoder: {case}" for case in ENCODED)])
def test_the_kernels_are_those_of_the_real_loop(case: str, attn: str) -> None:
    has_encoder = case.startswith("encoder: ")
    arguments = {
        "attn": attn, "batch": 2, "prompt": 4, "new": 3, "sample": False, "padded": False, "cache_type": "dynamic",
        "use_cache": True, "encoder": PATCHES * has_encoder,
        **(ENCODED[case.removeprefix("encoder: ")] if has_encoder else CASES[case]),
    }  # fmt: skip
    trace, steps = real_trace(**arguments), list(expected(**arguments))
    # What torch.multinomial launches inside is one op to a dispatch trace.
    steps = [s for s in steps if not re.match(r"multinomial\.(?!aminmax)", s[1].name)]
    kernels = [(module, step, sizes) for module, step, sizes in steps if isinstance(step, Kernel)]

    def op(name: str) -> str:
        return "attention" if "attention" in name else "multinomial" if name == "aminmax" else name

    assert [(m, op(k.op)) for m, k, _ in kernels] == [(launch.module, op(launch.op)) for launch in trace.launches]
    for (module, kernel, sizes), launch in zip(kernels, trace.launches, strict=True):
        where = f"{module} {kernel.name} {launch}"
        if launch.op == "multinomial":  # aminmax, the first kernel in it, stands for it here
            continue
        assert kernel.reads.evaluate(sizes) == launch.read_bytes, where
        assert kernel.writes.evaluate(sizes) == launch.write_bytes, where
        assert_shapes(kernel, launch, sizes, where)
        if isinstance(kernel.shape, Gemm):
            assert kernel.flops.evaluate(sizes) == launch.flops, where
    assert sum(step.count for _, step, _ in steps if isinstance(step, Free) and step.op == "sync") == trace.syncs


# ---------------------------------------------------------------------------------------------- times

RUNS: list[dict[str, Any]] = [
    {},
    {"batch": 64, "dtype": "fp32"},
    {"attn": "eager"},
    {"attn": "flash_attention_2"},
    {"runtime": "compile"},
    {"use_cache": False},
    {"sample": True},
    {"new_tokens": 1},
    {"new_tokens": 2},
    {"prompt_tokens": 1},
    {"encoder_len": 50},
    {"encoder_len": 50, "prompt_tokens": 1, "runtime": "compile"},
]
MASKED: list[dict[str, Any]] = [
    {"padded": True},
    {"cache_type": "static"},
    {"cache_type": "static", "padded": True, "sample": True, "batch": 3},
    {"cache_type": "static", "attn": "eager", "batch": 16},
    {"cache_type": "static", "runtime": "cuda-graph", "batch": 4},
    {"cache_type": "static", "runtime": "reduce-overhead"},
    {"cache_type": "static", "runtime": "cuda-graph", "padded": True},
    {"padded": True, "use_cache": False},
    {"encoder_len": 50, "cache_type": "static"},
    {"encoder_len": 50, "cache_type": "static", "runtime": "cuda-graph", "attn": "eager", "batch": 2},
]


def run(encoder_len: int = 0, **keys: Any) -> gpt2cost.Generation:
    model = load_model("distilgpt2")
    if encoder_len:
        model = change_model(model, {"add_cross_attention": True, "encoder_len": encoder_len})
    return gpt2cost.generate(**{"model": model, "gpu": "a100", "prompt_tokens": 40, "new_tokens": 6, **keys})


@pytest.mark.parametrize("keys", RUNS, ids=str)
def test_it_is_the_sum_of_its_passes_and_of_what_generate_adds(keys: dict[str, Any]) -> None:
    found = run(**keys)
    s = found.settings
    common = {
        "model": found.model, "gpu": "a100", "batch": s.batch_size, "dtype": s.how.dtype, "attn": s.how.attn,
        "runtime": s.how.runtime, "logits": s.how.logits, "use_cache": s.how.use_cache,
    }  # fmt: skip
    prompt = s.prompt_tokens
    sizes = [(prompt, 0)] + [
        (1, prompt + token) if s.how.use_cache else (prompt + token + 1, 0) for token in range(s.new_tokens - 1)
    ]
    passes = [
        gpt2cost.predict(**common, seq=seq, cache=cache, phase="decode" if seq == 1 and cache else "prefill")
        for seq, cache in sizes
    ]
    latencies = [prediction.phases[0].totals.latency_s for prediction in passes]
    assert [float(found.first.pass_s), *found.rest.pass_s] == pytest.approx(latencies, rel=1e-12)
    added = float(found.first.generate_s) + float(np.sum(found.rest.generate_s))
    assert found.total_s == pytest.approx(sum(latencies) + added, rel=1e-12)
    assert found.total_s == pytest.approx(found.ttft_s + float(np.sum(found.rest.latency_s)), rel=1e-15)
    assert np.all(np.asarray([found.first.generate_s, *found.rest.generate_s]) > 0)


@pytest.mark.parametrize("keys", [*RUNS, *MASKED], ids=str)
def test_each_turn_is_one_run_through_the_queue(keys: dict[str, Any]) -> None:
    """Step by step, with the tables' rows in a row: the loop is eager, and the pass runs as it is told to."""
    found = run(**keys)
    s, hw = found.settings, found.hardware
    turns = Turns(found.model, hw, s)
    for number, latency_s in enumerate([float(found.first.latency_s), *found.rest.latency_s]):
        values = turns.values(turns.sizes(number))
        host_s, device_s = 0.0, 0.0
        for rows, runtime in turns.parts(first=number == 0):
            one = run_rows(rows, values, hw, s.how.dtype, runtime)
            if runtime != "eager":
                host_s += hw.host.graph_replay_s
            for row, launch_s in zip_unrolled(one):
                cost_s = host_cost(row.step, hw.host, runtime, values)
                if isinstance(row.step, Kernel):
                    host_s += cost_s
                    waited = host_s + (0.0 if runtime in GRAPHED else hw.host.launch_latency_s)
                    device_s = max(device_s, waited) + float(launch_s)
                else:
                    waits = row.step.op == "sync" and runtime != "cuda-graph"
                    host_s = (max(host_s, device_s) if waits else host_s) + cost_s
        assert latency_s == pytest.approx(max(host_s, device_s), rel=1e-12)


@pytest.mark.parametrize("runtime", ["eager", "compile", "cuda-graph", "reduce-overhead"])
def test_the_last_pass_on_a_static_cache_is_predicts(runtime: str) -> None:
    """There the cache is full, as that of `predict` is."""
    found = run(cache_type="static", runtime=runtime)
    settings: dict[str, Any] = {"runtime": runtime, "cache_type": "static", "logits": "last"}
    pass_ = gpt2cost.predict("distilgpt2", "a100", seq=1, cache=44, **settings).phases[0]
    assert float(found.rest.pass_s[-1]) == pytest.approx(pass_.totals.latency_s, rel=1e-12)


@pytest.mark.parametrize("runtime", ["cuda-graph", "reduce-overhead"])
@pytest.mark.parametrize("keys", [{}, {"use_cache": False}], ids=str)
def test_a_graph_needs_a_static_cache(runtime: str, keys: dict[str, Any]) -> None:
    with pytest.raises(gpt2cost.InputError, match="every step has new ones"):
        run(runtime=runtime, **keys)


def zip_unrolled(one: Pass) -> Iterator[tuple[Row, float]]:
    seconds = {row.step: launch_s for row, launch_s in zip(one.rows, one.launch_s, strict=True)}
    return ((row, seconds[row.step]) for row, _ in unrolled_rows(one.rows, one.symbols))


@pytest.mark.parametrize("keys", [*RUNS, *MASKED], ids=str)
@pytest.mark.parametrize("gpu", ["a100", "t4"])
def test_the_curve_is_monotone(keys: dict[str, Any], gpu: str) -> None:
    if gpu == "t4" and keys.get("attn") == "flash_attention_2":
        pytest.skip("no such kernel on that device")
    found = run(**{**keys, "gpu": gpu, "new_tokens": 300 if keys.get("new_tokens", 9) > 2 else 2, "batch": 8})
    seconds = found.rest.latency_s
    if found.settings.cache_type == "static" and found.settings.padded:
        seconds = seconds[:-1]  # the last mask is as long as the cache, and need not be padded: one kernel less
    # A mask whose rows are a multiple of 8 need not be copied: two curves.
    aligned = found.positions[: len(seconds)] % 8 == 0
    for curve in (seconds[aligned], seconds[~aligned]):
        assert np.all(np.diff(curve) >= -1e-9 * curve[1:])
    prompt, new = found.settings.prompt_tokens, found.settings.new_tokens
    assert found.positions.tolist() == list(range(prompt + 1, prompt + new))


def test_edges() -> None:
    one = run(new_tokens=1)
    assert (one.tpot_first_s, one.tpot_mean_s, one.tpot_last_s) == (None, None, None)
    assert one.total_s == one.ttft_s
    assert [stretch.phase for stretch in one.stretches] == ["prefill"]
    two = run(new_tokens=2)
    assert two.tpot_first_s == two.tpot_last_s == pytest.approx(two.total_s - two.ttft_s)
    assert run(prompt_tokens=1).positions[0] == 2


def test_blocks_of_tokens_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(new_tokens=50)
    monkeypatch.setattr("gpt2cost.prediction.turns.BLOCK", 7)
    blocks = run(new_tokens=50)
    assert blocks.rest.latency_s.tolist() == whole.rest.latency_s.tolist()
    assert blocks.stretches == whole.stretches


def test_what_costs_more() -> None:
    """The directions that a reader expects."""
    plain = run(new_tokens=64)
    assert run(new_tokens=64, sample=True).total_s > plain.total_s
    assert run(new_tokens=64, padded=True).total_s > plain.total_s
    long = {"prompt_tokens": 512, "new_tokens": 64, "batch": 32}
    assert run(**long, use_cache=False).total_s > 5 * run(**long).total_s
    assert run(**long, cache_type="static").peak_bytes != run(**long).peak_bytes
    assert plain.peak_bytes > plain.model.parameters * 2


def test_a_decoder_keeps_the_encoders_keys_and_values() -> None:
    """Made in the first turn, which is longer by more than the others, and there to the end."""
    plain, found = run(), run(encoder_len=500)
    assert found.peak_bytes - plain.peak_bytes > 2 * 6 * 768 * 500 * 2 + 2 * (
        found.model.parameters - plain.model.parameters
    )
    longer = found.rest.pass_s - plain.rest.pass_s
    assert (longer > 0).all()
    assert found.first.pass_s - plain.first.pass_s > longer.max()


def test_peak_memory_of_a_single_pass_is_predicts() -> None:
    """But for the position embeddings, which `generate` looks up for each sequence."""
    found = run(prompt_tokens=512, batch=8, new_tokens=1)
    memory = gpt2cost.predict("distilgpt2", "a100", batch=8, seq=512, logits="last", phase="prefill").memory
    positions = 8 * 512 * 768 * 2
    assert memory.total_bytes < found.peak_bytes < memory.total_bytes + positions


def test_stretches_cover_the_run() -> None:
    found = run(model="gpt2-xl", gpu="a100", batch=1, prompt_tokens=512, new_tokens=20000)
    assert sum(stretch.tokens for stretch in found.stretches) == 20000
    assert sum(stretch.latency_s for stretch in found.stretches) == pytest.approx(found.total_s, rel=1e-12)
    assert [stretch.bound for stretch in found.stretches[1:]] == ["host", "memory"]
    assert found.stretches[1].last_position + 1 == found.stretches[2].first_position
    assert "exceeds n_positions 1024" in found.warnings[0]


def test_cost() -> None:
    found = run(price_per_hour=2.5)
    seconds_a_million = 1e6 / found.tokens_per_s
    assert found.cost_per_million_tokens == pytest.approx(2.5 * seconds_a_million / 3600)
    assert run().cost_per_million_tokens is None
