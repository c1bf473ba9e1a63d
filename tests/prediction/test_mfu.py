"""One step's FLOPs per token by each convention, beside figures that their sources print."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2cost import train
from gpt2cost.prediction.mfu import mfu_conventions
from gpt2cost.table.config import change_model, load_model


def per_token(changes: dict[str, Any] | None = None, **flags: Any) -> dict[str, float]:
    """Convention -> FLOPs of a token of GPT-2 124M."""
    training = train(change_model(load_model("gpt2"), changes or {}), "a100", seq=1024, impl="nanogpt", **flags)
    return {count.convention: count.flops_per_token for count in mfu_conventions(training)}


def test_nanogpts_notebook() -> None:
    """transformer_sizing.ipynb, V=50257 and no biases: 875,062,886,400 FLOPs of a sequence of 1024 by PaLM's formula
    without position embeddings, as in `estimate_mfu`, and 874,944,921,600 counted product by product."""
    counts = per_token({"bias": False})
    assert 1024 * counts["nanoGPT"] == 875_062_886_400
    assert 1024 * counts["Megatron-LM"] == 874_944_921_600


def test_with_all_parameters() -> None:
    """V=50257 with biases: N = 124,439,808, LC = 9216. llm.c prints 803 MFLOP, PaLM's formula gives 859."""
    counts = per_token()
    assert counts["PaLM"] == 6 * 124_439_808 + 12 * 9216 * 1024 == 859_885_056
    assert counts["llm.c"] == 803_261_952
    assert counts["scaling laws"] == 746_638_848


@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_what_runs(runtime: str) -> None:
    """Flash attention has 7 products of 2LCT in both passes, math 6. Blocks that run again run up to the last tensor
    that a gradient needs, which is the operand of the last product, of 8 of their 24 C^2."""
    dense, square = 6 * (12 * 12 * 768**2 + 50257 * 768), 2 * 9216 * 1024
    flash, math = (per_token(attn=attn, runtime=runtime)["FlopCounterMode"] for attn in ("sdpa", "eager"))
    assert (flash, math) == (dense + 7 * square, dense + 6 * square)
    again = per_token(checkpointing="block", runtime=runtime)["FlopCounterMode"]
    assert again == flash + 16 * 12 * 768**2 + 2 * square
    assert per_token()["the same, causal"] == dense + 3 * square


def test_flop_counter_mode() -> None:
    config = GPT2Config(vocab_size=96, n_positions=32, n_embd=48, n_layer=3, n_head=4, attn_implementation="eager")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ids = torch.zeros(2, 24, dtype=torch.long)
        GPT2LMHeadModel(config).train()(ids, labels=ids).loss.backward()
    training = train(config, "a100", micro_batch=2, seq=24, precision="fp32", attn="eager")
    counts = {count.convention: count for count in mfu_conventions(training)}
    assert counts["FlopCounterMode"].flops_per_token * 48 == counter.get_total_flops()


def test_mfus_are_those_of_the_step() -> None:
    training = train("gpt2", "h100", micro_batch=8, gpus=2, grad_accum=3, checkpointing="block")
    counts = {count.convention: count for count in mfu_conventions(training)}
    assert counts["nanoGPT"].mfu == pytest.approx(training.step.mfu)
    assert counts["FlopCounterMode"].mfu == pytest.approx(training.step.hfu)
    for count in counts.values():
        flop_per_s = count.flops_per_token * training.step.tokens_per_s_per_gpu
        assert count.mfu == pytest.approx(flop_per_s / training.hardware.compute.peak_flop_per_s["bf16"])
