"""Measuring the real model, and scoring predictions by it. Times are measured, never asserted."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from helpers import process
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner, Result

from gpt2cost import InputError, load_hardware, predict
from gpt2cost.cli.extras import need_torch
from gpt2cost.cli.measure import measure
from gpt2cost.cli.validate import validate
from gpt2cost.device.catalog import validate_file
from gpt2cost.device.hardware import Calibration
from gpt2cost.files import data_dir
from gpt2cost.measure.bench import Bench
from gpt2cost.measure.evidence import as_evidence, evidence_yaml, source_of
from gpt2cost.measure.passes import Models, PassCase, config_of, measure_passes, pass_cases, pass_run, profile_passes
from gpt2cost.measure.records import Measurement, repeat_difference, trimmed_mean
from gpt2cost.measure.score import score_trace, validate
from gpt2cost.measure.torch_trace import observed_passes, profile_record, read_trace
from gpt2cost.prediction.grid import make_grid
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.table.config import load_model

app = typer.Typer()
app.command()(measure)
app.command()(validate)

SIZES = [(1, 1, 9), (2, 6, 0)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few samples as there may be."""
    sample = Bench.sample
    monkeypatch.setattr(Bench, "sample", lambda bench, run, budget_s=0.0, least=1: sample(bench, run, 0.0, least))


def no_words(_: str) -> None:
    pass


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def message(result: Result) -> str:
    assert isinstance(result.exception, InputError)
    return str(result.exception)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small model's config."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=64).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def cases(tiny: str) -> list[PassCase]:
    return pass_cases(make_grid(model=tiny, gpu="cpu", dtype="fp32", attn="sdpa,eager"), SIZES, "cpu")


@pytest.fixture(scope="module")
def passes(cases: list[PassCase]) -> list[Measurement]:
    return measure_passes(Bench("cpu"), cases, rounds=2, budget_s=0.001, tell=no_words)


@pytest.fixture(scope="module")
def profiles(cases: list[PassCase]) -> list[Measurement]:
    return profile_passes(Bench("cpu"), cases, passes=3, tell=no_words)


def planted(model: str = "gpt2", factor: float = 1.1, **changes: Any) -> dict[str, Any]:
    """A record of a pass that took `factor` times what is predicted."""
    case = {"model": model, "batch": 8, "seq": 128, "cache": 0, "dtype": "fp16", "attn": "sdpa", **changes}
    kind = case.pop("kind", "pass")
    runtime = {"pass_graph": "cuda-graph", "pass_compile": "compile"}.get(kind, case.get("runtime", "eager"))
    keys = ("batch", "seq", "cache", "dtype", "attn", "use_cache")
    given = {key: case[key] for key in keys if key in case}
    predicted = predict(model, "a100", **given, runtime=runtime, phase="prefill").phases[0].totals.latency_s
    return {"kind": kind, **case, "graph_us" if kind == "pass_graph" else "wall_us": 1e6 * factor * predicted}


def written(folder: Path, records: Sequence[Measurement]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "models.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return folder


# ------------------------------------------------------------------------------------------------ measuring


def test_a_measured_pass_says_what_was_run(tiny: str, passes: list[Measurement]) -> None:
    assert [(r["attn"], r["batch"], r["seq"], r["cache"]) for r in passes] == [
        (attn, *size) for attn in ("sdpa", "eager") for size in SIZES
    ]
    for record in passes:
        assert (record["kind"], record["model"], record["dtype"]) == ("pass", tiny, "fp32")
        assert (record["runtime"], record["use_cache"]) == ("eager", True)
        assert 0 < record["wall_min_us"] <= record["wall_us"]
        assert record["runs"] >= len(record["rounds_us"]) == 2
        assert min(record["rounds_us"]) <= record["wall_us"] <= max(record["rounds_us"])


def test_a_pass_is_the_real_model_on_a_restored_cache(tiny: str) -> None:
    models = Models(Bench("cpu"))
    case = PassCase(tiny, How("fp32", "eager"), Sizes(2, 3, 9))
    once = pass_run(models, case)
    with torch.no_grad():
        first, second = once(), once()
    assert torch.equal(first.logits, second.logits)  # type: ignore[attr-defined]
    assert first.logits.shape == (2, 3, 64)  # type: ignore[attr-defined]
    assert first.past_key_values.get_seq_length() == 12  # type: ignore[attr-defined]
    assert models.model(case).config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["gpt2", "distilgpt2", "gpt2-xl"])
