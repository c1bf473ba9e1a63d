"""`gpt2cost accuracy`: what it puts beside what."""

from __future__ import annotations

import csv
import io
import json

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
    rows = json.loads(gpt2cost("accuracy", "--leave-one-out", "--format", "json").out)["transfer"]
    assert [row["cases"] for row in rows] == [len(transfer.errors) for transfer in leave_one_out()]


def test_refused(gpt2cost: Call) -> None:
    assert_refused(gpt2cost("accuracy", "--gpu", "h1000"), "did you mean")
    assert_refused(gpt2cost("accuracy", "--measurements", "none"), "none")
