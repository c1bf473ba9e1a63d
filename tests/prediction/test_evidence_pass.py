"""What a measured case ran: a whole pass, a part of the model, its kernels alone, or a turn of `generate`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from gpt2cost import generate, load_hardware, predict
from gpt2cost.device.hardware import Evidence
from gpt2cost.errors import InputError
from gpt2cost.prediction.evidence_pass import evidence_model, evidence_name, evidence_pass
from gpt2cost.prediction.settings import Sizes

A100 = load_hardware("a100")
ROW = Evidence(source="s", model="gpt2", batch=2, seq=8, cache=16, dtype="fp16", attn="eager", latency_s=1e-3)


def row(**changes: Any) -> Evidence:
    return dataclasses.replace(ROW, **changes)


def run(row: Evidence) -> Any:
    return evidence_pass(A100, row, Sizes(row.batch, row.seq, row.cache))


def test_a_pass_is_a_prediction() -> None:
    (phase,) = predict("gpt2", "a100", batch=2, seq=8, cache=16, attn="eager", phase="prefill").phases
    assert run(ROW).times.latency_s == phase.totals.latency_s


def test_kernels_have_no_host_in_them() -> None:
    alone = run(row(timed="kernels"))
    assert alone.times.latency_s == pytest.approx(run(ROW).device_s, rel=1e-9)
    assert alone.times.host_s == 0
    assert alone.latency_at(1.0, 9.0) == alone.times.latency_s, "no host, no factor on it"


def test_a_turn_is_one_of_generate() -> None:
    """The mean of a run's turns, but for what a turn leaves in L2 to the next of its parts."""
    turns = generate("gpt2", "a100", prompt_tokens=16, new_tokens=3, batch=2, attn="eager").rest.latency_s
    for cache, latency_s in zip((16, 17), turns, strict=True):
        assert run(row(timed="turn", seq=1, cache=cache)).times.latency_s == pytest.approx(latency_s, rel=1e-2)


def test_parts_are_their_modules_rows() -> None:
    one = {"n_layer": 1, "n_head": 8}
    whole, block, attention = (run(row(config=one, part=part)) for part in ("model", "block", "attention"))
    names = [[kernel.row.path for kernel in part.kernels] for part in (whole, block, attention)]
    assert names[1] == [name for name in names[0] if name.startswith("transformer.h.")]
    assert names[2] == [name for name in names[0] if name.startswith("transformer.h.attn.")]
    assert attention.device_s < block.device_s < whole.device_s
    assert evidence_model(A100, row(config=one)).n_head == 8


def test_a_block_that_was_compiled_alone_begins_with_its_layer_norm() -> None:
    """In a whole pass it is merged with the embeddings, which a block has not."""
    block, attention = (run(row(runtime="compile", part=part)) for part in ("block", "attention"))
    names = [kernel.row.path for kernel in block.kernels]
    assert names[0] == "transformer.h.ln_1"
    assert all(name.startswith("transformer.h.") for name in names)
    assert all(kernel.row.step.compiled for kernel in block.kernels)
    assert {kernel.row.path for kernel in attention.kernels} == {name for name in names if ".attn." in name}


def test_filling_a_masked_copy_moves_the_scores_twice_more() -> None:
    """minGPT's out-of-place masked_fill clones the scores, and then fills the clone."""
    rows = (row(use_cache=False, cache=0, kernels={"mask": op}) for op in ("where", "masked_fill"))
    where, filled = (evidence_pass(A100, own, Sizes(4, 64, 0)) for own in rows)
    moved = [sum(kernel.moved_bytes for kernel in own.kernels) for own in (where, filled)]
    assert moved[1] - moved[0] == 12 * 2 * (4 * 12 * 64 * 64 * 2), "layers, read and written, the scores"
    assert len(filled.kernels) == len(where.kernels) + 1


def test_rows_alike_are_predicted_together() -> None:
    sizes = Sizes(np.array([1.0, 4.0]), 8, 16)
    both = evidence_pass(A100, row(part="block"), sizes).device_s
    assert both[1] == pytest.approx(run(row(part="block", batch=4)).device_s)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "gpt2"),
        ({"part": "block", "config": {"n_layer": 1, "n_head": 8}}, "gpt2[n_layer=1;n_head=8] block"),
        ({"timed": "kernels"}, "gpt2 (kernels)"),
        ({"timed": "turn", "seq": 1}, "gpt2 (generate)"),
    ],
)
def test_name(changes: dict[str, Any], name: str) -> None:
    assert evidence_name(row(**changes)) == name


def test_bad_evidence_is_refused() -> None:
    with pytest.raises(InputError, match="a turn of generate is predicted of the whole model"):
        row(timed="turn", part="block")
    with pytest.raises(InputError, match="a100-sxm-80gb: evidence: set: unknown key 'n_heads'"):
        evidence_model(A100, row(config={"n_heads": 8}))
