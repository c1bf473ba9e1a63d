"""Accuracy: the gate on the evidence that ships, the four words, and ranges that have not seen what tests them."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from gate import GATE, gate_figures

from gpt2cost import list_hardware, load_hardware, predict
from gpt2cost.device.catalog import change_hardware
from gpt2cost.device.hardware import Calibration, Evidence, Hardware
from gpt2cost.measure.residuals import leave_one_out, residuals_text
from gpt2cost.measure.score import Scored, Summary, score_evidence, summary_of
from gpt2cost.prediction.predict import Totals
from gpt2cost.prediction.ranges import LEAST, Spread, Unseen, band_of, level_band, spread
from gpt2cost.prediction.shipped import RESIDUALS_FILE, Residual, shipped
from gpt2cost.prediction.trust import Regime, Trust

DECODE, PREFILL = Regime("fp32", True, False, "eager"), Regime("fp32", False, True, "eager")


@pytest.fixture(scope="module")
def evidence() -> list[Scored]:
    return score_evidence()


def summed(scored: list[Scored]) -> Summary:
    summary = summary_of(scored)
    assert summary is not None
    return summary


def test_errors_do_not_grow(evidence: list[Scored]) -> None:
    """The regression gate: `python tests/regenerate.py` writes better figures, and a reviewer sees worse ones."""
    before = json.loads(GATE.read_text("utf-8"))
    now = gate_figures(evidence)
    assert set(now) == set(before), "a device has gained or lost its evidence"
    worse = {
        name: (before[name], now[name])
        for name in now
        for key in now[name]
        if now[name][key] > before[name][key] + 0.05
    }
    assert not worse


def test_fp32_passes_are_better_than_published(evidence: list[Scored]) -> None:
    """Mean absolute error of measured gpt2-large passes; NeuSight has 3.5 to 11 % on the eager ones."""
    limits = {"h100-sxm-80gb": 4, "a100-pcie-40gb": 6, "v100-pcie-32gb": 3, "l4": 8, "t4": 6}
    by_run: dict[tuple[str, str], list[float]] = {}
    for result in evidence:
        if result.hardware.name in limits and result.case.row.model == "gpt2-large":
            by_run.setdefault((result.hardware.name, result.case.row.runtime), []).append(abs(result.error))
    assert set(by_run) >= {*((name, "eager") for name in limits), ("h100-sxm-80gb", "compile")}
    for (name, runtime), errors in by_run.items():
        assert 100 * np.mean(errors) <= (limits[name] if runtime == "eager" else 8), (name, runtime)


# ---------------------------------------------------------------------------------------------- ranges


def test_the_residuals_that_ship_are_those_of_now() -> None:
    """`python tests/regenerate.py` writes them anew."""
    assert residuals_text() == RESIDUALS_FILE.read_text("utf-8")


def test_ranges_cover_what_they_have_not_seen(evidence: list[Scored]) -> None:
    summary = summed(evidence)
    assert summary.inside / summary.cases >= 0.8
    assert summary.median_width <= 2.5


def test_the_report_can_say_no() -> None:
    """Measurements that have nothing to do with predictions lie outside: a range is not made of what tests it."""
    noise = random.Random(1)
    devices = [
        replace(
            hw, evidence=tuple(replace(row, latency_s=row.latency_s * 8 ** noise.uniform(-1, 1)) for row in hw.evidence)
        )
        for hw in list_hardware()
        if hw.evidence
    ]
    summary = summed(score_evidence(devices))
    assert summary.inside / summary.cases < 0.5


def test_a_percentile_of_few_is_stretched() -> None:
    """By hand: eleven boxes from 0 to 1; the 10th percentile lies at 0.06, and a little farther from the middle."""
    few = [Residual("host", "gpu", "", f"box{i}", i / 10) for i in range(11)]
    tenth = 0.06  # 0.1 * 11 - 0.5 = 0.6 of the way from the first to the second
    away = (0.5 - tenth) * 13 / 11
    assert band_of(few, "host") == pytest.approx((0.5 - away, 0.5 + away))
    copies = [*few, *[few[-1]] * 100]  # a box on which more was measured counts no more
    assert band_of(copies, "host") == pytest.approx((0.5 - away, 0.5 + away), abs=0.05)


def test_a_devices_band_has_two_sides() -> None:
    """A few devices that were all slower say nothing of the side on which the next one lies."""
    few = [Residual("calibrated", "gpu", f"source{i}", "", i / 10) for i in range(1, 6)]
    nine_tenths = 0.5  # 0.9 * 5 - 0.5 = 4 steps from 0.1 on
    assert band_of(few, "calibrated") == pytest.approx((-nine_tenths * 1.4, nine_tenths * 1.4))
    of_one = [replace(item, source="source") for item in few]  # the errors of one source go together
    assert band_of(of_one, "calibrated") == pytest.approx((-nine_tenths * 3, nine_tenths * 3))


def test_a_device_that_is_twice_too_slow_has_a_wider_range() -> None:
    """The host is not blamed for a pass whose device sets the pace."""
    hw = replace(load_hardware("h100"), evidence=())
    work = {"model": "gpt2-xl", "batch": 32, "seq": 1024, "dtype": "bf16", "attn": "sdpa"}
    regime = Regime("bf16", False, True, "eager")

    def after(slower: float) -> Spread:
        alone = predict(gpu=hw, phase="prefill", **work).phases[0].totals.latency_s
        rows = (Evidence(latency_s=slower * alone, source="a test", use_cache=True, **work),)
        return spread(replace(hw, evidence=rows), regime)

    twice, right = after(2.0), after(1.0)
    assert twice.device_high > 2 > right.device_high
    assert (twice.host_low, twice.host_high) == (right.host_low, right.host_high)
    assert twice.device.word == right.device.word == "measured"


def test_ranges_enclose_the_prediction_everywhere() -> None:
    for hw in list_hardware():
        for dtype in ("fp32", "fp16"):
            for phase in predict("gpt2", hw, batch=2, seq=64, dtype=dtype, runtime="compile").phases:
                assert phase.totals.latency_low_s < phase.totals.latency_s < phase.totals.latency_high_s


def test_a_grid_has_the_ranges_and_words_of_its_points() -> None:
    """Of several regimes, and of both paces."""
    batch, cache = np.array([1, 8, 64, 512])[:, None], np.array([0, 100])
    (grid,) = predict("gpt2", "h100", batch=batch, seq=1, cache=cache, phase="prefill", dtype="fp32").phases
    assert len(set(np.ravel(grid.totals.trust_from))) > 1
    for i, j in np.ndindex(4, 2):
        point = predict(
            "gpt2", "h100", batch=int(batch[i, 0]), seq=1, cache=int(cache[j]), phase="prefill", dtype="fp32"
        )
        for name in ("latency_low_s", "latency_high_s", "trust", "trust_from"):
            values = np.broadcast_to(getattr(grid.totals, name), (4, 2))
            expected = getattr(point.phases[0].totals, name)
            assert values[i, j] == (expected if isinstance(expected, str) else pytest.approx(expected, rel=1e-12))


# ---------------------------------------------------------------------------------------------- words


def totals(gpu: str | Hardware, **settings: object) -> Totals:
    return predict("gpt2-large", gpu, phase="prefill", **settings).phases[0].totals  # type: ignore[arg-type]


def test_a_measured_regime_says_nothing_of_another() -> None:
    l4, h100 = load_hardware("l4"), load_hardware("h100")
    assert totals(l4, batch=4, seq=512, dtype="fp32").trust == "measured"
    assert totals(l4, batch=4, seq=512, dtype="bf16").trust == "borrowed"
    assert totals(h100, batch=256, seq=1, cache=512, dtype="fp32").trust != "measured"


def test_where_the_host_sets_the_pace_the_word_is_about_the_host() -> None:
    step = totals("h200", batch=1, seq=1, cache=64, attn="eager")
    assert step.bound == "host"
    assert (step.trust, step.trust_from) == ("borrowed", "the host of a100-sxm-80gb")


def test_borrowed_constants_are_named_and_have_wider_ranges() -> None:
    h200 = totals("h200", batch=32, seq=1024)
    assert (h200.trust, h200.trust_from) == ("borrowed", "h100-sxm-80gb")
    assert spread(load_hardware("h200"), PREFILL).device_high > spread(load_hardware("h100"), PREFILL).device_high


def test_a_calibrated_file_is_sure_only_of_the_dtypes_that_were_measured() -> None:
    run = Calibration(date="2026-01-02", software="", clock="", count=1, residuals={"gemm fp16": 0.05})
    mine = replace(load_hardware("h100"), evidence=(), calibration=run)
    words = {dtype: spread(mine, replace(PREFILL, dtype=dtype)).device.word for dtype in ("fp16", "fp32")}
    assert words == {"fp16": "calibrated", "fp32": "borrowed"}


@pytest.mark.parametrize("gpu", ["h100", "rtx4090", "m3-max"])
def test_a_what_if_is_less_sure_than_the_device_as_it_is(gpu: str) -> None:
    hw = load_hardware(gpu)
    changed = change_hardware(hw, {"memory.bandwidth": "20 TB/s"})
    for regime in (PREFILL, DECODE, replace(PREFILL, dtype="fp16")):
        own, other = spread(hw, regime), spread(changed, regime)
        assert other.device_low < own.device_low < own.device_high < other.device_high
        assert other.host_low < own.host_low < own.host_high < other.host_high
        assert (other.device.word, other.device.source) == ("changed", hw.name)


def test_a_what_if_rests_on_the_device_that_it_changes() -> None:
    """A file of one's own under a shipped name has none of the shipped evidence, with a slower host or without."""
    shipped_t4 = load_hardware("t4")
    mine = replace(shipped_t4, evidence=())
    for hw, is_measured in ((mine, False), (shipped_t4, True)):
        slow = change_hardware(hw, {"host_factor": 1.4})
        assert spread(hw, PREFILL).device == spread(slow, PREFILL).device
        assert (spread(hw, PREFILL).device.word == "measured") is is_measured
        twice = change_hardware(slow, {"memory.bandwidth": "1 TB/s"})
        assert spread(twice, PREFILL).device == Trust("changed", "t4")


