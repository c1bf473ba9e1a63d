"""Records of a measuring campaign, a script that needs only torch and transformers: they are fitted and scored.

Those in `data/campaign-cpu` are of two cores of an AMD EPYC 7003 and its smallest sizes: enough to see that every line
finds its place, too few for a good fit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT, Result

from gpt2cost.calibration.calibrate import calibrate
from gpt2cost.device.catalog import validate_file
from gpt2cost.measure.records import of_kind, read_records
from gpt2cost.measure.score import validate

pytest.importorskip("scipy")

FOLDER = ROOT / "tests/data/campaign-cpu"


def test_a_campaign_is_calibrated_from_and_scored(tmp_path: Path, gpt2cost: Callable[..., Result]) -> None:
    mine = str(tmp_path / "mine.yaml")
    fitted = gpt2cost("calibrate", "--from", str(FOLDER), "-o", mine, "--format", "json")
    assert {row["kind"] for row in json.loads(fitted.out)["residuals"]} >= {
        "addmm fp32", "scores fp32", "context fp32", "attention fp32", "attention masked fp32", "softmax", "layer_norm",
        "elementwise", "tanh", "gelu", "copy", "cat",
    }  # fmt: skip
    (device,) = validate_file(Path(mine))
    assert device.vendor == "cpu"
    assert device.calibration is not None
    assert "2 threads" in device.calibration.clock
    result = gpt2cost("validate", "--from", str(FOLDER), "--gpu", mine, "--kernels", "--format", "json")
    scored = json.loads(result.out)
    records = read_records(FOLDER)
    plain = [r for r in of_kind(records, "pass", "pass_compile") if r.get("mode", "default") == "default"]
    assert len(scored["passes"]) == sum(record["dtype"] == "fp32" for record in plain)
    assert len(scored["passes"]) + sum(scored["skipped"].values()) == len(of_kind(records, "pass", "pass_compile"))
    assert scored["summary"]["median_repeat"] is None


def test_every_profiled_kernel_of_a_campaign_has_its_row() -> None:
    """Prefill and decode, with sdpa and eager: all of the table, in order, and nothing else."""
    records = read_records(FOLDER)
    found = validate(calibrate(records, "mine").hardware, records)
    assert len(found.profiles) == 4
    for profile in found.profiles:
        assert (profile.mapped_share, profile.in_order, profile.missing) == (1.0, True, ())
        assert profile.total.measured_s > 0
