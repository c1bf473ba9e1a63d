"""Memory-bound kernels of GPUs beside what was measured inside models, and the sense of their form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpt2cost import kernel_latency, load_hardware
from gpt2cost.prediction.one_pass import run_pass, run_rows, symbol_values
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.table.config import change_model, load_model
from gpt2cost.table.fusion import fuse
from gpt2cost.table.generate_loop import after
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Kernel, walk
from gpt2cost.table.options import TableOptions
from gpt2cost.timing.gpu import memory_kind
from gpt2cost.timing.kernel import machine_of

VIDUR = "microsoft/vidur (MLSys 2024): fp16, kernel times of a profiler inside a model, in whole microseconds"
TRACES = "traces of PyTorch on an H100, bf16"
CAMPAIGN = "benchmarks/measurements/h100-sxm-80gb: torch 2.11, whose gathers load whole words, as those of 2023 did not"
LIGER = "linkedin/Liger-Kernel: PyTorch on an RTX 3090, L2 flushed, about 3 us of events inside"
MEASURED = [
    (VIDUR, "layer_norm", "a100", "fp16", {"columns": 2560}, {1: 7, 128: 8, 512: 8, 1024: 11, 2048: 21, 4096: 43}),
    (VIDUR, "layer_norm", "a40", "fp16", {"columns": 2560}, {1: 5, 1024: 20, 2048: 48, 4096: 99.2}),
    (VIDUR, "gather", "a100", "fp16", {"columns": 2560}, {256: 11, 1024: 35, 4096: 140.5}),
    (VIDUR, "gelu", "a100", "fp16", {}, {1310720: 5, 5242880: 15, 10485760: 33, 41943040: 124.5}),
    (VIDUR, "gelu", "a40", "fp16", {}, {1310720: 5, 5242880: 37, 10485760: 73, 41943040: 295}),
    (TRACES, "gelu", "h100", "bf16", {}, {2420736: 5.06, 5308416: 8.83}),
    (TRACES, "layer_norm", "h100", "bf16", {"columns": 768}, {5: 3.58, 788: 4.45}),
    (TRACES, "layer_norm", "h100", "bf16", {"columns": 1024}, {5185: 14.56}),
    (CAMPAIGN, "gather", "h100", "fp16", {"columns": 768}, {4096: 3.80, 32768: 34.3}),
    (LIGER, "softmax", "rtx3090", "bf16", {"columns": 2048}, {2048: 57.0}),
    (LIGER, "softmax", "rtx3090", "fp32", {"columns": 4096}, {2048: 82.0}),
]


@pytest.mark.parametrize(("source", "kind", "gpu", "dtype", "shape", "times_us"), MEASURED)
def test_kernels_take_what_was_measured(
    source: str, kind: str, gpu: str, dtype: str, shape: dict[str, int], times_us: dict[int, float]
) -> None:
    size = "elements" if kind == "gelu" else "rows"
    predicted = kernel_latency(kind, gpu, dtype, **shape, **{size: np.array([*times_us])}).device_s
    assert np.abs(1e6 * predicted / np.array([*times_us.values()]) - 1.0).max() < 0.2, source


def test_a_softmax_of_long_rows_gives_each_a_block() -> None:
    """2048 rows: measured 14.3 us at 1024 columns and 59.4 at 2048 (bf16, RTX 3090, LIGER above)."""
    short, long = (kernel_latency("softmax", "rtx3090", "bf16", rows=2048, columns=n).device_s for n in (1024, 2048))
    assert long > 3.5 * short


@pytest.mark.parametrize("gpu", ["a100-pcie-40gb", "a100-pcie-80gb", "h100", "l4", "t4"])
def test_a_softmax_takes_no_less_for_one_more_column(gpu: str) -> None:
    rows = np.unique(np.geomspace(1, 1e6, 100).astype(int))
    for dtype in ("fp32", "fp16"):
        warp, block = (kernel_latency("softmax", gpu, dtype, rows=rows, columns=n).device_s for n in (1024, 1025))
        assert np.all(block >= warp)


def test_gelu_in_one_kernel_is_bound_by_arithmetic_in_l2() -> None:
    """An H100's addition moves half as much again in about the same time: 9.5 us of 5.3 million elements (TRACES)."""
    gelu = kernel_latency("gelu", "h100", "bf16", elements=5_308_416)
    plain = kernel_latency("elementwise", "h100", "bf16", elements=5_308_416)
    assert gelu.device_s > 1.3 * plain.device_s
    assert gelu.bound == "compute"
    faster = dict(machine_of(load_hardware("h100")).improvements())["2x FLOP/s"]
    assert kernel_latency("gelu", faster, "bf16", elements=5_308_416).device_s < 0.8 * gelu.device_s