def test_a_host_that_is_given_is_known() -> None:
    for more in ({}, {"memory.bandwidth": "3 TB/s"}):
        own = spread(change_hardware(load_hardware("a100"), {"host_factor": 1.4, **more}), DECODE)
        assert (own.host_low, own.host_high) == pytest.approx((1 / 1.2, 1.2))


@pytest.mark.parametrize("gpu", ["a10", "b200", "a100-sxm-80gb"])
def test_parts_of_a_model_make_no_regime_measured(gpu: str) -> None:
    """These have rows of attention modules and of blocks alone. Whole passes on an H100 do."""
    hw = load_hardware(gpu)
    assert {row.part for row in hw.evidence} == {"attention", "block"}
    assert spread(hw, PREFILL).device.word != "measured"
    whole = replace(hw, evidence=tuple(replace(row, part="model") for row in hw.evidence))
    assert spread(whole, PREFILL).device == Trust("measured", hw.name)
    summed_up = replace(hw, evidence=tuple(replace(row, timed="kernels") for row in whole.evidence))
    assert spread(summed_up, PREFILL).device.word != "measured"


def test_a_box_that_is_left_out_lends_no_host() -> None:
    """Its rows of another source are of the same host."""
    hw = load_hardware("rtx3090")
    first, *others = (replace(row, source=f"source {number}") for number, row in enumerate(hw.evidence))
    alone = replace(hw, evidence=(first, *others))
    assert len({row.box for row in alone.evidence}) == 1
    assert spread(alone, DECODE).host == Trust("measured", first.box)
    assert spread(alone, DECODE, Unseen(first.source, first.box)).host.word == "borrowed"


