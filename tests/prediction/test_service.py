"""A service level: the batch is the best of those with which `generate` itself says that the level holds."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from gpt2cost import InputError, generate
from gpt2cost.prediction.service import Offer, service

WORK: dict[str, Any] = {"prompt_tokens": 64, "new_tokens": 24}


@lru_cache(maxsize=512)
def run(batch: int, **keys: Any) -> Any:
    return generate(**{"model": "gpt2-large", "gpu": "l4", **WORK, "batch": batch, **keys})


def holds(batch: int, at: str, max_ttft_s: float, max_tpot_s: float, **keys: Any) -> bool:
    found = run(batch, **keys)
    high = at == "high"
    ttft = found.first.latency_high_s if high else found.ttft_s
    tpot = (found.tpot_high_s if high else found.tpot_mean_s) or 0.0
    return bool(ttft <= max_ttft_s and tpot <= max_tpot_s and found.fits)


def seconds(batch: int, at: str, **keys: Any) -> float:
    return float(run(batch, **keys).summed("latency_high_s" if at == "high" else "latency_s"))


def offer_of(**keys: Any) -> Offer:
    (offer,) = service(**{"model": "gpt2-large", "gpu": "l4", **WORK, **keys}).offers
    return offer


@pytest.mark.parametrize(
    ("at", "max_ttft_s", "max_tpot_s", "limit"),
    [
        ("middle", 9.0, 0.022, "tpot"),
        ("middle", 0.25, 9.0, "ttft"),
        ("high", 9.0, 0.045, "tpot"),
        ("high", 0.25, 9.0, "ttft"),
        ("high", 0.15, 0.045, "ttft"),
    ],
)
def test_no_other_batch_is_better(at: str, max_ttft_s: float, max_tpot_s: float, limit: str) -> None:
    level: dict[str, Any] = {"at": at, "max_ttft_s": max_ttft_s, "max_tpot_s": max_tpot_s}
    offer = offer_of(**level)
    batch = offer.batch_size
    assert offer.run is not None
    assert offer.run.settings == run(batch).settings
    assert offer.run.total_s == run(batch).total_s
    assert holds(batch, **level)
    able = [other for other in range(1, batch + 6) if holds(other, **level)]
    assert seconds(batch, at) / batch == pytest.approx(min(seconds(other, at) / other for other in able), rel=1e-12)
    assert offer.limited_by == (limit if batch == max(able) else "throughput")


def test_the_upper_end_is_stricter_than_the_middle() -> None:
    middle, high = (offer_of(at=at, max_tpot_s=0.045).batch_size for at in ("middle", "high"))
    assert 1 <= high < middle


def test_without_limits_memory_is_one() -> None:
    offer = offer_of(model="gpt2-xl", prompt_tokens=900, new_tokens=3)
    batch = offer.batch_size
    large = {"model": "gpt2-xl", "prompt_tokens": 900, "new_tokens": 3}
    assert run(batch, **large).fits
    assert offer.limited_by in ("memory", "throughput")
    if offer.limited_by == "memory":
        assert not run(batch + 1, **large).fits


def test_a_batch_of_one_that_waits_does_not_hide_larger_ones() -> None:
    """flash_attention_2 at batch 1 waits for a test of packed sequences in every layer of the prefill."""
    flash = {"gpu": "h100", "attn": "flash_attention_2"}
    one, two = (run(batch, **flash).ttft_s for batch in (1, 2))
    assert one > two
    offer = offer_of(**flash, at="middle", max_ttft_s=(one + two) / 2)
    assert offer.batch_size >= 2


def test_a_single_new_token_has_no_time_per_token() -> None:
    offer = offer_of(new_tokens=1, max_tpot_s=1e-9, max_ttft_s=0.2)
    assert offer.batch_size >= 1
    assert offer.run is not None
    assert offer.run.tpot_mean_s is None


def test_what_a_token_costs() -> None:
    prices = {"4090": 0.4, "l4": 0.7, "A100": 1.3}
    found = service("gpt2", ["l4", "rtx4090", "a100"], **WORK, max_tpot_s=0.02, price_per_hour=prices)
    assert [offer.price_per_hour for offer in found.offers] == [0.7, 0.4, 1.3]
    for offer in found.offers:
        assert offer.run is not None
        an_hour = 3600 * offer.run.tokens_per_s
        assert offer.cost("middle") == pytest.approx(1e6 * (offer.price_per_hour or 0) / an_hour, rel=1e-12)
        assert offer.run.tokens_per_dollar == pytest.approx(an_hour / (offer.price_per_hour or 0), rel=1e-12)
        assert (offer.cost("high") or 0) > (offer.cost("middle") or 0)
    costs = [offer.cost("high") or 0.0 for offer in found.offers]
    assert found.cheapest is found.offers[costs.index(min(costs))]
    rates = [offer.run.tokens_per_s for offer in found.offers if offer.run]
    assert found.fastest is found.offers[rates.index(max(rates))]


def test_where_no_batch_will_do() -> None:
    found = service("gpt2-xl", "a100,t4", **WORK, max_tpot_s=1e-6, price_per_hour={"a100": 1.0, "t4": 1.0})
    assert [(offer.batch_size, offer.limited_by, offer.run) for offer in found.offers] == [(0, "tpot", None)] * 2
    assert (found.cheapest, found.fastest) == (None, None)
    small = service("gpt2-xl", "t4", prompt_tokens=2000, new_tokens=9)
    assert small.offers[0].batch_size > 0
    assert any("exceeds n_positions" in warning for warning in small.warnings)


def test_what_cannot_run_is_left_out() -> None:
    found = service("gpt2", ["t4", "a100"], **WORK, dtype="bf16", max_tpot_s=0.01)
    assert [offer.hardware.name for offer in found.offers] == ["a100-sxm-80gb"]
    assert "skipped 1 of 2: dtype: t4 has no bf16" in found.warnings[0]
    with pytest.raises(InputError, match="t4 has no bf16"):
        service("gpt2", "t4", dtype="bf16")


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"at": "low"}, "at: expected one of middle, high"),
        ({"max_tpot_s": 0.0}, "max_tpot_s: expected a number above 0"),
        ({"max_ttft_s": float("nan")}, "max_ttft_s"),
        ({"prompt_tokens": 0}, "prompt_tokens"),
        ({"price_per_hour": {"h100": 2.0}}, "'h100' is none of the devices"),
        ({"price_per_hour": {"l4": 2.0, "L4": 1.0}}, "l4 has two prices"),
        ({"price_per_hour": {"l4": -2.0}}, "price_per_hour of l4: expected a number above 0"),
        ({"price_per_hour": "2"}, "price_per_hour: expected a number above 0"),
        ({"gpu": "l4,a100", "price_per_hour": 2.0}, "expected a price of each device, l4=...,a100-sxm-80gb=..."),
        ({"gpu": "l4,x100"}, "unknown hardware"),
    ],
)
def test_refused(wrong: dict[str, Any], hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        service(**{"model": "gpt2", "gpu": "l4", **wrong})


def test_replicas() -> None:
    """As many tokens, at as much of a price: a token costs the same, and comes as soon."""
    one, four = (service("gpt2", "l4", **WORK, max_tpot_s=0.02, price_per_hour=1.0, gpus=gpus) for gpus in (1, 4))
    first, other = one.offers[0], four.offers[0]
    assert first.run is not None
    assert other.run is not None
    assert other.batch_size == first.batch_size
    assert other.run.tokens_per_s == pytest.approx(4 * first.run.tokens_per_s)
    assert other.cost("high") == first.cost("high")
    assert other.run.tpot_mean_s == first.run.tpot_mean_s
    assert other.run.to_dict()["tokens_per_s_per_request"] == pytest.approx(
        first.run.to_dict()["tokens_per_s_per_request"]
    )
    with pytest.raises(InputError, match="gpus"):
        service("gpt2", "l4", gpus=0)
