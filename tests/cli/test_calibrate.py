"""`gpt2cost calibrate`: from measurements on this machine, with tiny sizes, to a file. No time is looked at."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Result, assert_refused, process

from gpt2cost.cli import calibrate as command
from gpt2cost.device.catalog import load_hardware, validate_file
from gpt2cost.measure.plan import KernelSizes, Plan
from gpt2cost.measure.records import read_records

pytest.importorskip("torch")
pytest.importorskip("scipy")

Call = Callable[..., Result]

CALIBRATE = ("calibrate", "-o", "mine.yaml", "--threads", "1")  # other tests may run beside this one

TINY = KernelSizes(
    rows=(1, 16), lm_head_rows=(1, 16), widths=(64,), tokens=(1, 16), batches=(1,), memory_rows=(1, 64),
    copy_exponents=(12, 14), vocab_size=512, n_head=2, head_dim=32, fresh_mb=(0.5,),
    step_layers=(1, 2), step_width=64,
)  # fmt: skip
"""Every kind of kernel, each small enough to take microseconds."""


@pytest.fixture(autouse=True)
def in_a_folder_with_tiny_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan(TINY, sweeps=2, limit_s=math.inf, pool_elements=1_000_000)
    monkeypatch.setattr(command, "plan_for", lambda on_cpu, quick: plan)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a calibration left behind: name of a file -> its text. Tests start from copies."""
    return {}


def calibrated(gpt2cost: Call, finished: dict[str, str]) -> None:
    """`mine.jsonl` and `mine.yaml` in the current folder, as one calibration for all tests left them."""
    if not finished:
        result = gpt2cost(*CALIBRATE, "--format", "json")
        assert result.code == 0, result.err
        finished |= {"mine.jsonl": Path("mine.jsonl").read_text(), "mine.yaml": Path("mine.yaml").read_text()}
        finished["stdout"] = result.out
    for name in ("mine.jsonl", "mine.yaml"):
        Path(name).write_text(finished[name])


def test_calibrate_writes_a_file_that_predict_reads(gpt2cost: Call, finished: dict[str, str]) -> None:
    calibrated(gpt2cost, finished)
    kinds = {row["kind"] for row in json.loads(finished["stdout"])["residuals"]}
    assert {"addmm fp32", "mm fp32", "scores fp32", "context fp32", "attention fp32", "softmax", "layer_norm"} <= kinds
    device = load_hardware("mine.yaml")
    assert device.vendor == "cpu"
    assert device.calibration is not None
    assert "torch" in device.calibration.software
    assert gpt2cost("predict", "--model", "gpt2", "--gpu", "mine.yaml", "--dtype", "fp32").code == 0
    records = read_records(Path("mine.jsonl"))
    assert records[-1]["kind"] == "end"
    kinds = {record["kind"] for record in records}
    assert kinds >= {"machine", "fresh", "gemm", "bmm", "sdpa", "cat", "host", "layers", "reference"}
    again = gpt2cost("calibrate", "--from", "mine.jsonl", "-o", "again.yaml")
    assert "addmm" in again.out
    assert load_hardware("again.yaml").model == device.model


def test_an_interrupted_calibration_leaves_no_file_and_goes_on(gpt2cost: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(progress: str = "") -> None:
        if progress.startswith("6/"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "tell", interrupt)
        stopped = gpt2cost(*CALIBRATE)
    assert stopped.code == 130
    assert "the same command goes on from mine.jsonl" in stopped.err
    assert [path.name for path in Path().iterdir()] == ["mine.jsonl"]
    before = len(read_records(Path("mine.jsonl")))
    with Path("mine.jsonl").open("a") as file:
        file.write('{"kind": "gemm", "op": "add')  # as if killed in the middle of a line
    result = gpt2cost(*CALIBRATE)
    assert f"goes on with {before - 1} measurements" in result.err
    progress = [line.split("/")[0] for line in result.err.splitlines() if "/" in line]
    assert "5" not in progress
    assert "6" in progress
    assert validate_file(Path("mine.yaml"))


def test_stopped_before_its_end_calibrate_only_fits_anew(gpt2cost: Call, finished: dict[str, str]) -> None:
    calibrated(gpt2cost, finished)
    lines = Path("mine.jsonl").read_text().splitlines(keepends=True)
    Path("mine.jsonl").write_text("".join(lines[:-1]))
    Path("mine.yaml").unlink()
    result = gpt2cost(*CALIBRATE)
    assert "goes on with" in result.err
    assert "addmm fp32" not in result.err  # nothing is measured
    assert Path("mine.jsonl").read_text().splitlines(keepends=True) == lines
    assert validate_file(Path("mine.yaml"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("-o x.txt", "ends in .yaml"),
        ("", "-o FILE"),
        ("-o none/x.yaml", "no folder"),
        ("-o x.yaml --device cuda", "torch finds no cuda"),
        ("-o x.yaml --device tpu", "expected one of cpu, cuda, mps"),
        ("-o x.yaml --dtype int8", "dtype"),
        ("-o x.yaml --from nowhere", "nowhere"),
        ("-o x.yaml --threads 0", "threads"),
    ],
)
def test_calibrate_refuses_what_it_cannot_do(gpt2cost: Call, arguments: str, says: str) -> None:
    assert_refused(gpt2cost("calibrate", *arguments.split()), says)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("library", ["torch", "scipy"])
def test_without_a_library_there_is_one_line_of_instruction(library: str, tmp_path: Path) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; from gpt2cost.cli.app import main; main()"
    done = process(["-c", code, "calibrate", "-o", "x.yaml"], cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f'error: calibrate needs {library}: pip install "gpt2cost[measure]"\n'
