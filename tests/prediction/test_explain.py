"""What `--explain` says: nothing beats the speed of light, and better hardware never makes a pass slower."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest

from gpt2cost import change_model, load_hardware, load_model, predict
from gpt2cost.prediction.explain import advice, explain, paddings_that_help


@pytest.mark.parametrize("gpu", ["a100", "h100", "rtx4090", "t4", "m1-max"])
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_no_kernel_beats_the_speed_of_light(gpu: str, dtype: str, attn: str) -> None:
    for batch, seq, cache in ((1, 1024, 0), (4, 1024, 0), (8, 1, 512), (8, 128, 512)):
        prediction = predict("gpt2", gpu, batch=batch, seq=seq, cache=cache, dtype=dtype, attn=attn)
        for phase in prediction.phases:
            slowest = explain(prediction, phase, top=100).slowest
            assert len(slowest) > 10
            for kernel in slowest:
                assert kernel.gap >= 0.5 if "attention" in kernel.name else kernel.gap >= 0.999, kernel


def test_better_hardware_is_never_slower() -> None:
    for gpu in ("a100", "rtx3090", "m2"):
        prediction = predict("gpt2", gpu, batch=4, seq=256)
        for phase in prediction.phases:
            changes = {change.change: change for change in explain(prediction, phase).sensitivity}
            hardware = {name for name, change in changes.items() if change.kind == "hardware"}
            assert hardware == {"2x DRAM bandwidth", "2x L2 bandwidth", "2x FLOP/s", "no launch cost, no host time"}
            for change in changes.values():
                assert 0 < change.latency_s <= phase.totals.latency_s * (1 + 1e-9)
                assert change.speedup == pytest.approx(phase.totals.latency_s / change.latency_s)


def test_what_blocks_and_rows_take_is_no_launch() -> None:
    """A thread block's own time and that of more than one row are work of the device."""
    model = load_hardware("a100").gpu_model
    without = model.without_launch()
    assert without.gemm["fp16"] == replace(model.gemm["fp16"], launch_s=0.0, split_s=0.0, gemv_s=0.0)
    kept, own = without.attention["flash2"]["64"], model.attention["flash2"]["64"]
    assert (kept.block_s, kept.launch_s, kept.split_s) == (own.block_s, 0.0, 0.0)


def test_without_launches_a_decode_step_is_its_kernels() -> None:
    """What is left of a host-bound step is device time, well below the step's busy time of short kernels."""
    prediction = predict("gpt2", "a100", batch=1, seq=1, cache=64)
    (phase,) = prediction.phases
    free = explain(prediction, phase).sensitivity[-1]
    assert free.latency_s < phase.totals.device_s < phase.totals.latency_s


def test_the_slowest_come_first_and_sum_their_launches() -> None:
    prediction = predict("gpt2", "h100", batch=8, seq=512)
    phase = prediction.phases[0]
    slowest = explain(prediction, phase, top=3).slowest
    seconds = sorted((float(cost.device_s) for cost in phase.kernels), reverse=True)[:3]
    assert [kernel.device_s for kernel in slowest] == pytest.approx(seconds)


def changes_of(gpu: str, **settings: Any) -> dict[str, float]:
    """What of the software helps the first phase, and how much."""
    prediction = predict("gpt2", gpu, **settings)
    sensitivity = explain(prediction, prediction.phases[0]).sensitivity
    return {change.change: change.speedup for change in sensitivity if change.kind == "software"}


def test_what_helps_in_software() -> None:
    """Against a prediction of the changed run; only what the device can follow, and what differs."""
    work: dict[str, Any] = {"batch": 8, "seq": 512, "attn": "eager", "dtype": "fp32", "phase": "prefill"}
    changes = changes_of("a100", **work)
    plain = predict("gpt2", "a100", **work).phases[0].totals.latency_s
    for change, speedup in changes.items():
        name, value = change.split()[:2]
        other = predict("gpt2", "a100", **{**work, name: value}).phases[0].totals.latency_s
        assert speedup == pytest.approx(plain / other, rel=1e-9)
        assert speedup >= 1.005
    assert {"runtime compile", "attn sdpa", "dtype fp16", "dtype tf32", "logits last"} <= set(changes)
    assert list(changes.values()) == sorted(changes.values(), reverse=True)


@pytest.mark.parametrize("gpu", ["m1", "t4", "h100"])
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_no_advice_that_the_device_cannot_follow(gpu: str, dtype: str) -> None:
    changes = set(changes_of(gpu, batch=1, seq=64, dtype=dtype))
    if gpu == "m1":
        assert not changes & {"runtime cuda-graph", "runtime reduce-overhead"}
    if gpu != "h100" or dtype != "fp16":
        assert "attn flash_attention_2" not in changes
    if gpu == "t4":
        assert not changes & {"dtype tf32", "dtype bf16"}
    asking = set(changes_of("h100", batch=1, seq=64, attn="flash_attention_2"))
    assert "runtime cuda-graph" not in asking
    assert "runtime compile" in asking


