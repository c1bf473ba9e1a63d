"""The machine model's physical sense: bounds, monotonicity, continuity; and that it reaches what measurements say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import gpt2cost
from gpt2cost import InputError, kernel_latency, list_hardware, load_hardware
from gpt2cost.prediction.one_kernel import KERNEL_KINDS
from gpt2cost.timing.kernel import bound_seconds

DEVICES = ("a100", "h100", "l40s", "v100-pcie", "t4", "l4", "rtx4090", "rtx3090", "h200", "m1", "m4-max")
SHAPES: dict[str, dict[str, Any]] = {
    "gemm": {"m": 512, "n": 768, "k": 768},
    "bmm": {"batch": 12, "m": 128, "n": 128, "k": 64},
    "attention": {"batch": 2, "heads": 12, "head_dim": 64, "new_tokens": 100, "cached_tokens": 50},
    "elementwise": {"elements": 10_000, "inputs": 2},
    "softmax": {"rows": 1000, "columns": 512},
    "layer_norm": {"rows": 1000, "columns": 768},
    "copy": {"elements": 10_000},
    "gelu": {"elements": 10_000},
    "gather": {"rows": 1000, "columns": 768},
}
size = st.integers(1, 100_000) | st.sampled_from([1, 2, 3, 63, 64, 65, 127, 128, 129, 768, 1024, 2304, 3072, 50257])
small = st.integers(1, 300)
device = st.sampled_from(DEVICES)
dtype = st.sampled_from(["fp32", "fp16"])


def seconds(kind: str, gpu: str, dtype: str, **shape: Any) -> float:
    return float(kernel_latency(kind, gpu, dtype, **shape).device_s)


def assert_within_bounds(kind: str, gpu: str, dtype: str, causal_share: float = 1.0, **shape: Any) -> None:
    """No kernel beats its peak, L2's bandwidth or, beyond L2, DRAM's. One that only moves bytes may leave an L2 of them
    there: it finds what it read last, or its results are written to DRAM later."""
    hw = load_hardware(gpu)
    result = kernel_latency(kind, gpu, dtype, **shape)
    moved = float(result.read_bytes + result.write_bytes)
    if kind in ("gemm", "bmm", "attention"):
        assert result.device_s >= 0.999 * causal_share * result.flops / hw.compute.peak_flop_per_s[dtype]
    fastest_l2 = max(hw.memory.l2_bandwidth_bytes_per_s, hw.model.memory.l2_copy_bytes_per_s)
    assert result.device_s >= 0.999 * moved / fastest_l2
    if moved > hw.memory.l2_bytes:
        kept = 0.0 if kind in ("gemm", "bmm", "attention") else hw.memory.l2_bytes
        assert result.device_s >= 0.999 * (moved - kept) / hw.memory.bandwidth_bytes_per_s
    assert math.isfinite(result.device_s)


@given(device, dtype, size, size, size)
@settings(max_examples=100)
def test_products_stay_within_bounds(gpu: str, dtype: str, m: int, n: int, k: int) -> None:
    assert_within_bounds("gemm", gpu, dtype, m=m, n=n, k=k)


@given(device, dtype, small, st.integers(1, 2048), st.integers(1, 2048), st.integers(1, 2048))
@settings(max_examples=100)
def test_batched_products_stay_within_bounds(gpu: str, dtype: str, batch: int, m: int, n: int, k: int) -> None:
    assert_within_bounds("bmm", gpu, dtype, batch=batch, m=m, n=n, k=k)


@given(device, dtype, st.integers(1, 64), st.integers(1, 32), st.integers(1, 4096), st.integers(0, 8192))
@settings(max_examples=100)
def test_attention_stays_within_bounds(gpu: str, dtype: str, batch: int, heads: int, new: int, cached: int) -> None:
    """The causal rule leaves at least half of the square's work."""
    shape = {"batch": batch, "heads": heads, "head_dim": 64, "new_tokens": new, "cached_tokens": cached}
    assert_within_bounds("attention", gpu, dtype, causal_share=0.5, **shape)


