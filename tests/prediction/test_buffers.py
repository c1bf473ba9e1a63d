"""Buffers that a model keeps beside its parameters are part of its memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpt2cost.prediction.predict import predict
from gpt2cost.prediction.train import train
from gpt2cost.table.config import load_model
from gpt2cost.table.options import Attn

GROWN_ELEMENTS = 12 * (2048**2 - 1024**2)
"""By which gpt2's masks grow where `block_size` doubles."""


@pytest.mark.parametrize(("attn", "grown"), [("eager", GROWN_ELEMENTS), ("sdpa", 0)])
def test_masks_of_attention_by_hand(attn: Attn, grown: int) -> None:
    short = replace(load_model("gpt2"), impl="nanogpt")
    models = short, replace(short, n_positions=2048)
    in_training = [train(model, "a100", micro_batch=4, seq=512, attn=attn).memory for model in models]
    in_inference = [predict(model, "a100", batch=1, seq=64, attn=attn, dtype="bf16").memory for model in models]
    assert in_training[1].activations_bytes - in_training[0].activations_bytes == 4 * grown
    assert in_inference[1].activations_bytes - in_inference[0].activations_bytes == 2 * grown
