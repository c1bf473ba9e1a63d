"""`gpt2cost validate`: what is measured here, was recorded, or was traced."""

from __future__ import annotations

import json
from pathlib import Path

import fuzz
import pytest
import yaml
from helpers import Call, assert_calm, assert_refused, process, refusal
from measured import planted, written

from gpt2cost.measure.torch_trace import read_trace

pytest.importorskip("torch")

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, GPT2LMHeadModel

pytestmark = pytest.mark.usefixtures("few_samples")


def test_measure_writes_what_validate_reads(gpt2cost: Call, tiny_config: str, tmp_path: Path) -> None:
    lines, evidence = tmp_path / "lines.jsonl", tmp_path / "evidence.yaml"
    result = gpt2cost("measure", "--model", tiny_config, "--case", "1,2,3", "--case", "2,4,0", "--kernels",
                      "--format", "jsonl", "-o", lines, "--evidence", evidence)  # fmt: skip
    assert result.code == 0, result.err
    records = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    assert [record["kind"] for record in records] == ["machine", "pass", "pass", "profile", "profile"]
    assert [row["seq"] for row in yaml.safe_load(evidence.read_text("utf-8"))] == [2, 4]

    result = gpt2cost("validate", "--from", lines, "--gpu", "a100", "--kernels", "--format", "json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert (document["summary"]["cases"], len(document["profiles"])) == (2, 2)
    result = gpt2cost("validate", "--from", lines, "--gpu", "a100", "--case", "2,4,0", "--format", "csv")
    assert len(result.out.splitlines()) == 2


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv", "markdown"])
def test_validate_measures_and_predicts(gpt2cost: Call, tiny_config: str, format: str) -> None:
    result = gpt2cost("validate", "--gpu", "a100", "--model", tiny_config, "--batch", "1", "--seq", "2,4", "--kernels",
                      "--rounds", "1", "--format", format)  # fmt: skip
    assert result.code == 0, result.err
    assert "warning: --device cpu is measured" in result.err
    assert ("\nwte " if format == "table" else "transformer.wte") in result.out


def test_tables_fit_a_terminal(gpt2cost: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names, runtimes = ("gpt2", "gpt2-medium"), ("eager", "compile")
    records = [planted(name, attn=attn, runtime=runtime, seq=1, cache=512) | {"rounds_us": [1.0, 1.5]}
               for name in names for runtime in runtimes for attn in ("sdpa", "eager")]  # fmt: skip
    result = gpt2cost("validate", "--from", written(tmp_path / "runs", records), "--gpu", "a100")
    assert result.code == 0, result.err
    assert max(map(len, result.out.splitlines())) <= 80
    assert "8 passes: error 9.1% median" in result.out


def test_recorded_campaigns(gpt2cost: Call, tmp_path: Path) -> None:
    times = {"wall_min_us": 1.0, "runs": 5, "stream_us": 1.0, "issue_us": 1.0}
    records = [
        {"kind": "machine", "part": "models"},
        planted() | times,
        planted(kind="pass_graph", seq=1, cache=128),
        planted(kind="pass_compile", mode="default", use_cache=True) | times,
        planted(kind="pass_compile", mode="reduce-overhead"),
        planted(kind="pass_compile", mode="default") | {"mode": "max-autotune"},
        {"kind": "pass", "model": "gpt2", "error": "out of memory"},
        {"kind": "gemm", "m": 1, "wall_us": 1.0},
        {"kind": "end", "complete": True},
    ]
    folder = written(tmp_path / "campaign", records)
    result = gpt2cost("validate", "--from", folder, "--gpu", "a100", "--format", "jsonl")
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert [row["runtime"] for row in rows] == ["eager", "cuda-graph", "compile", "reduce-overhead"]
    assert [row["error"] for row in rows] == pytest.approx([1 / 1.1 - 1] * 4)
    assert "skipped 1 record" in result.err
    assert "no measured pass" in refusal(gpt2cost("validate", "--from", folder, "--gpu", "a100", "--model", "gpt2-xl"))


@pytest.fixture(scope="module")
def traces(tiny_config: str, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Two passes of 2x6 tokens recorded by torch.profiler, with shapes and without."""
    model = GPT2LMHeadModel(GPT2Config.from_pretrained(tiny_config)).eval()
    folder, ids = tmp_path_factory.mktemp("traces"), torch.zeros(2, 6, dtype=torch.long)
    paths = {}
    for shapes in (True, False):
        with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], record_shapes=shapes) as profiler:
            for _ in range(2):
                model(ids)
        paths[shapes] = folder / f"{shapes}.json"
        profiler.export_chrome_trace(str(paths[shapes]))
    return paths


def test_a_trace_from_end_to_end(gpt2cost: Call, tiny_config: str, traces: dict[bool, Path]) -> None:
    given = ("--model", tiny_config, "--gpu", "a100", "--dtype", "fp32")
    for sizes in ([], ["--batch", "2", "--seq", "6", "--cache", "0"], ["--case", "2,6,0"]):
        result = gpt2cost("validate", "--trace", traces[True], *given, *sizes, "--format", "json")
        assert result.code == 0, result.err
        (one,) = json.loads(result.out)["profiles"]
        assert (one["batch_size"], one["seq_len"], one["cache_len"]) == (2, 6, 0)
        assert (one["recorded_passes"], one["in_order"], one["missing"], one["unmapped"]) == (2, True, [], [])
        total_s = sum(op.seconds for op in read_trace(traces[True]))
        assert one["total"]["measured_s"] == pytest.approx(total_s / 2)
    result = gpt2cost("validate", "--trace", traces[False], *given, "--case", "2,6,0")
    assert "100.0% of the time mapped, 2 passes recorded, all in the table's order" in result.out
    assert "\nh.mlp.c_fc " in result.out
    assert "no kernels of a device in it" in result.err


def test_recorded_passes_are_chosen_by_the_flags(gpt2cost: Call, tmp_path: Path) -> None:
    records = [planted(), planted(batch=1), planted(seq=1, cache=512), planted("distilgpt2", attn="eager")]
    folder = written(tmp_path / "runs", records)

    def count(*flags: str) -> int:
        result = gpt2cost("validate", "--from", folder, "--gpu", "a100", "--format", "jsonl", *flags)
        assert result.code == 0, result.err
        return len(result.out.splitlines())

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
        assert says in refusal(gpt2cost("validate", "--from", folder, "--gpu", "a100", *flags))


def test_what_a_trace_needs(gpt2cost: Call, tiny_config: str, traces: dict[bool, Path], tmp_path: Path) -> None:
    given = ("--model", tiny_config, "--gpu", "a100", "--dtype", "fp32")
    assert "give --batch, --seq and --cache" in refusal(gpt2cost("validate", "--trace", traces[False], *given))
    assert "expected all three" in refusal(gpt2cost("validate", "--trace", traces[True], *given, "--batch", "2"))
    two = ("--case", "1,2,0", "--case", "1,3,0")
    assert "expected one size" in refusal(gpt2cost("validate", "--trace", traces[True], *given, *two))
    assert "cannot read" in refusal(gpt2cost("validate", "--trace", tmp_path / "none.json", *given))
    other = ("--batch", "1", "--seq", "6", "--cache", "0")
    assert "its batch, seq are (2, 6), got (1, 6)" in refusal(
        gpt2cost("validate", "--trace", traces[True], *given, *other)
    )
    both = ("--from", tmp_path, "--trace", traces[True])
    assert "expected one of them" in refusal(gpt2cost("validate", *both, *given))


@pytest.mark.parametrize("time", ["NaN", "1e309", "-5", "true", '"7"'])
def test_a_profile_whose_times_are_none(gpt2cost: Call, tmp_path: Path, time: str) -> None:
    record = {**planted(), "kind": "profile"}
    del record["wall_us"]
    line = json.dumps(record)[:-1] + f', "observed": [[["native_layer_norm", {time}, []]]]}}'
    (tmp_path / "a.jsonl").write_text(line + "\n")
    said = refusal(gpt2cost("validate", "--from", tmp_path, "--gpu", "a100", "--kernels", "--format", "json"))
    assert "expected lists of [op, us, [kernels]]" in said


@pytest.mark.parametrize("dims", [[-1, 5], [10**30, 5]])
def test_a_trace_of_impossible_sizes(gpt2cost: Call, tiny_config: str, tmp_path: Path, dims: list[int]) -> None:
    event = {
        "ph": "X",
        "cat": "cpu_op",
        "name": "aten::embedding",
        "ts": 1,
        "dur": 2,
        "args": {"Input Dims": [[8, 8], dims]},
    }
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": [event]}))
    given = ("--model", tiny_config, "--gpu", "a100", "--dtype", "fp32")
    assert "batch: expected an integer from 1" in refusal(gpt2cost("validate", "--trace", path, *given))
    path.write_text(json.dumps({"traceEvents": [{**event, "ts": 10**400}]}))
    assert "ts and dur in us" in refusal(gpt2cost("validate", "--trace", path, *given))


def test_a_name_that_no_file_can_have(gpt2cost: Call) -> None:
    assert "cannot read: File name too long" in refusal(gpt2cost("validate", "--from", "a" * 300, "--gpu", "a100"))
    assert "File name too long" in refusal(gpt2cost("accuracy", "--measurements", "a" * 300))


def test_flags_that_are_missing_or_wrong(gpt2cost: Call, tiny_config: str, tmp_path: Path) -> None:
    assert "--gpu is required" in refusal(gpt2cost("validate", "--model", tiny_config))
    assert "found none" in refusal(gpt2cost("validate", "--from", tmp_path, "--gpu", "a100"))


def test_scoring_needs_no_torch(gpt2cost: Call, tiny_config: str, traces: dict[bool, Path], tmp_path: Path) -> None:
    folder = written(tmp_path / "runs", [planted()])
    commands = [
        ["validate", "--from", str(folder), "--gpu", "a100"],
        ["validate", "--trace", str(traces[True]), "--model", tiny_config, "--gpu", "a100", "--dtype", "fp32"],
    ]
    code = f"""
import sys
sys.modules["torch"] = None
from gpt2cost.cli import app
sys.exit(sum(app.run(arguments) for arguments in {commands!r}))
"""
    done = process(["-c", code])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("error: predicted / measured - 1") == 2


STEP = {
    "kind": "train_step", "model": "gpt2", "precision": "fp32", "optimizer": "adamw", "micro_batch": 1, "seq": 16,
    "step_us": 1e6, "runs": 3, "reference_us": [5.0],
}  # fmt: skip
RECORDS = [fuzz.MACHINE, fuzz.PASS, fuzz.PROFILE, fuzz.GEMM, STEP]
LINES = [(number, key) for number, record in enumerate(RECORDS) for key in record if key != "kind"]


@pytest.mark.parametrize(("number", "key"), LINES)
def test_an_error_of_a_record_names_file_and_line(number: int, key: str, gpt2cost: Call, tmp_path: Path) -> None:
    """Catches "measurement of kind pass: ..." of which nobody knows which of a thousand lines it means."""
    path = tmp_path / "records.jsonl"
    for value in (None, [], {}, "a", -1, 10**400, float("nan"), "left out"):
        wrong = {name: value if name == key else own for name, own in RECORDS[number].items()}
        if value == "left out":
            del wrong[key]
        lines = [wrong if i == number else record for i, record in enumerate(RECORDS)]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
        train = ("--phase", "train") if wrong["kind"] == "train_step" else ("--kernels",)
        result = gpt2cost("validate", "--gpu", "a100", *train, "--from", path)
        assert_calm(result)
        if result.code:
            assert_refused(result, f"error: {path}:{number + 1}: measurement of kind {wrong['kind']}: ")


def test_a_line_that_is_no_record_is_named(gpt2cost: Call, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    for line in ("{", "3", "{}", '{"kind": 3}'):
        path.write_text(f"{json.dumps(fuzz.MACHINE)}\n{line}\n{json.dumps(fuzz.PASS)}\n", "utf-8")
        assert_refused(gpt2cost("validate", "--gpu", "a100", "--from", path), f"{path}:2: expected a JSON object")


def test_a_second_machine_is_named(gpt2cost: Call, tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    path, other = tmp_path / "records.jsonl", {**fuzz.MACHINE, "threads": 64}
    path.write_text("".join(f"{json.dumps(line)}\n" for line in (fuzz.MACHINE, fuzz.GEMM, other)), "utf-8")
    said = f"{path}:3: measurement of kind machine: measurements of more than one machine: threads is 2 and 64"
    assert_refused(gpt2cost("calibrate", "--from", path, "-o", tmp_path / "made.yaml"), said)
