"""Recorded measurements of a real machine: the fit and the predictions are judged by them, and no clock runs."""

from __future__ import annotations

import pytest
from helpers import ROOT

from gpt2cost.calibration.calibrate import calibrate
from gpt2cost.device.catalog import load_hardware
from gpt2cost.measure.records import read_records
from gpt2cost.measure.score import validate

pytest.importorskip("scipy")

FOLDER = ROOT / "benchmarks/measurements/cpu-epyc-7003-2c"


def test_a_file_fitted_to_recorded_kernels_predicts_recorded_passes() -> None:
    """No pass is in the fit. The bar holds where the measurement's own halves agree.

    Decode steps of 8 x 1 + 512 are not among them: they were measured when every call first freed the whole cache that
    the last one had made, which no decode loop does.
    """
    records = read_records(FOLDER / "kernels.jsonl.gz")
    assert not any(record["kind"] == "pass" for record in records)
    found = calibrate(records, "epyc-7003-2c").hardware
    scored = validate(found, read_records(FOLDER / "passes.jsonl.gz"))
    assert scored.summary.cases == 28
    assert scored.summary.median_absolute_error <= 0.08
    assert abs(scored.summary.signed_mean_error) <= 0.06
    steady = [one for one in scored.passes if one.repeat is not None and one.repeat <= 0.05]
    assert len(steady) >= 4
    assert all(abs(one.error) <= 0.25 for one in steady)


def test_the_recorded_file_is_the_fit_of_the_records() -> None:
    shipped = load_hardware(str(FOLDER / "epyc-7003-2c.yaml"))
    found = calibrate(read_records(FOLDER / "kernels.jsonl.gz"), "epyc-7003-2c").hardware
    curves = (shipped.cpu_model.products["fp32"], found.cpu_model.products["fp32"])
    for name in ("addmm", "mm", "scores", "context"):
        one, other = (getattr(curve, name) for curve in curves)
        assert one.rows == other.rows
        assert one.element_s == pytest.approx(other.element_s, rel=0.02)