def test_a_config_survives(name: str) -> None:
    model, again = load_model(name), load_model(config_of(load_model(name)))
    assert model.symbols() == again.symbols()
    assert (model.activation_function, model.use_cache) == (again.activation_function, again.use_cache)


def test_without_a_cache(tiny: str) -> None:
    grid = make_grid(model=tiny, gpu="cpu", dtype="fp32", use_cache=False)
    (record,) = measure_passes(Bench("cpu"), pass_cases(grid, [(1, 4, 0)], "cpu"), 1, 0.001, no_words)
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
def test_what_cannot_be_measured(tiny: str, changes: dict[str, str], size: tuple[int, int, int], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        pass_cases(make_grid(model=tiny, gpu="cpu", **{"dtype": "fp32", **changes}), [size], "cpu")


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
        ours = as_evidence(record, row.source)
        assert row.latency_s == pytest.approx(ours.latency_s, rel=1e-4)
        assert (row.model, row.batch, row.seq, row.cache, row.attn) == (
            ours.model, ours.batch, ours.seq, ours.cache, ours.attn,
        )  # fmt: skip
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
    assert one.inside == (one.low_s <= one.measured_s <= one.high_s)
    assert one.repeat is None


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
    found = validate(v100, [*records, planted() | {"kind": "pass_compile", "mode": "reduce-overhead"}])
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
    with pytest.raises(InputError):
        validate(load_hardware("a100"), [bad])


@pytest.mark.parametrize("use_cache", [[], "false", 1])
def test_use_cache_is_true_or_false(use_cache: object) -> None:
    with pytest.raises(InputError, match="use_cache: expected True or False"):
        validate(load_hardware("a100"), [planted() | {"use_cache": use_cache}])


def test_a_profile_is_scored_kernel_by_kernel(profiles: list[Measurement]) -> None:
    a100 = load_hardware("a100")
    found = validate(a100, profiles)
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


def test_measure_writes_what_validate_reads(tiny: str, tmp_path: Path) -> None:
    lines, evidence = tmp_path / "lines.jsonl", tmp_path / "evidence.yaml"
    result = run("measure", "--model", tiny, "--case", "1,2,3", "--case", "2,4,0", "--kernels", "--format", "jsonl",
                 "-o", lines, "--evidence", evidence)  # fmt: skip
    assert result.exception is None, result.output
    records = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    assert [record["kind"] for record in records] == ["machine", "pass", "pass", "profile", "profile"]
    assert [row["seq"] for row in yaml.safe_load(evidence.read_text("utf-8"))] == [2, 4]

    result = run("validate", "--from", lines, "--gpu", "a100", "--kernels", "--format", "json")
    assert result.exception is None, result.output
    document = json.loads(result.stdout)
    assert (document["summary"]["count"], len(document["profiles"])) == (2, 2)
    result = run("validate", "--from", lines, "--gpu", "a100", "--case", "2,4,0", "--format", "csv")
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv", "markdown"])
def test_validate_measures_and_predicts(tiny: str, format: str) -> None:
    result = run("validate", "--gpu", "a100", "--model", tiny, "--batch", "1", "--seq", "2,4", "--kernels", "--rounds",
                 "1", "--format", format)  # fmt: skip
    assert result.exception is None, result.output
    assert "warning: --device cpu is measured" in result.stderr
    assert "transformer.wte" in result.stdout


FORMATS = ["table", "json", "jsonl", "csv", "markdown"]


@pytest.mark.parametrize(("format", "kernels"), [*((format, True) for format in FORMATS), ("csv", False)])
def test_measure_in_every_format(tiny: str, format: str, kernels: bool) -> None:
    result = run("measure", "--model", tiny, "--case", "1,2,0", "--format", format, *["--kernels"][: int(kernels)])
    assert result.exception is None, result.output
    assert ("addmm" in result.stdout) == kernels
    assert "round 1/" in result.stderr


def test_tables_fit_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names, runtimes = ("gpt2", "gpt2-medium"), ("eager", "compile")
    records = [planted(name, attn=attn, runtime=runtime, seq=1, cache=512) | {"rounds_us": [1.0, 1.5]}
               for name in names for runtime in runtimes for attn in ("sdpa", "eager")]  # fmt: skip
    result = run("validate", "--from", written(tmp_path / "runs", records), "--gpu", "a100")
    assert result.exception is None, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "8 passes: error 9.1% median" in result.stdout


def test_recorded_campaigns(tmp_path: Path) -> None:
    times = {"wall_min_us": 1.0, "runs": 5, "stream_us": 1.0, "issue_us": 1.0}
    records = [
        {"kind": "machine", "part": "models"},
        planted() | times,
        planted(kind="pass_graph", seq=1, cache=128),
        planted(kind="pass_compile", mode="default", use_cache=True) | times,
        planted(kind="pass_compile", mode="default") | {"mode": "reduce-overhead"},
        {"kind": "pass", "model": "gpt2", "error": "out of memory"},
        {"kind": "gemm", "m": 1, "wall_us": 1.0},
        {"kind": "end", "complete": True},
    ]
    folder = written(tmp_path / "campaign", records)
    result = run("validate", "--from", folder, "--gpu", "a100", "--format", "jsonl")
    assert result.exception is None, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["runtime"] for row in rows] == ["eager", "cuda-graph", "compile"]
    assert [row["error"] for row in rows] == pytest.approx([1 / 1.1 - 1] * 3)
    assert "skipped 1 record" in result.stderr
    assert "no measured pass" in message(run("validate", "--from", folder, "--gpu", "a100", "--model", "gpt2-xl"))


