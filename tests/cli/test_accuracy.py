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
    assert_refused(gpt2cost("accuracy", "--trust", "--leave-one-out"), "--leave-one-out and --trust: expected one")
    assert_refused(gpt2cost("accuracy", "--measurements", ".", "--gpu", "a100"), "--gpu does not go with")


def test_several_devices_and_one_without_passes(gpt2cost: Call) -> None:
    rows = json.loads(gpt2cost("accuracy", "--leave-one-out", "--gpu", "l4,t4", "--format", "json").out)["transfer"]
    assert {row["gpu"] for row in rows} == {"l4", "t4"}
    for flags in ([], ["--leave-one-out"]):
        done = gpt2cost("accuracy", *flags, "--gpu", "m2")
        assert (done.code, done.out.count("\n"), done.out[:3]) == (0, 1, "no ")


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
    assert "never measured: 16-bit prefill on any a100, m1," in text
    assert all(f"{word}: " in text for word in document["trust"])
    assert max(map(len, text.splitlines())) <= 80
    head, *_ = text.split("\n\n")
    assert all(word in head for word in ("16-bit decode", "m1 and 14 more", "up to"))
    assert "16-bit prefill, h100-nvl-94gb: from h100-sxm-80gb" in text


def test_only_whole_passes_are_counted(gpt2cost: Call) -> None:
    """An A100 SXM and an A10 have rows of parts of a model alone, a T4 has whole passes beside them."""
    flags = ["accuracy", "--trust", "--gpu", "a100,a10,t4", "--format", "json"]
    known = {row["gpu"]: row for row in json.loads(gpt2cost(*flags).out)["known"] if row["work"] == "fp32 prefill"}
    assert {gpu: row["passes"] for gpu, row in known.items()} == {"a100-sxm-80gb": 0, "a10": 0, "t4": 2}
    assert {gpu: row["word"] == "measured" for gpu, row in known.items()} == {
        "a100-sxm-80gb": False, "a10": False, "t4": True,
    }  # fmt: skip


def test_a_fitted_constant_is_said(gpt2cost: Call, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("gpu,dtype,m,n,k,latency_us\na100,fp16,128,768,768,90\n")
    call = ("accuracy", "--measurements", str(tmp_path))
    plain, fitted = gpt2cost(*call).out, gpt2cost(*call, "--fit-constant").out
    assert "constant" not in plain
    assert "constant: fitted to the very rows that are scored" in fitted
