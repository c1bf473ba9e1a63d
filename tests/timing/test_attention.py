"""Attention kernels against published figures, and the form's own sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpt2cost import kernel_latency, load_hardware, predict
from gpt2cost.timing.gpu_attention import attention_terms

FA2_ON_H100 = {  # head_dim 64, 2048 / 64 heads, 16k tokens in all, causal and not; FlashAttention-3 paper, us
    512: (190.9, 243.7), 1024: (300.1, 449.1), 2048: (524.6, 864.4), 4096: (967.9, 1712.6), 16384: (3677.3, 6787.1),
}  # fmt: skip


@pytest.mark.parametrize("tokens", FA2_ON_H100)
@pytest.mark.parametrize("causal", [True, False])
def test_flash_attention_2_on_an_h100(tokens: int, causal: bool) -> None:
    shape: dict[str, Any] = {"batch": 16384 // tokens, "heads": 32, "head_dim": 64, "new_tokens": tokens}
    found = kernel_latency("attention", "h100", "fp16", kernel="flash2", causal=causal, write_cache=False, **shape)
    assert found.device_s == pytest.approx(1e-6 * FA2_ON_H100[tokens][0 if causal else 1], rel=0.05)


@pytest.mark.parametrize(
    ("gpu", "heads", "measured_us"),
    [("rtx4090", 8, 947.9), ("rtx4090", 48, 5059.1), ("rtx3080-laptop", 8, 3714.6)],
)
def test_flash_attention_2_by_the_rate_of_an_sm(gpu: str, heads: int, measured_us: float) -> None:
    """8192 x 8192, head_dim 64, LeetCUDA's README: near the peak of GeForce tensor cores, half an L40S's."""
    shape: dict[str, Any] = {"heads": heads, "head_dim": 64, "new_tokens": 8192, "causal": False, "write_cache": False}
    assert kernel_latency("attention", gpu, "fp16", **shape).device_s == pytest.approx(1e-6 * measured_us, rel=0.1)


def test_a_short_step_of_attention_costs_a_whole_tile() -> None:
    """Measured: 519 us for 16,384 heads of 128 on 2 keys, in a serving framework's call on an A100; keys are 17 MB."""
    shape: dict[str, Any] = {"batch": 2048, "heads": 8, "head_dim": 128, "new_tokens": 1, "cached_tokens": 1}
    assert kernel_latency("attention", "a100", "bf16", **shape).device_s == pytest.approx(519e-6, rel=0.1)


def test_a_decode_step_with_few_heads_is_bound_by_latency_and_shares_its_keys() -> None:
    """PyTorch's kernel splits the keys of 12 heads among thread blocks; a serving framework's on an A100 does not."""
    shape: dict[str, Any] = {"heads": 12, "head_dim": 64, "new_tokens": 1, "cached_tokens": 8191}
    split = kernel_latency("attention", "a100", "fp16", write_cache=False, **shape)
    whole = kernel_latency("attention", "a100", "fp16", write_cache=True, **shape)
    assert split.bound in ("latency", "launch", "l2")
    assert whole.bound == "latency"
    assert split.device_s < 0.5 * whole.device_s


@pytest.mark.parametrize("gpu", ["rtx4090", "l40s", "rtx3090", "l4", "a10", "a100", "h100", "rtx5090"])
def test_a_larger_head_takes_no_less_in_decode(gpu: str) -> None:
    """A query's keys are read at one rate, whatever tile its head's constants have for a prefill."""
    head_dim = np.array([32, 64, 96, 97, 128, 192, 193, 256])
    for batch in (1, 16):
        shape: dict[str, Any] = {"batch": batch, "heads": 12, "head_dim": head_dim, "new_tokens": 1}
        found = kernel_latency("attention", gpu, "fp16", cached_tokens=1023, write_cache=False, **shape).device_s
        assert np.min(found[1:] / found[:-1]) > 0.85


def test_cold_keys_come_from_dram() -> None:
    """Keys and values that were last touched a whole pass ago are read from DRAM, however few they are."""
    hw = load_hardware("rtx4090")
    sizes = (4.0, 12.0, 64.0, 1.0, 1000.0)
    for reuse in (0.0, 1e6, 1e9):
        terms = attention_terms(hw, "fp16", "flash2", *sizes, 2.0, kv_reuse=(reuse, reuse))
        kv_bytes = 2 * 2 * 4 * 12 * 64 * 1001
        assert (terms.dram_bytes >= kv_bytes) == (reuse == 1e9)
        assert terms.device_s >= terms.dram_bytes / hw.memory.bandwidth_bytes_per_s
        assert (terms.memory_s > 0, terms.l2_s > 0) == (reuse == 1e9, True)


def test_attention_as_products_and_a_softmax_is_several_times_slower() -> None:
    """Measured: 2182 us against 449 on an H100, FlashAttention-3 paper."""
    shape: dict[str, Any] = {"batch": 16, "heads": 32, "head_dim": 64, "new_tokens": 1024, "write_cache": False}
    found = kernel_latency("attention", "h100", "fp16", kernel="math", causal=False, **shape)
    assert found.device_s == pytest.approx(2181.6e-6, rel=0.25)


