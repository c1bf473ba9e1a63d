"""`compare`: ratios, differences by kind that add up, and crossovers that hold on both sides."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2cost.output.compare import KINDS
from gpt2cost.prediction.compare import WAITING, compare, compare_choices, seconds_by_kind
from gpt2cost.prediction.grid import make_grid
from gpt2cost.prediction.predict import predict
from gpt2cost.prediction.search import largest_where, powers_of_two, sign_changes, size_of_best_rate
from gpt2cost.prediction.settings import Sizes
from gpt2cost.prediction.sweep import plan

# ---------------------------------------------------------------------------------------------- search


@given(least=st.integers(0, 50), length=st.integers(0, 5000), at=st.integers(-10, 5100))
def test_the_largest_is_found(least: int, length: int, at: int) -> None:
    most = least + length
    found = largest_where(lambda sizes: sizes <= at, least, most)
    assert found == min(max(at, least - 1), most)


def test_the_largest_is_found_where_a_small_size_does_not_do() -> None:
    """As with flash_attention_2, whose batch of 1 waits for a test that a batch of 2 does not make."""
    assert largest_where(lambda sizes: (sizes > 1) & (sizes <= 37), 1, 4096) == 37
    assert largest_where(lambda sizes: sizes > 5000, 1, 4096) == 0


@given(
    first=st.integers(1, 100),
    steps=st.lists(st.integers(0, 5), min_size=1, max_size=300),
    allowed=st.integers(0, 301),
    waits=st.booleans(),
)
def test_the_size_of_the_best_rate_is_found(first: int, steps: list[int], allowed: int, waits: bool) -> None:
    seconds = np.cumsum([1 + first, *steps]).astype(float)
    seconds[0] += 50.0 * waits  # a batch of 1 may take longer than one of 2
    sizes = np.arange(1, len(seconds) + 1)
    rates = np.where(sizes <= allowed, sizes / seconds, 0.0)
    asked: list[int] = []

    def of(some: Any) -> tuple[Any, Any]:
        asked.extend(some.tolist())
        return rates[some - 1], 1.0 / seconds[some - 1]

    assert size_of_best_rate(of, len(sizes)) == (int(sizes[np.argmax(rates)]) if allowed else 0)
    assert len(asked) == len(set(asked))


@given(turns=st.lists(st.integers(2, 3000), max_size=1), most=st.integers(2, 3000))
def test_a_turn_is_found(turns: list[int], most: int) -> None:
    def sign(sizes: Any) -> Any:
        return np.where(sum((sizes >= turn).astype(int) for turn in turns) % 2, -1, 1)

    assert sign_changes(sign, 1, most) == [(turn, -1) for turn in turns if turn <= most]


def test_several_turns_and_ties() -> None:
    def sign(sizes: Any) -> Any:
        return np.select([sizes < 3, sizes < 5, sizes < 300], [0, 1, -1], 1)

    assert sign_changes(sign, 1, 4096) == [(5, -1), (300, 1)]
    assert sign_changes(lambda sizes: 0 * sizes, 1, 100) == []
    assert powers_of_two(1, 6).tolist() == [1, 2, 4, 6]


# ---------------------------------------------------------------------------------------------- comparisons


@pytest.mark.parametrize(
    ("axes", "work"),
    [
        ({"gpu": "a100,rtx4090,t4"}, {}),
        ({"model": "gpt2,distilgpt2"}, {"batch": 4, "seq": 64, "cache": 64}),
        ({"attn": "eager,sdpa,flash_attention_2"}, {"phase": "prefill"}),
        ({"runtime": "eager,compile,cuda-graph", "dtype": "fp16,fp32"}, {"batch": 2, "seq": 1, "cache": 300}),
        ({"gpu": "a100,h100"}, {"use_cache": False, "logits": "last", "phase": "decode"}),
    ],
)
def test_figures_are_those_of_predict(axes: dict[str, str], work: dict[str, Any]) -> None:
    comparison = compare(**{"model": "gpt2", "gpu": "a100", **axes}, **work)
    assert len({candidate.label for candidate in comparison.candidates}) == len(comparison.candidates) > 1
    for candidate in comparison.candidates:
        choice, how = candidate.choice, candidate.choice.how
        alone = predict(choice.model, choice.hardware, dtype=how.dtype, attn=how.attn, runtime=how.runtime, **work)
        assert [dataclasses.asdict(phase.totals) for phase in candidate.prediction.phases] == [
            dataclasses.asdict(phase.totals) for phase in alone.phases
        ]
        for phase in candidate.prediction.phases:
            seconds = seconds_by_kind(phase)
            assert set(seconds) <= set(KINDS)
            assert sum(seconds.values()) == pytest.approx(phase.totals.latency_s, rel=1e-12)
            assert seconds[WAITING] > 0


def test_from_python() -> None:
    comparison = compare("gpt2", ["a100", "t4"], seq=64, dtype="fp16,bf16", phase="prefill")
    assert [each.label for each in comparison.candidates] == ["a100-sxm-80gb fp16", "a100-sxm-80gb bf16", "t4 fp16"]
    alone = predict("gpt2", "a100", batch=1, seq=64, phase="prefill")
    assert comparison.candidates[0].prediction.phases[0].totals.latency_s == alone.phases[0].totals.latency_s
    assert any("t4 has no bf16" in warning for warning in comparison.warnings)


def test_at_a_crossover_the_ranking_turns() -> None:
    choices, _ = plan(make_grid(model="gpt2", gpu="a100,rtx4090,l4", runtime="eager,cuda-graph"))
    comparison = compare_choices(choices, Sizes(2, 100, 0), "both")
    by_label = {each.label: each.choice for each in comparison.candidates}
    assert {each.axis for each in comparison.crossovers} == {"batch_size", "seq_len"}
    for each in comparison.crossovers:
        for size, faster in ((each.size - 1, each.before), (each.size, each.after)):
            sizes = {"batch": 2, "seq": 100, {"batch_size": "batch", "seq_len": "seq"}[each.axis]: size}
            seconds = {}
            for label in (each.before, each.after):
                choice = by_label[label]
                found = predict(choice.model, choice.hardware, **sizes, runtime=choice.how.runtime, phase=each.phase)
                seconds[label] = found.phases[0].totals.latency_s
            assert min(seconds, key=lambda label: seconds[label]) == faster


def test_a_ranking_by_hosts_is_a_warning() -> None:
    """Two passes that wait for their CPUs tell nothing of their GPUs, unless both files assume the same CPU."""

    def said(gpus: str, batch: int = 1, **work: Any) -> list[str]:
        warnings = compare("gpt2", gpus, batch=batch, seq=1, cache=100, **work).warnings
        return [warning for warning in warnings if "hosts" in warning]

    assert said("a100,h100") == []
    assert said("a100,rtx4090,h100") == [
        "decode: the ranking of a100-sxm-80gb, rtx4090 and h100-sxm-80gb depends on their hosts, which belong to the"
        " machine and not to the device: --host-factor says what yours takes"
    ]
    assert said("a100,rtx4090", batch=4096) == [], "the devices set the pace"
    assert said("a100,rtx4090", runtime="cuda-graph") == []
    assert len(said("m2,a100")) == 1, "an M2 sets its own pace, within the range of an A100 that waits for a host"
    assert said("m1,rtx4090", batch=64) == [], "one waits for its host, and is the faster one in any case"