def test_padding_pays_where_rows_are_not_aligned() -> None:
    """GPT-2's 50257 tokens, and eager attention over 601 keys; with 50304 and 608 there is nothing to pad. A compiler
    pads a weight itself, by a copy that a pass of many tokens hardly notices."""

    def helps(model: Any = "distilgpt2", seq: int = 601, **how: str) -> set[str]:
        prediction = predict(model, "h100", batch=16, seq=seq, attn="eager", phase="prefill", **how)
        return {change.change for change in paddings_that_help(prediction, prediction.phases[0])}

    assert helps() == {"vocab_size padded to 50304", "kv_len padded to 608"}
    assert "vocab_size padded to 50304" not in helps(runtime="compile")
    assert helps(change_model(load_model("distilgpt2"), {"vocab_size": 50304}), seq=608) == set()
    assert helps(dtype="fp32") == set()


def test_the_least_time_of_a_decode_steps_weights_is_drams() -> None:
    """Weights are cold: c_fc of one token cannot take less than its bytes at full DRAM speed, whatever fits into L2."""
    prediction = predict("gpt2", "l4", seq=1, cache=64)
    found = {kernel.name: kernel for kernel in explain(prediction, prediction.phases[0], top=100).slowest}
    weights = 12 * 768 * 3072 * 2
    bandwidth = prediction.hardware.memory.bandwidth_bytes_per_s
    assert found["transformer.h.mlp.c_fc"].speed_of_light_s == pytest.approx(weights / bandwidth, rel=0.02)


@pytest.mark.parametrize(("gpu", "cache"), [("a100", 128), ("a100", 512), ("h100", 512), ("v100", 128)])
def test_a_bound_does_not_flicker(gpu: str, cache: int) -> None:
    """From a batch on a decode step is bound by memory, and not by it here and by launches or waves there."""
    batches = np.arange(1, 65)
    step = predict("gpt2", gpu, batch=batches, seq=1, cache=cache, runtime="reduce-overhead", phase="prefill")
    bounds = [bound for bound, _ in groupby(step.phases[0].totals.bound)]
    assert len(bounds) == len(set(bounds))


# ---------------------------------------------------------------------------------------------- advice

WORK: list[dict[str, Any]] = [
    {"gpu": "a100", "batch": 8, "seq": 512}, {"gpu": "t4", "batch": 8, "seq": 512, "attn": "eager"},
    {"gpu": "h100", "batch": 64, "seq": 1, "cache": 960, "runtime": "compile"}, {"gpu": "m1", "batch": 8, "cache": 512},
    {"gpu": "a100", "batch": 1, "seq": 1, "cache": 64}, {"gpu": "a100", "runtime": "reduce-overhead", "logits": "last"},
    {"gpu": "a100", "use_cache": False, "batch": 8}, {"gpu": "h100", "batch": 4, "impl": "nanogpt"},
]  # fmt: skip


@pytest.mark.parametrize("work", WORK, ids=str)
def test_advice_is_a_prediction_of_the_changed_run(work: dict[str, Any]) -> None:
    prediction = predict("gpt2", **work)
    for number, phase in enumerate(prediction.phases):
        latency_s, kernels = phase.totals.latency_s, {cost.row.path: cost for cost in phase.kernels}
        for each in advice(prediction, phase):
            setting, _, value = each.change.partition(" ")
            if not value.startswith("padded"):
                other = predict("gpt2", **{**work, setting: value}).phases[number].totals.latency_s
                assert each.latency_s == pytest.approx(other)
                assert each.saves == pytest.approx(1 - other / latency_s)
                assert each.saves >= 0.05
            taken = sum(kernels[path].device_s for path in each.kernels)
            assert each.share == pytest.approx(taken / latency_s)
            assert {kernels[path].row.module for path in each.kernels} <= {each.module}


@pytest.mark.parametrize("work", WORK, ids=str)
def test_a_static_cache_is_advised_where_it_helps(work: dict[str, Any]) -> None:
    """A pass of whose time concatenations are a part, and that is faster without them, and no other."""
    prediction = predict("gpt2", **work)
    if not prediction.how.use_cache:
        assert not any("cache" in each.change for phase in prediction.phases for each in advice(prediction, phase))
        return
    static = predict("gpt2", **work, cache_type="static")
    for phase, other in zip(prediction.phases, static.phases, strict=True):
        cat_s = sum(cost.device_s for cost in phase.kernels if cost.kernel.op == "cat")
        latency_s = phase.totals.latency_s
        helps = cat_s >= 0.05 * latency_s and other.totals.latency_s <= 0.95 * latency_s
        (*found,) = (each for each in advice(prediction, phase) if each.change == "cache_type static")
        assert len(found) == helps
        for each in found:
            assert {path.rpartition(".")[2] for path in each.kernels} in ({"cat_key", "cat_value"}, set())
