"""Measuring the real model, and scoring predictions by it. Times are measured, never asserted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from measured import planted

import gpt2cost
from gpt2cost import InputError, load_hardware, predict
from gpt2cost.device.catalog import validate_file
from gpt2cost.device.hardware import Calibration
from gpt2cost.files import data_dir
from gpt2cost.measure.bench import Bench
from gpt2cost.measure.evidence import evidence_yaml, source_of
from gpt2cost.measure.passes import Models, PassCase, config_of, pass_cases, pass_run
from gpt2cost.measure.profile_records import observed_passes, profile_record
from gpt2cost.measure.records import Measurement, repeat_difference, trimmed_mean
from gpt2cost.measure.run import measure_passes, profile_passes
from gpt2cost.measure.score import score_trace, validate
from gpt2cost.prediction.grid import make_grid
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.table.config import load_model

SIZES = [(1, 1, 9), (2, 6, 0)]
pytestmark = pytest.mark.usefixtures("few_samples")


def no_words(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def cases(tiny_config: str) -> list[PassCase]:
    return pass_cases(make_grid(model=tiny_config, gpu="cpu", dtype="fp32", attn="sdpa,eager"), SIZES, "cpu")


@pytest.fixture(scope="module")
def passes(cases: list[PassCase]) -> list[Measurement]:
    return measure_passes(Bench("cpu"), cases, rounds=2, budget_s=0.001, tell=no_words)


@pytest.fixture(scope="module")
def profiles(cases: list[PassCase]) -> list[Measurement]:
    return profile_passes(Bench("cpu"), cases, passes=3, tell=no_words)


# ------------------------------------------------------------------------------------------------ measuring


def test_a_measured_pass_says_what_was_run(tiny_config: str, passes: list[Measurement]) -> None:
    assert [(r["attn"], r["batch"], r["seq"], r["cache"]) for r in passes] == [
        (attn, *size) for attn in ("sdpa", "eager") for size in SIZES
    ]
    for record in passes:
        assert (record["kind"], record["model"], record["dtype"]) == ("pass", tiny_config, "fp32")
        assert (record["runtime"], record["use_cache"]) == ("eager", True)
        assert 0 < record["wall_min_us"] <= record["wall_us"]
        assert record["runs"] >= len(record["rounds_us"]) == 2
        assert min(record["rounds_us"]) <= record["wall_us"] <= max(record["rounds_us"])


def test_a_pass_is_the_real_model_on_a_cache_that_does_not_grow(tiny_config: str) -> None:
    """Its old part is what the last call wrote: a decode loop's memory, which the system need not hand out anew."""
    models = Models(Bench("cpu"))
    case = PassCase(tiny_config, How("fp32", "eager"), Sizes(2, 3, 9))
    once = cast(Callable[[], Any], pass_run(models, case))
    with torch.no_grad():
        first = once()
        assert first.logits.shape == (2, 3, 64)
        assert first.past_key_values.get_seq_length() == 12
        written = [layer.keys for layer in first.past_key_values.layers]
        read: list[Any] = []
        cat = torch.cat
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "cat", lambda tensors, dim: (read.append(tensors[0]), cat(tensors, dim))[1])
            second = once()
    assert second.past_key_values.get_seq_length() == 12
    assert [keys.shape for keys in read[::2]] == [(2, 2, 9, 16)] * len(written)
    assert all(keys.is_contiguous() for keys in read)
    assert [keys.data_ptr() for keys in read[::2]] == [keys.data_ptr() for keys in written]
    assert models.model(case).config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["gpt2", "distilgpt2", "gpt2-xl"])
def test_a_config_survives(name: str) -> None:
    model, again = load_model(name), load_model(config_of(load_model(name)))
    assert model.symbols() == again.symbols()
    assert (model.activation_function, model.use_cache) == (again.activation_function, again.use_cache)


def test_without_a_cache(tiny_config: str) -> None:
    grid = make_grid(model=tiny_config, gpu="cpu", dtype="fp32", use_cache=False)
    (record,) = measure_passes(Bench("cpu"), pass_cases(grid, [(1, 4, 0)], "cpu"), 1, no_words, 0.001)
    assert record["use_cache"] is False
    assert repeat_difference(record) is None
    with pytest.raises(InputError, match="cache: expected 0"):
        pass_cases(grid, [(1, 4, 8)], "cpu")


