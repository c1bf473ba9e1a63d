"""A CPU as a device: its forms, its timeline without a queue, and every command on it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import Result
from hypothesis import given
from hypothesis import strategies as st

from gpt2cost import InputError, predict, train
from gpt2cost.device.catalog import change_hardware, validate_file
from gpt2cost.device.cpu_constants import CpuConstants, CpuKind, CpuProducts, ProductCurve
from gpt2cost.device.hardware import Compute, Hardware, Host, Launch, Memory
from gpt2cost.device.to_yaml import hardware_yaml
from gpt2cost.prediction.one_pass import run_pass
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.table.config import load_model
from gpt2cost.timing.cpu import attention_terms, memory_terms, product_terms
from gpt2cost.timing.queue_steps import run_queue


def curve(*element_ns: float, launch_us: float = 5.0, start_us: float = 0.0) -> ProductCurve:
    rows = (1, 8, 64, 512)[: len(element_ns)]
    return ProductCurve(
        rows=rows, element_s=tuple(ns * 1e-9 for ns in element_ns), launch_s=launch_us * 1e-6, start_s=start_us * 1e-6
    )


def kind(element_ns: float, parallel_ns: float) -> CpuKind:
    return CpuKind(launch_s=2e-6, element_s=element_ns * 1e-9, fork_s=5e-6, parallel_element_s=parallel_ns * 1e-9)


CPU = Hardware(
    name="test-cpu",
    vendor="cpu",
    architecture="AVX2",
    memory=Memory(32e9, 20e9, 16e6, 80e9),
    compute=Compute(2, {"fp32": 150e9}),
    launch=Launch(2e-6, 2e-6),
    host=Host("a CPU", 1e-7, 2e-5, 3e-6, 5e-6, 1e-10, 1e-10, 1e-10, 1e-7, synchronous=True),
    model=CpuConstants(
        products={
            "fp32": CpuProducts(
                addmm=curve(0.25, 0.7, 1.4, 8.0),
                mm=curve(0.3, 1.0, 2.3, 11.0),
                scores=curve(0.3, 0.6, 1.5, 9.5, start_us=0.05),
                context=curve(0.2, 0.5, 1.3, 9.0, start_us=0.05),
            )
        },
        attention={"fp32": curve(0.5, 1.5, 5.0, 40.0, start_us=0.3)},
        masked_attention=0.9,
        kinds={
            "elementwise": kind(0.2, 0.1), "copy": kind(0.15, 0.1), "cat": kind(0.2, 0.12), "tanh": kind(2.0, 1.2),
            "gelu": kind(2.2, 1.3), "softmax": kind(0.9, 0.5), "layer_norm": kind(0.5, 0.25), "where": kind(0.8, 0.5),
            "gather": kind(0.2, 0.15),
        },
        fresh_from_bytes=32e6,
        fresh_bytes_per_s=2.5e9,
    ),
    provenance={"model": "made up for tests"},
)  # fmt: skip


# ---------------------------------------------------------------------------------------------- forms and timeline


def test_a_pass_is_the_sum_of_its_host_and_its_kernels() -> None:
    """There is no queue: nothing overlaps."""
    for seq, cache in ((1, 64), (128, 0), (64, 448)):
        for attn in ("sdpa", "eager"):
            totals = predict("gpt2", CPU, seq=seq, cache=cache, dtype="fp32", attn=attn).phases[0].totals
            assert totals.latency_s == pytest.approx(totals.host_s + totals.device_s, rel=1e-6)


def test_step_by_step_nothing_overlaps_either() -> None:
    pass_ = run_pass(load_model("distilgpt2"), CPU, How("fp32", "eager"), Sizes(1, 64, 0))
    slices = list(run_queue(pass_.rows, pass_.launch_s, pass_.symbols, CPU.host, "eager"))
    assert all(after.start_s >= before.end_s - 1e-12 for before, after in itertools.pairwise(slices))
    assert slices[-1].end_s == pytest.approx(pass_.times.latency_s, rel=1e-9)


@given(st.integers(1, 64), st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4096), st.integers(1, 4000))
def test_products_grow_and_keep_to_the_peak(batch: int, m: int, n: int, k: int, more: int) -> None:
    for name in ("addmm", "mm", "scores", "context"):
        time_s = product_terms(CPU, "fp32", name, batch, m, n, k, 4).device_s
        assert time_s >= 2.0 * batch * m * n * k / 150e9
        for grown in (
            (batch + more, m, n, k),
            (batch, m + more, n, k),
            (batch, m, n + more, k),
            (batch, m, n, k + more),
        ):
            assert product_terms(CPU, "fp32", name, *grown, 4).device_s >= time_s


def test_two_rows_take_no_less_than_one_that_starts_anew_with_each_row() -> None:
    products = CPU.cpu_model.products["fp32"]
    slow = replace(products, addmm=replace(products.addmm, row_s=1e-6))
    hw = replace(CPU, model=replace(CPU.cpu_model, products={**CPU.cpu_model.products, "fp32": slow}))
    runs = ((CPU, 1), (hw, 1), (hw, 2))
    plain, one, two = (product_terms(device, "fp32", "addmm", 1, m, 768, 768, 4).device_s for device, m in runs)
    assert plain + 700e-6 < one <= two


@given(st.integers(1, 10**8), st.integers(1, 10**8))
def test_memory_bound_kernels_grow_and_keep_to_the_memory(elements: int, more: int) -> None:
    for name in CPU.cpu_model.kinds:
        time_s = memory_terms(CPU, name, 4.0 * elements, 4.0 * elements, elements).device_s
        larger = elements + more
        assert memory_terms(CPU, name, 4.0 * larger, 4.0 * larger, larger).device_s >= time_s
        if 8 * elements > 16e6:
            assert time_s >= 8 * elements / 20e9


@given(st.integers(1, 64), st.integers(1, 1024), st.integers(0, 2048), st.integers(1, 512), st.booleans())
def test_attention_grows(pairs: int, new: int, cached: int, more: int, masked: bool) -> None:
    sizes = [(pairs, 64, new, cached), (pairs + more, 64, new, cached), (pairs, 64, new + more, cached), (pairs, 64, new, cached + more)]  # fmt: skip  # noqa: E501
    first, *grown = (attention_terms(CPU, "fp32", *each, 4, masked=masked).device_s for each in sizes)
    assert all(time_s >= first for time_s in grown)


def test_a_grid_equals_the_loop_of_its_points() -> None:
    batch, seq = np.array([1, 4])[:, None], np.array([16, 512])
    grid = predict("distilgpt2", CPU, batch=batch, seq=seq, dtype="fp32", phase="prefill").phases[0].totals
    for i, j in np.ndindex(2, 2):
        one = predict("distilgpt2", CPU, batch=int(batch[i, 0]), seq=int(seq[j]), dtype="fp32", phase="prefill")
        assert grid.latency_s[i, j] == pytest.approx(one.phases[0].totals.latency_s, rel=1e-12)


def test_an_output_beyond_the_threshold_pays_for_fresh_memory() -> None:
    small, large = (memory_terms(CPU, "copy", size, size, size / 4).device_s / size for size in (16e6, 128e6))
    assert large > small + 0.9 / 2.5e9


def test_a_steps_cache_reuses_memory_and_comes_from_dram() -> None:
    """What a step appends to was last touched a step ago; its outputs take the place of what the last step freed, be it
    90 MB: none is fresh, and none faster than DRAM."""
    kernels = run_pass(load_model("gpt2"), CPU, How("fp32", "sdpa"), Sizes(4, 1, 300)).kernels
    cats = [cost for cost in kernels if cost.kernel.op == "cat"]
    moved = sum(cost.moved_bytes for cost in cats)
    assert len(cats) == 2
    assert 170e6 < moved < 180e6
    assert moved / 20e9 <= sum(cost.device_s for cost in cats) <= 1.5 * moved / 20e9


def test_upcast_scores_are_multiplied_in_fp32_whatever_the_models_dtype() -> None:
    """HuggingFace casts queries and keys to float32 before `baddbmm`: what bf16 products take does not matter to it."""
    fp32 = CPU.cpu_model.products["fp32"]
    faster = fp32.map(lambda c: replace(c, element_s=tuple(0.25 * s for s in c.element_s), start_s=0.0, launch_s=1e-6))
    model = replace(
        CPU.cpu_model,
        products={"fp32": fp32, "bf16": faster},
        attention=dict.fromkeys(("fp32", "bf16"), CPU.cpu_model.attention["fp32"]),
    )
    hw = replace(CPU, model=model, compute=Compute(2, {"fp32": 150e9, "bf16": 600e9}))
    upcast = replace(load_model("gpt2"), reorder_and_upcast_attn=True)
    kernels = run_pass(upcast, hw, How("bf16", "eager"), Sizes(1, 128, 0)).kernels
    (found,) = (cost.terms.device_s for cost in kernels if cost.kernel.op == "baddbmm")
    assert found == pytest.approx(product_terms(hw, "fp32", "scores", 12, 128, 128, 64, 4).device_s)


def test_upcast_scores_have_as_many_elements_as_plain_ones() -> None:
    """The softmax writes float32 whatever the model's dtype is: its elements are as many, twice as large."""
    products, attention = CPU.cpu_model.products["fp32"], CPU.cpu_model.attention["fp32"]
    both = {"products": {"fp32": products, "bf16": products}, "attention": {"fp32": attention, "bf16": attention}}
    model = replace(CPU.cpu_model, **both)
    hw = replace(CPU, model=model, compute=Compute(2, {"fp32": 150e9, "bf16": 150e9}))
    upcast, kernels_s = replace(load_model("gpt2"), reorder_and_upcast_attn=True), {}
    for dtype in ("fp32", "bf16"):
        kernels = run_pass(upcast, hw, How(dtype, "eager"), Sizes(1, 64, 0)).kernels
        kernels_s[dtype] = {cost.kernel.name: cost.terms.device_s for cost in kernels}
    for name in ("softmax", "causal_mask.q_offset"):
        assert kernels_s["bf16"][name] == pytest.approx(kernels_s["fp32"][name], rel=1e-9)


