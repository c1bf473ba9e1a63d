"""A pass in total: its FLOPs per byte beside the device's ridge point, and what a token adds to the KV cache."""

from __future__ import annotations

import oracle
import pytest
import torch
from transformers import GPT2Config

from gpt2cost import load_hardware, predict


@pytest.mark.parametrize(
    ("gpu", "dtype", "peak", "bandwidth"),
    [("t4", "fp16", 65e12, 320e9), ("a100", "bf16", 312e12, 2039e9), ("a100", "tf32", 156e12, 2039e9)],
)
def test_the_ridge_is_that_of_the_datasheet(gpu: str, dtype: str, peak: float, bandwidth: float) -> None:
    assert load_hardware(gpu).ridge_flop_per_byte(dtype) == pytest.approx(peak / bandwidth, rel=1e-3)


def test_a_prefill_and_a_decode_step_by_hand() -> None:
    """distilgpt2, 8 x 512: FLOPs and bytes of an eager dispatch trace, summed by hand."""
    prefill, decode = predict("distilgpt2", "t4", batch=8, seq=512, attn="sdpa").phases
    assert prefill.totals.arithmetic_intensity == pytest.approx(152, rel=0.005)
    assert decode.totals.arithmetic_intensity == pytest.approx(3.46, rel=0.005)


@pytest.mark.parametrize(("dtype", "stored"), [("fp16", torch.float16), ("fp32", torch.float32)])
def test_the_cache_grows_as_transformers_does(dtype: str, stored: torch.dtype) -> None:
    config = GPT2Config(n_layer=6)
    model, past = oracle.build(config, "sdpa", stored), oracle.DynamicCache(config=config)
    with torch.no_grad():
        model(torch.empty((1, 7), dtype=torch.long, device="meta"), past, use_cache=True)
    held = sum(each.nbytes for layer in past.layers for each in (layer.keys, layer.values))
    memory = predict("distilgpt2", "a100", seq=7, dtype=dtype).memory
    assert memory.kv_bytes_per_token == held / 7
    assert predict("distilgpt2", "a100", seq=7, use_cache=False).memory.kv_bytes_per_token == 0