@pytest.mark.parametrize(
    ("changes", "size", "expected"),
    [
        ({}, (1, 60, 9), "n_positions"),
        ({"runtime": "cuda-graph"}, (1, 1, 0), "--device cuda"),
        ({"attn": "flash_attention_2"}, (1, 1, 0), "--device cuda"),
        ({"dtype": "tf32"}, (1, 1, 0), "dtype: tf32"),
    ],
)
def test_what_cannot_be_measured(
    tiny_config: str, changes: dict[str, str], size: tuple[int, int, int], expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        pass_cases(make_grid(model=tiny_config, gpu="cpu", **{"dtype": "fp32", **changes}), [size], "cpu")


def test_a_case_that_fails_is_a_record(cases: list[PassCase], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(Bench, "sample", fails)
    found = measure_passes(Bench("cpu"), cases, rounds=2, budget_s=0.001, tell=no_words)
    assert [record["error"] for record in found] == ["RuntimeError: out of memory"] * len(cases)


def test_evidence_is_what_a_hardware_file_takes(passes: list[Measurement], tmp_path: Path) -> None:
    machine = {**Bench("cpu").machine(), "date": "2026-01-02"}
    text = evidence_yaml(passes, source_of(machine))
    tree = yaml.safe_load((data_dir("hardware") / "a100-sxm-80gb.yaml").read_text("utf-8"))
    tree |= {"name": "mine", "aliases": [], "evidence": yaml.safe_load(text)}
    tree.pop("variants", None)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    evidence = validate_file(tmp_path / "mine.yaml")[0].evidence
    assert len(evidence) == len(passes)
    for row, record in zip(evidence, passes, strict=True):
        assert row.latency_s == pytest.approx(1e-6 * record["wall_us"], rel=1e-4)
        for name in ("model", "batch", "seq", "cache", "attn", "dtype"):
            assert getattr(row, name) == record[name]
    assert "2026-01-02" in evidence[0].source
    assert f"torch {torch.__version__}" in evidence[0].source


# ------------------------------------------------------------------------------------------------ scoring


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cache": 512, "seq": 1},
        {"dtype": "fp32", "attn": "eager"},
        {"kind": "pass_graph", "cache": 512, "seq": 1},
        {"kind": "pass_compile", "mode": "default", "use_cache": False},
        {"runtime": "compile"},
    ],
)
def test_a_planted_error_is_found(changes: dict[str, Any]) -> None:
    found = validate(load_hardware("a100"), [planted(**changes)])
    (one,) = found.passes
    assert one.error == pytest.approx(1 / 1.1 - 1, abs=1e-9)
    assert one.low_s < one.predicted_s < one.high_s
    assert one.repeat is None


def test_a_pass_is_inside_or_outside_its_range() -> None:
    found = validate(load_hardware("a100"), [planted(factor=factor) for factor in (0.1, 1.0, 10.0)])
    assert [one.inside for one in found.passes] == [False, True, False]
    assert found.summary is not None
    assert found.summary.inside == 1


def test_the_summary() -> None:
    factors = (1.0, 1.25, 0.8, 100.0)
    records = [planted(factor=factor) | {"rounds_us": [100.0, 100 + 2 * i]} for i, factor in enumerate(factors)]
    scored = validate(load_hardware("a100"), records)
    summary, steady = scored.summary, scored.steady_summary
    assert summary is not None
    assert summary.cases == 4
    assert summary.median_absolute_error == pytest.approx((0.2 + 0.25) / 2)
    assert summary.mean_absolute_error == pytest.approx((0 + 0.2 + 0.25 + 0.99) / 4)
    assert summary.worst_absolute_error == pytest.approx(0.99)
    assert summary.signed_mean_error == pytest.approx((0 - 0.2 + 0.25 - 0.99) / 4)
    assert (summary.median_repeat, summary.worst_repeat) == pytest.approx((0.03, 0.06))
    assert 1 <= summary.inside <= 3
    assert steady is not None  # the last one's halves differ by 6 %
    assert (steady.cases, steady.worst_absolute_error) == (3, pytest.approx(0.25))


def test_outliers_do_not_move_a_measurement() -> None:
    assert trimmed_mean([3.0]) == 3.0
    assert trimmed_mean([1.0, 2.0]) == 1.5
    assert trimmed_mean([5.0, 900.0, 4.0, 0.1, 6.0]) == 5.0
    assert trimmed_mean([5.0] * 9 + [900.0]) == 5.0
    record = {"kind": "pass", "rounds_us": [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]}
    assert repeat_difference(record) == pytest.approx(1.0)
    assert repeat_difference({"kind": "pass"}) is None
    with pytest.raises(InputError, match="rounds_us: expected a list of times above 0"):
        repeat_difference({"kind": "pass", "rounds_us": [1.0, "x"]})