def test_what_a_cpu_cannot_do_is_an_input_error() -> None:
    for settings in ({"dtype": "fp16"}, {"dtype": "fp32", "runtime": "cuda-graph"}):
        with pytest.raises(InputError, match="test-cpu"):
            predict("gpt2", CPU, **settings)


@pytest.mark.parametrize("command", ["predict", "sweep", "compare", "fit", "generate", "table", "kernel"])
def test_every_command_takes_a_cpu(command: str, tmp_path: Path, gpt2cost: Callable[..., Result]) -> None:
    (tmp_path / "cpu.yaml").write_text(hardware_yaml(CPU))
    flags = {
        "predict": ["--model", "gpt2", "--explain"],
        "sweep": ["--model", "gpt2", "--batch", "1,8"],
        "compare": ["--model", "gpt2", "--attn", "sdpa,eager"],
        "fit": ["--model", "gpt2"],
        "generate": ["--model", "gpt2", "--prompt", "16", "--new-tokens", "8"],
        "table": ["--model", "gpt2"],
        "kernel": ["gemm", "--m", "8", "--n", "768", "--k", "768"],
    }
    gpu = [] if command == "table" else ["--gpu", str(tmp_path / "cpu.yaml")]
    result = gpt2cost(command, *flags[command], *gpu, "--dtype", "fp32")
    assert (result.code, bool(result.out)) == (0, True), result.err