@given(device, dtype, st.sampled_from(["elementwise", "softmax", "layer_norm", "copy"]), size, st.integers(1, 4096))
@settings(max_examples=100)
def test_memory_bound_kernels_stay_within_bounds(gpu: str, dtype: str, kind: str, rows: int, columns: int) -> None:
    if kind in ("softmax", "layer_norm"):
        assert_within_bounds(kind, gpu, dtype, rows=rows, columns=columns)
    else:
        assert_within_bounds(kind, gpu, dtype, elements=rows * columns)


@pytest.mark.parametrize("kind", KERNEL_KINDS)
@given(device, dtype, st.data())
@settings(max_examples=60)
def test_more_work_takes_no_less_time(kind: str, gpu: str, dtype: str, data: st.DataObject) -> None:
    """Batch, rows and tokens. K of a product and the columns of a reduction may trade a split or a launch."""
    grows = {
        "gemm": ("batch", "m", "n"), "bmm": ("batch", "m", "n"), "attention": ("batch", "heads", "new_tokens"),
        "elementwise": ("elements",), "softmax": ("rows",), "layer_norm": ("rows",), "copy": ("elements",),
        "gelu": ("elements",), "gather": ("rows",),
    }[kind]  # fmt: skip
    shape = {name: data.draw(small if name in ("batch", "heads") else size, label=name) for name in SHAPES[kind]}
    shape |= {"head_dim": 64} if kind == "attention" else {}
    shape |= {"inputs": 2} if "inputs" in shape else {}
    name = data.draw(st.sampled_from(grows))
    more = {**shape, name: shape.get(name, 1) + data.draw(st.integers(1, 1000))}
    assert seconds(kind, gpu, dtype, **more) >= 0.9999 * seconds(kind, gpu, dtype, **shape)


@given(device, dtype, st.integers(1, 64), st.integers(1, 32), st.integers(1, 2000), st.integers(0, 4000))
@settings(max_examples=60)
def test_a_longer_cache_takes_at_most_a_tile_less(
    gpu: str, dtype: str, batch: int, heads: int, new: int, cached: int
) -> None:
    shape = {"batch": batch, "heads": heads, "head_dim": 64, "new_tokens": new}
    longer = seconds("attention", gpu, dtype, **shape, cached_tokens=cached + 100)
    assert longer >= 0.95 * seconds("attention", gpu, dtype, **shape, cached_tokens=cached)


@given(device, dtype, st.integers(1, 5000), st.integers(64, 5000), st.integers(64, 5000))
@settings(max_examples=100)
def test_one_more_row_at_most_doubles_a_product(gpu: str, dtype: str, m: int, n: int, k: int) -> None:
    assert seconds("gemm", gpu, dtype, m=m + 1, n=n, k=k) <= 2.02 * seconds("gemm", gpu, dtype, m=m, n=n, k=k)


@pytest.mark.parametrize("kind", KERNEL_KINDS)
def test_arrays_equal_single_points(kind: str) -> None:
    shape = SHAPES[kind]
    name = next(iter(shape))
    grid = np.array([[1], [7], [300]])
    whole = kernel_latency(kind, "a100", "fp16", **{**shape, name: grid})
    for index, value in enumerate(grid.ravel()):
        alone = kernel_latency(kind, "a100", "fp16", **{**shape, name: int(value)})
        assert whole.device_s[index, 0] == pytest.approx(alone.device_s, rel=1e-12)
        assert whole.flops[index, 0] == alone.flops
        assert whole.bound[index, 0] == alone.bound


def test_flops_and_bytes_of_a_product() -> None:
    result = kernel_latency("gemm", "h100", "fp16", m=3, n=5, k=7)
    assert (result.flops, result.read_bytes, result.write_bytes) == (210, 2 * (21 + 35), 30)


@pytest.mark.parametrize("kind", KERNEL_KINDS)
def test_operands_used_long_ago_come_from_dram(kind: str) -> None:
    """Warm, cold and by default, which lies between; a GPU's L2 of 40 MiB holds each of these operands."""
    shape = {**SHAPES[kind], "rows": 30_000} if "rows" in SHAPES[kind] else SHAPES[kind]
    shape = {**shape, "elements": 10**7} if "elements" in shape else shape
    shape = {**shape, "m": 8, "n": 4000, "k": 2000} if kind == "gemm" else shape
    if kind == "attention":
        shape = {**shape, "batch": 16, "new_tokens": 1, "cached_tokens": 300, "write_cache": False}
    found = kernel_latency(kind, "a100", "fp16", **shape, reuse_bytes=np.array([0, 10**10]))
    warm, cold = found.device_s
    assert warm <= kernel_latency(kind, "a100", "fp16", **shape).device_s <= 1.0001 * cold
    assert warm < cold or kind == "layer_norm"  # whose arithmetic takes longer
    assert found.terms.dram_bytes[1] > found.terms.dram_bytes[0]
    assert found.shape["reuse_bytes"].tolist() == [0, 10**10]