def test_what_the_device_cannot_do_is_counted() -> None:
    v100, records = load_hardware("v100-sxm-32gb"), [planted(), planted(dtype="bf16"), planted(dtype="bf16")]
    found = validate(v100, [*records, planted() | {"kind": "pass_compile", "mode": "max-autotune"}])
    assert len(found.passes) == 1
    assert sorted(found.skipped.values()) == [1, 2]
    with pytest.raises(InputError, match="nothing to score: dtype"):
        validate(v100, records[1:])
    with pytest.raises(InputError, match="nothing to score"):
        validate(v100, [{"kind": "machine"}])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"batch": 0}, "batch: expected"),
        ({"batch": "eight"}, "batch: expected"),
        ({"attn": "none"}, "attn: expected"),
        ({"wall_us": -1.0}, "wall_us: expected a time"),
        ({"wall_us": math.nan}, "wall_us: expected a time"),
        ({"wall_us": 10**400}, "wall_us: expected a time"),
        ({"model": 3}, "model: expected"),
        ({"model": "gpt3"}, "gpt3"),
        ({"batch": [1, 2]}, "expected integers"),
    ],
)
def test_a_bad_record_is_named(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        validate(load_hardware("a100"), [planted() | change])
    bad = {key: value for key, value in planted().items() if key not in change}
    with pytest.raises(InputError, match=next(iter(change))):
        validate(load_hardware("a100"), [bad])


@pytest.mark.parametrize("use_cache", [[], "false", 1])
def test_use_cache_is_true_or_false(use_cache: object) -> None:
    with pytest.raises(InputError, match="use_cache: expected True or False"):
        validate(load_hardware("a100"), [planted() | {"use_cache": use_cache}])


def test_a_profile_is_scored_kernel_by_kernel(profiles: list[Measurement]) -> None:
    a100 = load_hardware("a100")
    found = validate(a100, profiles)
    assert len(profiles) == 2 * len(SIZES)
    for record, one in zip(profiles, found.profiles, strict=True):
        assert (one.passes, one.in_order, one.missing, one.unmapped) == (3, True, (), {})
        assert one.mapped_share == pytest.approx(1)
        assert one.kernels[0].name == "transformer.wte"
        assert all(kernel.measured_s > 0 and kernel.predicted_s > 0 for kernel in one.kernels)
        assert sum(kind.measured_s for kind in one.kinds) == pytest.approx(one.total.measured_s)
        assert sum(kind.count for kind in one.kinds) == one.total.count == len(record["observed"][0])
        sizes = {name: record[name] for name in ("batch", "seq", "cache")}
        (predicted,) = predict(
            record["model"], a100, **sizes, dtype="fp32", attn=record["attn"], phase="prefill"
        ).phases
        assert one.total.predicted_s == pytest.approx(predicted.totals.device_s)


def test_measured_seconds_are_the_trace_s(profiles: list[Measurement]) -> None:
    assert len(profiles) == 2 * len(SIZES)
    for record in profiles:
        recording = observed_passes(record)[0]
        model, a100 = load_model(record["model"]), load_hardware("a100")
        how, sizes = How("fp32", record["attn"]), Sizes(record["batch"], record["seq"], record["cache"])
        one = score_trace(a100, model, how, sizes, recording)
        assert one.total.measured_s == pytest.approx(sum(op.seconds for op in recording))
        again = observed_passes(profile_record({}, [recording]))
        assert [op.op for op in again[0]] == [op.op for op in recording]
        with pytest.raises(InputError, match="found no pass"):
            score_trace(a100, model, how, sizes, [])


def test_a_profile_without_a_pass_is_counted() -> None:
    record = {key: value for key, value in planted().items() if key != "wall_us"} | {"kind": "profile"}
    found = validate(load_hardware("a100"), [planted(), record | {"observed": [[["add", 1.0, []]]]}])
    assert found.skipped == {"no pass found in the profile: eager": 1}


def test_a_profile_of_another_form() -> None:
    record = {key: value for key, value in planted().items() if key != "wall_us"} | {"kind": "profile"}
    for observed in (
        3,
        [[["add"]]],
        [[["add", "long", []]]],
        [[["", 1.0, []]]],
        [[["add", 10**400, []]]],
        [[[[], 1.0, []]]],
    ):
        with pytest.raises(InputError, match="kind profile"):
            validate(load_hardware("a100"), [record | {"observed": observed}])


# ------------------------------------------------------------------------------------------------ the command line


def test_a_slower_machine_than_at_calibration_is_said(tmp_path: Path) -> None:
    hw = load_hardware("a100")
    calibration = Calibration(date="2026-01-02", software="", clock="", count=1, reference_s=1e-3, residuals={})
    records = [planted() | {"rounds_us": [1.0, 1.0], "reference_us": [1200.0, 1300.0]}]
    assert validate(hw, records).slowdown is None
    assert validate(replace(hw, calibration=calibration), records).slowdown == pytest.approx(0.25)
    with pytest.raises(InputError, match="reference_us: expected a list of times"):
        validate(hw, [planted() | {"reference_us": [0.0]}])


def test_what_is_missing_in_a_trace_is_not_in_its_totals(tiny_config: str, profiles: list[Measurement]) -> None:
    record = next(r for r in profiles if r["attn"] == "sdpa" and r["seq"] > 1)
    cut = {**record, "observed": [[op for op in ops if op[0] != "addmm"] for ops in record["observed"]]}
    (whole,), (some,) = (validate(load_hardware("a100"), [r]).profiles for r in (record, cut))
    products = [kernel for kernel in whole.kernels if kernel.op == "addmm"]
    assert set(some.missing) == {kernel.name for kernel in products}
    assert some.total.count == whole.total.count - sum(kernel.count for kernel in products)
    lost_s = sum(kernel.predicted_s for kernel in products)
    assert some.total.predicted_s == pytest.approx(whole.total.predicted_s - lost_s)


def test_a_device_is_named_or_given() -> None:
    """Catches `gpt2cost.validate` taking no name, as the other functions of the package do."""
    by_name, given = (gpt2cost.validate(gpu, [planted()]) for gpu in ("a100", load_hardware("a100")))
    assert by_name.to_dict() == given.to_dict()