def test_upcast_scores_have_as_many_elements_as_plain_ones() -> None:
    """Upcast attention's softmax writes float32 in every dtype; so do mask kernels write int64 and bool."""
    upcast = replace(load_model("gpt2"), reorder_and_upcast_attn=True)
    kernels_s = {}
    for dtype in ("fp32", "fp16"):
        kernels = run_pass(upcast, load_hardware("a100"), How(dtype, "eager"), Sizes(8, 1100, 0)).kernels
        kernels_s[dtype] = {cost.kernel.name: cost.terms.device_s for cost in kernels}
    for name in ("softmax", "causal_mask.le"):
        assert kernels_s["fp16"][name] == pytest.approx(kernels_s["fp32"][name], rel=0.02)


def test_what_times_a_kernel() -> None:
    """A compiler's layer norm streams like an element-wise kernel (LLMCompass, A100: 2.2 TB/s where PyTorch's own has
    1.0); a concatenation is no permuted copy."""
    rows = list(walk(cost_table(TableOptions(attn="eager"))))
    eager, compiled = (
        {row.step.op: memory_kind(row.step) for row in table if isinstance(row.step, Kernel)}
        for table in (rows, fuse(rows))
    )
    assert eager["native_layer_norm"] == "layer_norm"
    assert (eager["_softmax"], eager["cat"], eager["tanh"]) == ("softmax", "cat", "elementwise")
    assert compiled["add+native_layer_norm"] == "elementwise"


def test_what_is_concatenated_element_by_element() -> None:
    """New keys that are strided: of several tokens of any sequences, of an encoder's states after a prompt of one too.
    Those of one token alone lie in a row."""
    model = change_model(load_model("gpt2"), {"add_cross_attention": True, "encoder_len": 1500})
    found = {}
    for batch, seq, cache in ((1, 1, 0), (1, 2, 0), (1, 1, 1000), (2, 1, 1000)):
        kernels = run_pass(model, load_hardware("h100"), How().on(model), Sizes(batch, seq, cache)).kernels
        found[batch, seq, cache] = {cost.kernel.name: float(cost.terms.device_s) for cost in kernels}
    of_states = [found[sizes]["cat_cross_key"] for sizes in ((1, 1, 0), (1, 2, 0))]
    assert of_states[0] == pytest.approx(of_states[1], rel=0.01)
    assert found[2, 1, 1000]["cat_key"] > 3 * found[1, 1, 1000]["cat_key"]


def test_steps_that_write_nothing_take_a_launch() -> None:
    """The assertions of `torch.multinomial`, which stay on the device."""
    hw = load_hardware("h100")
    rows = after(TableOptions(), sample=True)
    values = symbol_values(load_model("gpt2"), "fp16", Sizes(2, 1, 8))
    found = {cost.kernel.op: cost.terms for cost in run_rows(rows, values, hw, "fp16", "eager").kernels}
    assert found["_assert_async"].device_s == pytest.approx(hw.launch.stream_floor_s, rel=0.2)


@pytest.mark.parametrize("gpu", ["a100", "h100", "l4", "t4", "v100-pcie", "rtx4090", "rtx3090", "m1", "m3-max"])
def test_more_rows_never_take_less(gpu: str) -> None:
    rows = np.unique(np.geomspace(1, 1e5, 400).astype(int))
    columns = np.array([[64], [1024], [1025], [1600]])
    for kind in ("softmax", "layer_norm", "gather"):
        assert (np.diff(kernel_latency(kind, gpu, "fp16", rows=rows, columns=columns).device_s) >= 0).all()
