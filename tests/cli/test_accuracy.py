"""`gpt2cost accuracy`: what it puts beside what."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from helpers import Call, assert_refused

from gpt2cost.device.catalog import load_hardware
from gpt2cost.measure.residuals import leave_one_out
from gpt2cost.measure.score import score_evidence


def test_the_evidence_of_one_device(gpt2cost: Call) -> None:
    scored = score_evidence([load_hardware("h100")])
    document = json.loads(gpt2cost("accuracy", "--gpu", "h100", "--format", "json").out)
    assert [row["error"] for row in document["evidence"]] == [case.error for case in scored]
    assert [device["cases"] for device in document["devices"]] == [len(scored)]
    rows = list(csv.DictReader(io.StringIO(gpt2cost("accuracy", "--gpu", "h100", "--format", "csv").out)))
    assert [float(row["measured_s"]) for row in rows] == [case.measured_s for case in scored]


def test_with_the_constants_of_others(gpt2cost: Call) -> None:
    rows = json.loads(gpt2cost("accuracy", "--leave-one-out", "--gpu", "l4", "--format", "json").out)["transfer"]
    assert [row["cases"] for row in rows] == [len(other.errors) for other in leave_one_out([load_hardware("l4")])]


def test_refused(gpt2cost: Call) -> None:
    assert_refused(gpt2cost("accuracy", "--gpu", "h1000"), "did you mean")
    assert_refused(gpt2cost("accuracy", "--measurements", "none"), "none")
    assert_refused(gpt2cost("accuracy", "--fit-constant"), "--measurements")


def test_what_is_known_of_the_devices(gpt2cost: Call) -> None:
    """The sentences are computed: every device of the mission without a measured pass of a kind is named."""
    document = json.loads(gpt2cost("accuracy", "--trust", "--format", "json").out)
    known = {(row["gpu"], row["work"]): row for row in document["known"]}
    assert {"a100-sxm-80gb", "h100-sxm-80gb", "rtx4090", "m1", "m4-max"} <= {gpu for gpu, _ in known}
    for (gpu, work), row in known.items():
        assert row["word"] in document["trust"]
        assert (row["error"] is None) == (row["passes"] == 0) == (gpu in document["never_measured"][work])
        assert row["low"] < 0 < row["high"]
    assert known["h100-sxm-80gb", "fp32 prefill"]["word"] == "measured"
    text = gpt2cost("accuracy", "--trust").out
    assert "never measured: a pass of" in text
    assert all(f"{word}: " in text for word in document["trust"])


def test_a_fitted_constant_is_said(gpt2cost: Call, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("gpu,dtype,m,n,k,latency_us\na100,fp16,128,768,768,90\n")
    call = ("accuracy", "--measurements", str(tmp_path))
    plain, fitted = gpt2cost(*call).out, gpt2cost(*call, "--fit-constant").out
    assert "constant" not in plain
    assert "constant: fitted to the very rows that are scored" in fitted
