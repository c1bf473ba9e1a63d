"""Every result in every form: JSON, CSV, Markdown, text and notebook come from one list of fields."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, process

import gpt2cost
from gpt2cost.calibration.forms import Calibrated, FitResidual
from gpt2cost.measure.kernel_files import KernelResult
from gpt2cost.measure.records import Measurement, read_records
from gpt2cost.measure.score import Scored, Validation, score_evidence, score_trace
from gpt2cost.measure.torch_trace import read_trace
from gpt2cost.output import accuracy, capacity, compare, generate, sweep, validation
from gpt2cost.output import service as of_service
from gpt2cost.output.chrome_trace import chrome_trace
from gpt2cost.output.formats import to_markdown
from gpt2cost.output.page import Page
from gpt2cost.output.record import View
from gpt2cost.output.shared import CHOICE
from gpt2cost.output.sink import Sink
from gpt2cost.prediction.blocks import Block
from gpt2cost.prediction.service import service
from gpt2cost.prediction.settings import Sizes
from gpt2cost.prediction.sweep import COLUMNS, KERNEL_COLUMNS, Sweep
from gpt2cost.prediction.sweep_order import ordered
from gpt2cost.result import Result
from gpt2cost.units import format_quantity

MEASUREMENTS = ROOT / "benchmarks/measurements/cpu-epyc-7003-2c"


def keys(*fields: Any) -> list[str]:
    return [field.key for field in fields]


@lru_cache
def records() -> tuple[Measurement, ...]:
    """Recorded passes, the profile of one, and one that failed."""
    profile = {
        "kind": "profile", "model": "gpt2", "dtype": "fp32", "attn": "sdpa", "batch": 1, "seq": 16, "cache": 0,
        "observed": [[["addmm", us, []], ["", 2.0, ["fused_kernel"]]] for us in (6.0, 8.0)],
    }  # fmt: skip
    failed = {**profile, "kind": "pass", "error": "out of memory"}
    return (*read_records(MEASUREMENTS / "passes.jsonl.gz"), profile, failed)


@lru_cache
def evidence() -> tuple[Scored, ...]:
    return tuple(score_evidence([gpt2cost.load_hardware("t4"), gpt2cost.load_hardware("h100")]))


@lru_cache
def validated() -> Validation:
    hardware = gpt2cost.load_hardware(str(MEASUREMENTS / "epyc-7003-2c.yaml"))
    return gpt2cost.validate(hardware, read_records(MEASUREMENTS / "passes.jsonl.gz"))


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Validation:
    """A predicted trace, scored as if it had been measured."""
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    prediction = gpt2cost.predict("distilgpt2", "a100", batch=2, seq=16, phase="prefill", attn="eager")
    path.write_text(json.dumps(chrome_trace(prediction)), "utf-8")
    profile = score_trace(prediction.hardware, prediction.model, prediction.how, Sizes(2, 16), read_trace(path))
    return Validation(prediction.hardware, (), (profile,), {"why": 1})


@dataclass(frozen=True)
class Case:
    """A view, what it shows, the keys of its rows, and where in the document they are."""

    view: View[Any]
    shown: Any
    keys: Sequence[str]
    place: str


@lru_cache
def case(name: str) -> Case:
    how = ["dtype", "attn", "runtime", "logits", "use_cache", "cache_type"]
    match name:
        case "capacity":
            shown = gpt2cost.capacity("gpt2-xl", "t4", max_latency_s=0.03)
            return Case(
                shown.view,
                shown,
                [*keys(*CHOICE), "max_latency_s", *keys(*capacity.ANSWER), "valid", "impl"],
                "answers",
            )
        case "generation":
            shown = gpt2cost.generate("gpt2", "a100", batch=2, new_tokens=12, price_per_hour=2.0)
            settings = ["batch_size", "prompt_tokens", "new_tokens", "sample", "padded", *how]
            settings += ["price_per_hour", "cost_per_million_tokens"]
            return Case(
                shown.view, shown, ["model", "gpu", *settings, "token", "position", "phase", *generate.TURN, "impl"], ""
            )
        case "service":
            shown = service("gpt2", ["t4", "l4"], new_tokens=12, price_per_hour={"t4": 1.0}, max_tpot_s=0.01)
            asked = ["prompt_tokens", "new_tokens", "sample", "padded", *how, "max_ttft_s", "max_tpot_s", "at"]
            return Case(shown.view, shown, ["model", *asked, *keys(*of_service.OFFER), "impl"], "offers")
        case "comparison":
            shown = gpt2cost.compare("gpt2", ["a100", "t4"], dtype=["fp16", "fp32"])
            return Case(shown.view, shown, keys(*compare.FIELDS), "")
        case "sweep":
            return Case(sweep.SWEEP, gpt2cost.sweep("gpt2", "a100", batch="1-64*2"), COLUMNS, "rows")
        case "sweep of kernels":
            shown = gpt2cost.sweep("gpt2", "a100,t4", seq="1023,1025", phase="both", kernels=True)
            return Case(sweep.SWEEP, shown, KERNEL_COLUMNS, "rows")
        case "evidence":
            return Case(accuracy.EVIDENCE, evidence(), keys(*accuracy.SCORED), "evidence")
        case "kernels":
            result = KernelResult("f.csv", "a100", "fp16", "gemm", 3, 1e-6, np.array([0.1, -0.2, 0.4]))
            kernel = ["file", "gpu", "dtype", "operation", "count", "constant_s"]
            errors = [f"{name}_error" for name in ("mean_absolute", "median_absolute", "p95_absolute", "signed_mean")]
            return Case(accuracy.KERNELS, [result], kernel + errors, "kernels")
        case "validation":
            return Case(validation.validation_view(), validated(), keys(*accuracy.SCORED), "passes")
        case "measured":
            return Case(validation.MEASURED, records(), ["gpu", *keys(*validation.PASS)], "passes")
        case _:
            return Case(validation.MEASURED_OPS, records(), ["gpu", *keys(*accuracy.RUN), *validation.OP], "ops")


CASES = (
    "capacity", "generation", "service", "comparison", "sweep", "sweep of kernels", "evidence", "kernels", "validation",
    "measured", "measured ops",
)  # fmt: skip


def text_of(view: View[Any], shown: Any, width: int = 200) -> str:
    page = Page(width)
    view.text(page, shown)
    return page.plain()


@pytest.mark.parametrize("name", CASES)
def test_every_form_has_the_same_fields(name: str, tmp_path: Path) -> None:
    view, shown = case(name).view, case(name).shown
    rows = list(view.rows(shown))
    assert rows
    for row in rows:
        assert list(row) == list(case(name).keys)
    written: dict[str, str] = {}
    for format in ("json", "jsonl", "csv", "markdown", "table"):
        Sink(format, tmp_path / format).show(view, shown)
        written[format] = (tmp_path / format).read_text("utf-8")
    assert [json.loads(line) for line in written["jsonl"].splitlines()] == rows
    document = json.loads(written["json"])
    assert document["schema_version"] == 3
    if place := case(name).place:
        assert document[place] == rows
    cells = list(csv.DictReader(io.StringIO(written["csv"])))
    assert list(cells[0]) == list(rows[0])
    for cell, row in zip(cells, rows, strict=True):
        for key, value in row.items():
            if isinstance(value, float):
                assert float(cell[key]) == value
    if view.markdown is None:
        assert written["markdown"].splitlines()[0] == f"| {' | '.join(rows[0])} |"
        assert len(written["markdown"].splitlines()) == len(rows) + 2
    assert written["table"].strip()


@pytest.mark.parametrize(
    ("name", "key", "unit"),
    [
        ("capacity", "latency_s", "s"), ("capacity", "total_bytes", "B"), ("evidence", "measured_s", "s"),
        ("validation", "predicted_s", "s"), ("measured", "latency_s", "s"),
    ],
)  # fmt: skip
def test_the_text_shows_the_rows_figures(name: str, key: str, unit: str) -> None:
    text = text_of(case(name).view, case(name).shown)
    values = [row[key] for row in case(name).view.rows(case(name).shown)]
    for value in values:
        assert ("-" if value is None else format_quantity(value, unit)) in text
    assert len(set(values)) > 1


def test_the_nested_documents_hold_the_flat_rows() -> None:
    run, comparison = case("generation").shown, case("comparison").shown
    document, rows = run.to_dict(), run.rows()
    assert document["first_token"].items() <= rows[0].items()
    assert all(point.items() <= row.items() for point, row in zip(document["curve"], rows[1:], strict=True))
    assert document["settings"].items() <= rows[0].items()
    assert (document["tpot_first_s"], document["tpot_last_s"]) == (rows[1]["latency_s"], rows[-1]["latency_s"])
    nested = [candidate for phase in comparison.to_dict()["phases"] for candidate in phase["candidates"]]
    for candidate, row in zip(nested, comparison.rows(), strict=True):
        seconds = candidate.pop("seconds_by_kind")
        assert sum(seconds.values()) == pytest.approx(row["latency_s"])
        assert {**candidate, **{f"{kind}_s": value for kind, value in seconds.items()}} == row


def test_no_answer_is_a_dash() -> None:
    nothing = gpt2cost.capacity("gpt2-xl", "t4", max_latency_s=1e-6)
    assert {row["latency_s"] for row in nothing.rows()} == {row["total_bytes"] for row in nothing.rows()} == {None}
    assert text_of(nothing.view, nothing).count(" -  ") > 6


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    comparison = gpt2cost.compare("gpt2", ["a100", "h100", "t4"])
    text = text_of(comparison.view, comparison)
    assert " 0.00" in text
    assert "-0.00" not in text
    assert "+0.00" not in text
    assert re.search(r"\+[0-9]*[.][0-9]", text)


def test_a_profile_kernel_by_kernel(profiled: Validation) -> None:
    """The errors of a trace that was itself predicted are 0."""
    view = validation.validation_view(kernels=True)
    rows = list(view.rows(profiled))
    assert list(rows[0]) == ["gpu", *keys(*accuracy.RUN), *keys(*validation.KERNEL)]
    assert all(row["error"] == pytest.approx(0, abs=1e-3) for row in rows)
    document = view.document(profiled)
    assert document["summary"] is None
    (profile,) = document["profiles"]
    assert profile["kernels"] == [{key: row[key] for key in keys(*validation.KERNEL)} for row in rows]
    text = text_of(view, profiled)
    assert "-0.0%" not in text
    assert "kernels of distilgpt2 fp16 eager eager 2x16" in text
    assert "\nh.mlp.c_fc " in text
    assert "skipped 1 record: why" in text
    assert "\nh.mlp.c_fc " not in text_of(validation.validation_view(), profiled)


def test_ops_are_sorted_by_their_medians() -> None:
    ops = list(validation.MEASURED_OPS.rows(records()))
    assert [(op["op"], op["count"], op["measured_s"], op["share"]) for op in ops] == [
        ("addmm", 1, pytest.approx(7e-6), pytest.approx(7 / 9)),
        ("fused_kernel", 1, pytest.approx(2e-6), pytest.approx(2 / 9)),
    ]


# ---------------------------------------------------------------------------------------------- sweeps


def each_of(blocks: Iterable[Block]) -> Callable[[Callable[[Block], Iterable[Any]]], Iterable[Any]]:
    return lambda make: chain.from_iterable(map(make, blocks))


def cell_of(value: Any) -> str:
    """A value as CSV has it."""
    return {True: "true", False: "false", None: ""}[value] if isinstance(value, bool | None) else str(value)


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "markdown", "table"])
def test_a_streamed_sweep_is_the_view(format: str, kernels: bool, tmp_path: Path) -> None:
    swept = gpt2cost.sweep("gpt2", "a100,t4", batch="1-8*2", seq="512,2000", kernels=kernels)
    sweep.show_sweep(Sink(format, tmp_path / "streamed"), swept, each_of(swept.blocks()))
    streamed = (tmp_path / "streamed").read_text("utf-8")
    rows = swept.rows()
    match format:
        case "json":
            assert json.loads(streamed) == swept.to_dict()
        case "jsonl":
            assert [json.loads(line) for line in streamed.splitlines()] == rows
        case "csv":
            written = [{key: cell_of(value) for key, value in row.items()} for row in rows]
            assert list(csv.DictReader(io.StringIO(streamed))) == written
        case "markdown":
            assert streamed == to_markdown(rows)
        case _:
            assert len(streamed.splitlines()) >= len(rows) + 2


def test_a_sweep_in_another_order(tmp_path: Path) -> None:
    swept = gpt2cost.sweep("gpt2", "a100,t4", batch="1-8*2")
    sweep.show_sweep(Sink("jsonl", tmp_path / "rows"), swept, each_of(ordered(swept.blocks(), "-latency_s", 3)))
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text("utf-8").splitlines()]
    assert rows == sorted(swept.rows(), key=lambda row: -row["latency_s"])[:3]


def test_a_table_for_people_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "TABLE_ROWS", 5)
    swept = gpt2cost.sweep("gpt2", "a100", batch="1-6")
    sweep.show_sweep(Sink("table", tmp_path / "six"), swept, each_of(swept.blocks()))
    assert "the table ends after 5 rows" in capsys.readouterr().err
    five = gpt2cost.sweep("gpt2", "a100", batch="1-5")
    sweep.show_sweep(Sink("table", tmp_path / "five"), five, each_of(five.blocks()))
    assert capsys.readouterr().err == ""
    assert (tmp_path / "six").read_text("utf-8").splitlines()[-1].split()[0] == "5"


def test_integers_beyond_a_float_s_are_floats() -> None:
    """Past 2^53 a float64 no longer holds every integer: nothing claims that it does."""
    swept = gpt2cost.sweep("gpt2-xl", "a100", batch=10**7, seq=1024)
    (text,) = each_of(swept.blocks())(sweep.jsonl_lines)
    (row,) = swept.rows()
    assert json.loads(text) == row
    assert isinstance(row["flops"], float)
    assert row["flops"] > 2**53
    assert isinstance(row["launches"], int)


def test_marks_of_a_sweep() -> None:
    swept = gpt2cost.sweep("gpt2-xl", "t4", batch="1,100000", seq="128,2000")
    text = text_of(sweep.SWEEP, swept)
    assert [line.split()[-1] for line in text.splitlines()[4:8]].count("!*") == 1
    assert "! does not fit into the device's memory; * beyond the model's positions" in text


# ---------------------------------------------------------------------------------------------- notebooks


@lru_cache
def results() -> dict[str, tuple[Result, int]]:
    """Results, and the tables that a notebook shows of each."""
    prediction = gpt2cost.predict("gpt2", "a100", phase="prefill")
    assert prediction.prefill is not None
    return {
        "Prediction": (prediction, 1),
        "Phase": (prediction.prefill, 1),
        "Hardware": (prediction.hardware, 1),
        "Generation": (case("generation").shown, 1),
        "Comparison": (gpt2cost.compare("gpt2", gpt2cost.list_hardware()[:5], phase="prefill"), 2),
        "Capacity": (case("capacity").shown, 1),
        "StepExplanation": (gpt2cost.explain_step("gpt2", "h.attn.cat_key", "a100"), 1),
        "Tree": (gpt2cost.tree("gpt2", "a100", phase="train"), 2),
        "Sweep": (gpt2cost.sweep("gpt2", "a100", batch="1-1000", seq="1-1000"), 1),
        "Validation": (validated(), 1),
        "Calibrated": (Calibrated(prediction.hardware, (FitResidual("gemm fp16", 9, 0.04, 0.2, -0.01),), ()), 1),
    }


@pytest.mark.parametrize(
    "name",
    [
        "Prediction",
        "Phase",
        "Hardware",
        "Generation",
        "Comparison",
        "Capacity",
        "StepExplanation",
        "Tree",
        "Sweep",
        "Validation",
        "Calibrated",
    ],
)
def test_a_result_in_a_notebook(name: str) -> None:
    result, tables = results()[name]
    assert type(result).__name__ == name
    assert repr(result).startswith(f"<{name}")
    assert repr(result).endswith(">")
    assert repr(result).count("\n") == 1
    assert len(repr(result)) < 300
    html = result._repr_html_()
    assert html.count("<table>") == html.count("</table>") == tables
    if not isinstance(result, Sweep):
        assert result.rows()
        assert json.dumps(result.to_dict(), allow_nan=False)


def test_scores_are_shown_without_scipy() -> None:
    """Only fitting needs it."""
    rooms = "accuracy, validation, compare, sweep, generate"
    done = process(["-c", f"import sys; from gpt2cost.output import {rooms}; sys.exit('scipy' in sys.modules)"])
    assert done.returncode == 0, done.stderr