def test_a_cpus_constants_can_be_set() -> None:
    slow = change_hardware(CPU, {"model.kinds.tanh.launch": "1 ms", "host.module": "1 ms"})
    assert slow.cpu_model.kinds["tanh"].launch_s == 1e-3
    with pytest.raises(InputError, match="unknown key"):
        change_hardware(CPU, {"model.gemm.fp32.efficiency": "0.5"})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("vendor: cpu", "vendor: apple", "vendor: cpu goes with"),
        ("rows: [1, 8, 64, 512]", "rows: [1, 64, 8, 512]", "rising order"),
        ("0.25 ns, 0.7 ns", "0.7 ns, 0.25 ns", "below the one before"),
        ("masked_attention", "maskedattention", "unknown key"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(old: str, new: str, says: str, tmp_path: Path) -> None:
    text = hardware_yaml(CPU)
    assert old in text
    (tmp_path / "cpu.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=says):
        validate_file(tmp_path / "cpu.yaml")


def test_scaling_the_constants_scales_the_times() -> None:
    """What `--explain` asks: how much faster would a pass be, if products were twice as fast?"""
    faster = replace(CPU, model=CPU.cpu_model.scaled_products(element=0.5), compute=Compute(2, {"fp32": 300e9}))
    one, two = (product_terms(hw, "fp32", "addmm", 1, 64, 768, 768, 4) for hw in (CPU, faster))
    assert two.device_s - 5e-6 == pytest.approx((one.device_s - 5e-6) / 2, rel=1e-6)


# ---------------------------------------------------------------------------------------------- training


def test_an_op_over_a_list_is_one_op_for_each_tensor() -> None:
    """As `torch.optim.AdamW(foreach=True)` runs on a CPU; only what is made anew needs memory that is fresh."""
    training = train("gpt2", CPU, precision="fp32", seq=64, clip_grad_norm=None)
    kernels = {cost.row.path: cost for phase in training.phases for cost in phase.kernels if phase.phase == "optimizer"}
    wide, layers = 768, 12
    matrices = [50257 * wide, 1024 * wide, *[3 * wide * wide, wide * wide, 4 * wide * wide, 4 * wide * wide] * layers]
    each = np.array(matrices, float)
    whole = 4 * sum(matrices)
    in_place, anew = (
        sum(float(memory_terms(CPU, "elementwise", 4 * n, 4 * n, n, 2 * whole, in_place=own).device_s) for n in each)
        for own in (True, False)
    )
    assert kernels["optimizer.matrices.decay"].device_s == pytest.approx(in_place)
    assert kernels["optimizer.matrices.sqrt"].device_s == pytest.approx(anew)
    embedding = 4 * matrices[0]  # no other tensor is so large that its memory is fresh
    assert anew - in_place > embedding / 2.5e9


def test_every_kernel_of_a_step_has_a_time_on_a_cpu() -> None:
    """Of both implementations, and the time grows with the batch."""
    for impl in ("hf", "nanogpt"):
        steps = [train("distilgpt2", CPU, precision="fp32", seq=64, impl=impl, dropout=0.0, micro_batch=batch)
                 for batch in (1, 4)]  # fmt: skip
        for step in steps:
            assert all(cost.device_s > 0 for phase in step.phases for cost in phase.kernels if cost.moved_bytes)
        assert steps[0].step.backward_s < steps[1].step.backward_s
        assert steps[0].step.optimizer_s == pytest.approx(steps[1].step.optimizer_s)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_that_drops_out_is_not_fused_on_a_cpu(dropout: float) -> None:
    """What torch runs there: its fused kernel takes no dropout."""
    torch = pytest.importorskip("torch")
    profiler = pytest.importorskip("torch.profiler")
    q = torch.randn(1, 2, 8, 16, requires_grad=True)
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU]) as recorded:
        torch.nn.functional.scaled_dot_product_attention(q, q, q, dropout_p=dropout, is_causal=True).sum().backward()
    ran = {event.name for event in recorded.events()}
    step = train("distilgpt2", CPU, precision="fp32", seq=64, dropout=dropout)
    listed = {cost.kernel.op for phase in step.phases for cost in phase.kernels}
    assert ("aten::bmm" in ran) == ("bmm" in listed) == (dropout > 0)
    assert ("aten::_softmax_backward_data" in ran) == ("_softmax_backward_data" in listed) == (dropout > 0)