def test_cold_keys_cost_attention_as_products_as_much_as_any() -> None:
    """Keys and values of 16 MB: one query reads them from L2 or from DRAM. The sizes broadcast with `reuse_bytes`."""
    shape: dict[str, Any] = {"batch": 8, "heads": 12, "head_dim": 64, "new_tokens": 1, "cached_tokens": 1000}
    how: dict[str, Any] = {"kernel": "math", "write_cache": False, **shape}
    found = kernel_latency("attention", "a100", "fp16", reuse_bytes=np.array([0, 10**9]), **how)
    kv_bytes = 2 * 2 * 8 * 12 * 64 * 1001
    assert found.device_s.shape == (2,)
    assert np.diff(found.terms.dram_bytes) == pytest.approx(kv_bytes, rel=0.01)
    assert found.device_s[1] > 1.1 * found.device_s[0]


def test_a_single_query_needs_no_causal_mask() -> None:
    """PyTorch adds one to the scores of attention as products, where a query must not meet some of the keys."""
    shape: dict[str, Any] = {"heads": 12, "head_dim": 64, "new_tokens": np.array([1, 2]), "cached_tokens": 1000}
    causal, full = (
        kernel_latency("attention", "a100", "fp16", kernel="math", causal=causal, **shape).device_s
        for causal in (True, False)
    )
    assert (causal > full).tolist() == [False, True]


@pytest.mark.parametrize(
    ("gpu", "kernel"), [("h100", "flash2"), ("h100", "cudnn"), ("a100", "math"), ("m1", None), ("t4", "efficient")]
)
def test_a_cache_write_costs_a_copy_where_the_kernel_writes_none(gpu: str, kernel: str | None) -> None:
    """The memory-efficient kernel has constants of a serving framework's write; the others have not."""
    shape: dict[str, Any] = {"batch": 4, "heads": 16, "head_dim": 64, "new_tokens": 512, "kernel": kernel}
    plain = kernel_latency("attention", gpu, "fp16", **shape, write_cache=False)
    written = kernel_latency("attention", gpu, "fp16", **shape)
    copied = kernel_latency("copy", gpu, "fp16", elements=2 * 4 * 16 * 64 * 512)
    added = written.device_s - plain.device_s
    assert (added > 0) if kernel == "efficient" else added == pytest.approx(copied.device_s, rel=1e-9)


def test_arrays_of_heads_choose_kernels_one_by_one() -> None:
    """A head of 36 runs flash (padded), one of 260 neither flash nor the memory-efficient kernel."""
    head_dim = np.array([[36, 64], [260, 264]])
    shape: dict[str, Any] = {"batch": 2, "heads": 4, "new_tokens": 300, "write_cache": False}
    grid = kernel_latency("attention", "a100", "fp16", head_dim=head_dim, **shape)
    assert grid.attention_kernel.tolist() == [["flash2", "flash2"], ["math", "efficient"]]
    for index, size in np.ndenumerate(head_dim):
        alone = kernel_latency("attention", "a100", "fp16", head_dim=int(size), **shape)
        assert grid.device_s[index] == pytest.approx(alone.device_s, rel=1e-12)
        assert grid.attention_kernel[index] == alone.attention_kernel


@pytest.mark.parametrize(
    ("gpu", "dtype", "attn", "cache", "kernel"),
    [
        ("h100", "fp16", "sdpa", 0, "cudnn"), ("h100", "fp16", "sdpa", 8, "cudnn"),
        ("a100", "fp16", "sdpa", 0, "flash2"), ("a100", "fp16", "sdpa", 8, "efficient"),
        ("h100", "fp32", "sdpa", 0, "efficient"), ("t4", "fp16", "sdpa", 0, "efficient"),
        ("h100", "fp16", "flash_attention_2", 8, "flash2"), ("m1", "fp16", "sdpa", 0, "mps"),
    ],
)  # fmt: skip
def test_a_pass_says_which_kernel_its_attention_is(gpu: str, dtype: str, attn: str, cache: int, kernel: str) -> None:
    """A chunk on a cache has an explicit mask, which flash attention does not take."""
    phase = predict("distilgpt2", gpu, batch=2, seq=8, cache=cache, dtype=dtype, attn=attn, phase="prefill").phases[0]
    named = [cost.attention_kernel for cost in phase.kernels]
    assert set(named) - {None} == {kernel}
    assert {record["attention_kernel"] for record in phase.to_dict()["kernels"]} == {None, kernel}
    assert f"attention by {kernel}" in str(phase._repr_html_())


@pytest.mark.parametrize(
    ("gpu", "runtime", "launched"),
    [("a100", "eager", True), ("a100", "cuda-graph", True), ("a100", "compile", False), ("m1", "eager", False)],
)
def test_a_mask_is_padded_where_the_memory_efficient_kernel_reads_it(gpu: str, runtime: str, launched: bool) -> None:
    for cache, odd in ((57, True), (56, False)):
        phase = predict("distilgpt2", gpu, seq=8, cache=cache, runtime=runtime, phase="prefill").phases[0]
        assert any(cost.kernel.name == "pad_mask" for cost in phase.kernels) == (launched and odd)