def test_many_what_ifs_are_not_kept() -> None:
    for number in range(300):
        spread(change_hardware(load_hardware("l4"), {"memory.bandwidth": f"{number + 1} GB/s"}), PREFILL)
    info = spread.cache_info()
    assert info.maxsize is not None
    assert info.currsize <= info.maxsize <= 300


def test_what_was_fitted_to_a_pass_is_said() -> None:
    """By the row, or by the source of a constant; of a host that was fitted, all passes that it paces."""
    h200 = load_hardware("h200")
    device = Evidence(source="a", model="gpt2-xl", batch=32, seq=512, dtype="fp16", attn="sdpa", latency_s=0.1)
    host = replace(device, batch=1, seq=1, cache=8)
    own = {**h200.provenance, "host": "assumed"}
    plain = replace(h200, evidence=(device, host), borrowed={}, provenance=own)
    assert [scored.fitted for scored in score_evidence([plain])] == ["", ""]
    sources = {**own, "model.gemm.fp16.droop": "fitted: the rows of this file", "host": "fitted: some machines"}
    fitted = replace(plain, provenance=sources)
    assert [scored.fitted for scored in score_evidence([fitted])] == ["droop", "droop, host"]
    said = replace(plain, evidence=(replace(device, fitted="launch"),))
    assert [scored.fitted for scored in score_evidence([said])] == ["launch"]


def test_leave_one_out_never_uses_a_devices_own_constants() -> None:
    """Catches a device that is among its own donors: its errors would be those of its evidence."""
    devices = [load_hardware(gpu) for gpu in ("l4", "v100-pcie-32gb", "l40s")]
    results = leave_one_out(devices)
    assert {result.gpu for result in results} == {hw.name for hw in devices}
    assert all(result.errors for result in results)
    own = {(scored.hardware.name, scored.case.row.dtype, scored.error) for scored in score_evidence(devices)}
    borrowed = {(result.gpu, result.dtype, error) for result in results for error in result.errors}
    assert not own & borrowed


def test_what_is_left_out_is_not_seen() -> None:
    """A source's own residuals, and a box's host factors, are no part of the range that its passes are tested with."""
    hw, regime = replace(load_hardware("l40s"), evidence=()), replace(DECODE, dtype="fp16")
    given = {(item.source, item.box) for item in shipped().residuals if item.level in ("calibrated", "host")}
    whole = spread(hw, regime)
    left_out = [spread(hw, regime, Unseen(*of)) for of in given]
    assert any(other != whole for other in left_out)
    for (source, box), other in zip(given, left_out, strict=True):
        seen = [item for item in shipped().residuals if item.source != source]
        host = [item for item in seen if item.level == "host" and item.box != box]
        assert math.log(other.host_high) == pytest.approx(max(band_of(host, "host")[1], LEAST))
        assert math.log(other.device_high) == pytest.approx(max(level_band(seen, other.device.word)[1], LEAST))