@pytest.fixture(scope="module")
def traces(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Two passes of 2x6 tokens recorded by torch.profiler, with shapes and without."""
    model = GPT2LMHeadModel(GPT2Config.from_pretrained(tiny)).eval()
    folder, ids = tmp_path_factory.mktemp("traces"), torch.zeros(2, 6, dtype=torch.long)
    paths = {}
    for shapes in (True, False):
        with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], record_shapes=shapes) as profiler:
            for _ in range(2):
                model(ids)
        paths[shapes] = folder / f"{shapes}.json"
        profiler.export_chrome_trace(str(paths[shapes]))
    return paths


def test_a_trace_from_end_to_end(tiny: str, traces: dict[bool, Path]) -> None:
    given = ("--model", tiny, "--gpu", "a100", "--dtype", "fp32")
    for sizes in ([], ["--batch", "2", "--seq", "6", "--cache", "0"], ["--case", "2,6,0"]):
        result = run("validate", "--trace", traces[True], *given, *sizes, "--format", "json")
        assert result.exception is None, result.output
        (one,) = json.loads(result.stdout)["profiles"]
        assert (one["batch_size"], one["seq_len"], one["cache_len"]) == (2, 6, 0)
        assert (one["recorded_passes"], one["in_order"], one["missing"], one["unmapped"]) == (2, True, [], [])
        total_s = sum(op.seconds for op in read_trace(traces[True]))
        assert one["total"]["measured_s"] == pytest.approx(total_s / 2)
    result = run("validate", "--trace", traces[False], *given, "--case", "2,6,0")
    assert "100.0% of the time mapped, 2 passes recorded, all in the table's order" in result.stdout
    assert "transformer.h.mlp.c_fc" in result.stdout
    assert "no kernels of a device in it" in result.stderr


def test_recorded_passes_are_chosen_by_the_flags(tmp_path: Path) -> None:
    records = [planted(), planted(batch=1), planted(seq=1, cache=512), planted("distilgpt2", attn="eager")]
    folder = written(tmp_path / "runs", records)

    def count(*flags: str) -> int:
        result = run("validate", "--from", folder, "--gpu", "a100", "--format", "jsonl", *flags)
        assert result.exception is None, result.output
        return len(result.stdout.splitlines())

    assert count() == 4
    assert count("--batch", "8") == 3
    assert count("--seq", "1") == 1
    assert count("--model", "distilgpt2") == 1
    assert count("--model", "gpt2", "--batch", "1,8", "--cache", "0") == 2
    assert count("--case", "8,1,512", "--case", "1,128,0") == 2
    assert count("--case", "8,1,512", "--batch", "1") == 2  # as when measuring: one more size
    for flags, says in {
        ("--no-use-cache",): "no measured pass",
        ("--batch", "64"): "no measured pass",
        ("--dtype", "fp99"): "dtype",
        ("--model", "gpt3"): "gpt3",
    }.items():
        assert says in message(run("validate", "--from", folder, "--gpu", "a100", *flags))


def test_a_slower_machine_than_at_calibration_is_said(tmp_path: Path) -> None:
    hw = load_hardware("a100")
    calibration = Calibration(date="2026-01-02", software="", clock="", count=1, reference_s=1e-3, residuals={})
    records = [planted() | {"rounds_us": [1.0, 1.0], "reference_us": [1200.0, 1300.0]}]
    assert validate(hw, records).slowdown is None
    assert validate(replace(hw, calibration=calibration), records).slowdown == pytest.approx(0.25)
    with pytest.raises(InputError, match="reference_us: expected a list of times"):
        validate(hw, [planted() | {"reference_us": [0.0]}])


def test_what_is_missing_in_a_trace_is_not_in_its_totals(tiny: str, profiles: list[Measurement]) -> None:
    record = next(r for r in profiles if r["attn"] == "sdpa" and r["seq"] > 1)
    cut = {**record, "observed": [[op for op in ops if op[0] != "addmm"] for ops in record["observed"]]}
    (whole,), (some,) = (validate(load_hardware("a100"), [r]).profiles for r in (record, cut))
    products = [kernel for kernel in whole.kernels if kernel.op == "addmm"]
    assert set(some.missing) == {kernel.name for kernel in products}
    assert some.total.count == whole.total.count - sum(kernel.count for kernel in products)
    lost_s = sum(kernel.predicted_s for kernel in products)
    assert some.total.predicted_s == pytest.approx(whole.total.predicted_s - lost_s)


def test_what_a_trace_needs(tiny: str, traces: dict[bool, Path], tmp_path: Path) -> None:
    given = ("--model", tiny, "--gpu", "a100", "--dtype", "fp32")
    assert "give --batch, --seq and --cache" in message(run("validate", "--trace", traces[False], *given))
    assert "expected all three" in message(run("validate", "--trace", traces[True], *given, "--batch", "2"))
    two = ("--case", "1,2,0", "--case", "1,3,0")
    assert "expected one size" in message(run("validate", "--trace", traces[True], *given, *two))
    assert "--model is required" in message(run("validate", "--trace", traces[True], "--gpu", "a100"))
    assert "cannot read" in message(run("validate", "--trace", tmp_path / "none.json", *given))
    other = ("--batch", "1", "--seq", "6", "--cache", "0")
    assert "its batch, seq are (2, 6), got (1, 6)" in message(run("validate", "--trace", traces[True], *given, *other))
    both = ("--from", tmp_path, "--trace", traces[True])
    assert "expected one of them" in message(run("validate", *both, *given))


@pytest.mark.parametrize("case", ["1,2", "1,2,3,4", "a,b,c", "0,1,1", "1,0,1", "1,1,-1", ""])
def test_a_bad_case(tiny: str, case: str) -> None:
    message(run("measure", "--model", tiny, "--case", case))


def test_flags_that_are_missing_or_wrong(tiny: str, tmp_path: Path) -> None:
    assert "--model is required" in message(run("measure"))
    assert "device: expected one of" in message(run("measure", "--model", tiny, "--device", "tpu"))
    assert "threads: expected" in message(run("measure", "--model", tiny, "--threads", "0"))
    assert "no folder" in message(run("measure", "--model", tiny, "--evidence", tmp_path / "none" / "e.yaml"))
    assert "--gpu is required" in message(run("validate", "--model", tiny))
    assert "found none" in message(run("validate", "--from", tmp_path, "--gpu", "a100"))


@pytest.mark.parametrize("command", ["measure", "validate"])
def test_without_torch_one_line_says_what_to_install(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    expected = f'{command} needs torch: pip install "gpt2cost[measure]"'
    assert message(run(command, "--model", "gpt2")) == expected
    with pytest.raises(InputError, match=command):
        need_torch(command)


def test_scoring_needs_no_torch(tiny: str, traces: dict[bool, Path], tmp_path: Path) -> None:
    folder = written(tmp_path / "runs", [planted()])
    commands = [
        ["validate", "--from", str(folder), "--gpu", "a100"],
        ["validate", "--trace", str(traces[True]), "--model", tiny, "--gpu", "a100", "--dtype", "fp32"],
    ]
    code = f"""
import sys
sys.modules["torch"] = None
from gpt2cost.cli import app
sys.exit(sum(app.run(arguments) for arguments in {commands!r}))
"""
    done = process(["-c", code], timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("error: predicted / measured - 1") == 2
