"""`fit`: what it says fits does, one more does not, and nothing in reach is faster."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gpt2cost.errors import InputError
from gpt2cost.prediction.capacity import capacity
from gpt2cost.prediction.predict import Prediction, predict
from gpt2cost.table.options import CACHE_TYPES

XL = ["fit", "--model", "gpt2-xl", "--gpu", "a100"]


@pytest.mark.parametrize("limit_s", [None, 0.3, 0.02])
@pytest.mark.parametrize(
    "work",
    [
        {"batch": 1, "seq": 512, "cache": 0, "phase": "prefill"},
        {"batch": 16, "seq": 64, "cache": 300, "phase": "prefill"},
        {"batch": 32, "seq": 512, "cache": 0, "phase": "decode"},
        {"batch": 64, "seq": 1, "cache": 700, "phase": "decode"},
        {"batch": 2, "seq": 400, "cache": 0, "phase": "decode", "logits": "last", "use_cache": False},
    ],
)
def test_the_next_size_does_not_do(work: dict[str, Any], limit_s: float | None) -> None:
    context = "cache" if work["seq"] == 1 else "seq"

    def run(**sizes: Any) -> Prediction:
        return predict("gpt2-xl", "l4", **{**work, **sizes})

    def will_do(**sizes: Any) -> bool:
        prediction = run(**sizes)
        return bool(prediction.memory.fits) and prediction.phases[0].totals.latency_s <= (limit_s or np.inf)

    largest, longest, best = answers = capacity("gpt2-xl", "l4", **work, max_latency_s=limit_s).answers
    assert [answer.goal for answer in answers] == ["largest batch", "largest context", "best throughput"]
    batch = largest.sizes.batch_size
    if batch:
        assert will_do(batch=batch)
    assert not will_do(batch=batch + 1)
    assert largest.limited_by == ("memory" if not run(batch=batch + 1).memory.fits else "latency")

    phase = longest.prediction.phases[0] if longest.prediction else None
    if longest.limited_by == "positions":
        assert phase
        assert phase.kv_len == 1024
    elif phase:
        size = phase.cache_len if context == "cache" else phase.kv_len - work["cache"] - (work["phase"] == "decode")
        assert will_do(**{context: size})
        assert not will_do(**{context: size + 1})
    else:
        assert not will_do(**{context: 1})

    if best.prediction:
        rates = run(batch=np.arange(1, batch + 1)).phases[0].totals.tokens_per_s
        assert best.prediction.phases[0].totals.tokens_per_s == pytest.approx(rates.max(), rel=1e-12)
    else:
        assert batch == 0


def test_from_python(gpt2cost: Any) -> None:
    answers = json.loads(gpt2cost(*XL, "--phase", "decode", "--max-latency", "20 ms", "--format", "json").out)[
        "answers"
    ]
    found = capacity("gpt2-xl", "a100", phase="decode", max_latency_s=0.02)
    assert [answer.sizes.batch_size for answer in found.answers] == [answer["batch_size"] for answer in answers]
    assert len(capacity("gpt2-xl", "a100").answers) == 6
    for wrong in ({"phase": "all"}, {"max_latency_s": -1.0}, {"max_latency_s": float("nan")}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            capacity("gpt2-xl", "a100", **wrong)  # type: ignore[arg-type]


def test_a_batch_of_one_that_waits_does_not_hide_larger_ones() -> None:
    """flash_attention_2 at batch 1 waits for a test of packed sequences, so that batch 2 is faster."""
    slow, fast = (
        predict("gpt2", "h100", batch=batch, seq=128, attn="flash_attention_2", phase="prefill")
        .phases[0]
        .totals.latency_s
        for batch in (1, 2)
    )
    limit_s = (slow + fast) / 2
    found = capacity("gpt2", "h100", seq=128, attn="flash_attention_2", phase="prefill", max_latency_s=limit_s)
    largest, _, best = found.answers
    assert slow > limit_s > fast
    assert largest.sizes.batch_size >= 2
    assert largest.limited_by == "latency"
    assert 2 <= best.sizes.batch_size <= largest.sizes.batch_size


def test_without_a_cache_a_context_grows_by_new_tokens() -> None:
    """What cannot be reached is 0, and nothing is cached."""
    answers = capacity("gpt2", "a100", use_cache=False, phase="decode", max_latency_s=1e-6).answers
    (context,) = (answer for answer in answers if answer.goal == "largest context")
    assert context.prediction is None
    assert (context.sizes.seq_len, context.sizes.cache_len) == (0, 0)


def test_where_no_graph_can_be_captured() -> None:
    """At batch 1 flash_attention_2 waits for the device: refused where it is asked for, and never an answer."""
    how: dict[str, Any] = {"runtime": "cuda-graph", "attn": "flash_attention_2", "phase": "prefill"}
    with pytest.raises(InputError, match="cuda-graph cannot capture"):
        capacity("gpt2", "a100", **how)
    found = capacity("gpt2", "a100", batch=2, **how)
    assert all(answer.sizes.batch_size > 1 for answer in found.answers)


def test_a_static_cache_fits_as_much_or_more() -> None:
    """It is written to, where a dynamic one has two copies of a layer while it grows."""
    kinds = {kind: capacity("gpt2-xl", "t4", cache=900, seq=1, cache_type=kind) for kind in CACHE_TYPES}
    largest = {kind: found.answers[0].sizes.batch_size for kind, found in kinds.items()}
    assert largest["static"] >= largest["dynamic"] > 1