def test_device_time_holds_no_host_time() -> None:
    """A tiny kernel costs its launch in a busy stream, a few microseconds on every device with a file of its own."""
    for hw in list_hardware():
        alone = kernel_latency("elementwise", hw, "fp32", elements=16)
        assert alone.device_s == pytest.approx(hw.launch.stream_floor_s, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "conv"}, "kind: expected one of gemm"),
        ({"kind": "gemm", "m": 1, "n": 1}, "k: missing"),
        ({"kind": "gemm", "m": 1, "n": 1, "k": 1, "rows": 3}, "rows: gemm takes m, n, k, batch"),
        ({"kind": "gemm", "m": 0, "n": 1, "k": 1}, "m: expected an integer from 1"),
        ({"kind": "gemm", "m": 1, "n": 1, "k": 1, "dtype": "fp8"}, "dtype: expected one of"),
        ({"kind": "gemm", "m": 1, "n": 1, "k": 1, "gpu": "t4", "dtype": "bf16"}, "dtype: t4 has no bf16"),
    ],
)
def test_bad_shapes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kernel_latency(**{"gpu": "a100", **arguments})


CPU = next((ROOT / "benchmarks/measurements/cpu-epyc-7003-2c").glob("*.yaml"))


@pytest.mark.parametrize("new_tokens", [1, 200])
def test_on_a_cpu_a_cache_write_is_a_copy_and_causal_saves_nothing(new_tokens: int) -> None:
    hw = load_hardware(str(CPU))
    shape = {"batch": 2, "heads": 12, "head_dim": 64, "new_tokens": new_tokens, "cached_tokens": 100}
    plain = kernel_latency("attention", hw, "fp32", **shape, write_cache=False)
    written = kernel_latency("attention", hw, "fp32", **shape)
    copied = kernel_latency("copy", hw, "fp32", elements=2 * 2 * 12 * 64 * new_tokens)
    assert written.device_s == pytest.approx(plain.device_s + copied.device_s, rel=1e-12)
    assert written.write_bytes == plain.write_bytes + copied.write_bytes
    assert kernel_latency("attention", hw, "fp32", **shape, causal=False).device_s == written.device_s


@given(device, dtype, st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 4000))
def test_a_kernels_parts_sum_to_its_time(gpu: str, dtype: str, m: int, n: int, k: int) -> None:
    terms = kernel_latency("gemm", gpu, dtype, m=m, n=n, k=k).terms
    parts = bound_seconds(terms)
    assert sum(parts) == pytest.approx(float(terms.device_s), rel=1e-9)
    assert all(part >= -1e-12 for part in parts)
    assert terms.dram_bytes <= terms.device_s * load_hardware(gpu).memory.bandwidth_bytes_per_s * 1.001


def test_a_label_does_not_flip_with_the_batch() -> None:
    """A pass is labelled by what doubling would help most, which is smooth where the largest term alone jumps."""
    totals = gpt2cost.predict("gpt2-xl", "a100", batch=np.arange(1, 49), seq=512, phase="prefill").phases[0].totals
    assert np.sum(totals.bound[1:] != totals.bound[:-1]) <= 3
    assert np.max(totals.bandwidth_utilization) <= 1


@pytest.mark.parametrize("gpu", ["l40s", "a100", "rtx4090", "t4"])
def test_dram_is_never_busier_than_its_peak(gpu: str) -> None:
    for sizes in ({"batch": np.arange(1, 129), "seq": 1, "cache": 1023}, {"batch": np.arange(1, 33), "seq": 128}):
        for runtime in ("cuda-graph", "reduce-overhead"):
            prediction = gpt2cost.predict("gpt2-medium", gpu, runtime=runtime, **sizes)
            for phase in prediction.phases:
                assert np.max(phase.totals.bandwidth_utilization) <= 1
