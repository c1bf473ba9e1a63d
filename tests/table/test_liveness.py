"""The peak of live activations is the real model's on the meta device, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch
from helpers import POINTS, values
from oracle import tiny

from gpt2cost.table.config import load_model
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import walk
from gpt2cost.table.liveness import peak_bytes
from gpt2cost.table.options import TableOptions


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(
    ("attn", "upcast"), [("eager", False), ("eager", True), ("sdpa", False), ("flash_attention_2", False)]
)
@pytest.mark.parametrize("encoder", [0, 2, 40])
def test_peak_is_the_real_models(attn: Any, upcast: bool, use_cache: bool, encoder: int) -> None:
    config = tiny(n_layer=3, n_embd=48, n_head=4, reorder_and_upcast_attn=upcast, add_cross_attention=encoder > 0)
    model = load_model(config)
    for batch, seq, cache in [*POINTS, (2, 5, 1)]:
        if cache and not use_cache:
            continue
        for logits in ("all", "last"):
            trace = oracle.trace(
                config, attn, torch.float16, batch, seq, cache, use_cache, int(logits == "last"), encoder=encoder
            )
            kept = seq + cache + encoder
            final_cache = 2 * model.n_layer * batch * kept * model.n_embd * 2 if use_cache else 0
            options = TableOptions(attn, "gelu_new", upcast, use_cache, logits, encoder=encoder > 0)  # type: ignore[arg-type]
            sizes = {**values(model, "fp16", batch, seq, cache), "encoder_len": encoder}
            found = peak_bytes(list(walk(cost_table(options))), sizes, use_cache)
            assert found == trace.peak_bytes - final_cache, (batch, seq, cache, logits)


def test_arrays_are_the_loop_over_points() -> None:
    model, rows = load_model("gpt2"), list(walk(cost_table()))
    batch, seq, cache = np.array([1, 2, 8, 1]), np.array([1, 16, 512, 7]), np.array([64, 0, 3, 1])
    grid = peak_bytes(rows, values(model, "fp16", batch, seq, cache), True)  # type: ignore[arg-type]
    points = zip(batch.tolist(), seq.tolist(), cache.tolist(), strict=True)
    assert grid.tolist() == [peak_bytes(rows, values(model, "fp16", *point), True) for point in points]
