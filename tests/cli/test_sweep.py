"""`gpt2cost sweep`: studies, formats, order, filters, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import assert_refused, process

import gpt2cost as package
from gpt2cost.cli import app as cli
from gpt2cost.cli.choices import device_names, several
from gpt2cost.errors import InputError
from gpt2cost.prediction.grid import read_study
from gpt2cost.prediction.sweep import COLUMNS

BASE = ["sweep", "--model", "gpt2", "--gpu", "a100"]
GRID = [*BASE, "--batch", "1,2", "--seq", "8-24+8", "--cache", "0,16"]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


STUDY = """
model: [gpt2, gpt2-xl]
gpu: a100
batch_size: 1-4*2
seq: [16, 32-48+16]
phase: both
set: {n_layer: 3}
hw_set: {memory.bandwidth: 1 TB/s}
"""


def test_a_saved_study(gpt2cost: Any, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    done = gpt2cost("sweep", "--grid", str(path), "--format", "csv", "--batch", "1,2")
    assert done.code == 0, done.err
    found = rows_of(done.out)
    assert len(found) == 2 * 2 * 3 * 2
    assert {row["model"] for row in found} == {"gpt2[n_layer=3]", "gpt2-xl[n_layer=3]"}
    assert {row["gpu"] for row in found} == {"a100-sxm-80gb[memory.bandwidth=1 TB/s]"}
    assert read_study(path)["batch"] == "1-4*2"


@pytest.mark.parametrize(
    ("text", "hint"),
    [("modle: gpt2", "did you mean 'model'"), ("[1]", "mapping"), ("batch: 1\nbatch_size: 2", "twice"),
     ("seq:", "nothing"), ("set: 3", "mapping"), ("batch: {a: 1}", "batch"), ("use_cache: maybe", "True or False"),
     ("phase: [prefill]", "phase"), ("set: {1: 2}", "set: expected text as a key, got 1"),
     ("hw_set: {1: 2}", "$.hw_set: expected text as a key, got 1")],
)  # fmt: skip
def test_a_bad_study(gpt2cost: Any, tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert_refused(gpt2cost("sweep", "--model", "gpt2", "--gpu", "a100", "--grid", str(path)), hint)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--batch", "1-1000", "--seq", "1-1000", "--cache", "1-1000"], "1,000,000,000 points"),
        (["--batch", "9-1"], "backwards"),
        (["--gpu", "t4", "--dtype", "bf16"], "no bf16"),
        (["--set", "n_lyer=3"], "did you mean 'n_layer'"),
        (["--set", "n_layer"], "key=value"),
        (["--set", "n_layer=3,n_layer=4"], "twice"),
        (["--set", "n_embd=770"], "multiple of n_head"),
        (["--hw-set", "memory.bandwith=2 TB/s"], "did you mean 'bandwidth'"),
        (["--hw-set", "memory.bandwidth=2 TFLOP/s"], "byte rate"),
        (["--hw-set", "name=x"], "unknown key"),
        (["--sort", "latency"], "did you mean 'latency_s'"),
        (["--top", "0"], "top"),
        (["--attn", "spda"], "did you mean 'sdpa'"),
        (["--model", "gpt2,gtp2"], "did you mean"),
        (["--gpu", "a100,"], "commas"),
        (["--phase", "all"], "phase"),
        (["--no-use-cache", "--cache", "0,1"], "cache"),
        (["--grid", "none.yaml"], "none.yaml"),
        (["--format", "xml"], "xml"),
    ],
)
def test_refused(gpt2cost: Any, arguments: list[str], hint: str) -> None:
    assert_refused(gpt2cost(*BASE, *arguments), hint)


@pytest.mark.parametrize("flag", ["--model", "--gpu"])
def test_model_and_gpu_are_required(gpt2cost: Any, flag: str) -> None:
    other = ["--gpu", "a100"] if flag == "--model" else ["--model", "gpt2"]
    assert_refused(gpt2cost("sweep", *other), f"{flag} is required")


def test_what_cannot_run_is_skipped_with_one_warning(gpt2cost: Any) -> None:
    done = gpt2cost("sweep", "--model", "gpt2", "--gpu", "a100,t4", "--dtype", "bf16,fp16", "--format", "csv",
                    "--attn", "sdpa,flash_attention_2")  # fmt: skip
    assert done.code == 0
    assert len(rows_of(done.out)) == 5
    assert done.err.count("\n") == 1
    assert "skipped 3 of 8" in done.err
    assert "t4 has no bf16" in done.err


def test_formats_agree(gpt2cost: Any) -> None:
    text = {
        name: gpt2cost(*GRID, "--phase", "both", "--format", name).out for name in ("csv", "jsonl", "json", "markdown")
    }
    from_csv = rows_of(text["csv"])
    from_lines = [json.loads(line) for line in text["jsonl"].splitlines()]
    assert len(from_csv) == 24
    assert list(from_csv[0]) == list(COLUMNS)
    assert json.loads(text["json"])["rows"] == from_lines == list(
        package.sweep("gpt2", "a100", batch="1,2", seq="8-24+8", cache="0,16", phase="both")
    )  # fmt: skip
    for row, values in zip(from_csv, from_lines, strict=True):
        assert row == {name: v if isinstance(v, str) else json.dumps(v) for name, v in values.items()}
    assert text["markdown"].count("\n") == 26
    assert text["markdown"].startswith("| model | batch_size |")


def test_names_are_quoted(gpt2cost: Any, tmp_path: Path) -> None:
    config = tmp_path / 'odd "na,me".json'
    config.write_text(json.dumps({"model_type": "gpt2", "n_layer": 2, "n_embd": 48, "n_head": 4}))
    study = tmp_path / "study.yaml"
    study.write_text(json.dumps({"model": [str(config)], "gpu": "a100"}))
    arguments = ["sweep", "--grid", str(study), "--set", "n_layer=3,n_head=2", "--format"]
    name = 'odd "na,me"[n_layer=3;n_head=2]'
    assert rows_of(gpt2cost(*arguments, "csv").out)[0]["model"] == name
    assert json.loads(gpt2cost(*arguments, "jsonl").out)["model"] == name


def test_a_table_shows_what_varies(gpt2cost: Any) -> None:
    done = gpt2cost(*GRID)
    head, _, columns = done.out.splitlines()[:3]
    assert "gpt2" in head
    assert "a100-sxm-80gb" in head
    assert columns.split()[:3] == ["batch", "seq", "cache"]
    assert "latency" in columns
    assert len(done.out.splitlines()) == 4 + 12
    assert all(line == line.rstrip() for line in done.out.splitlines())


def test_sort_and_top(gpt2cost: Any) -> None:
    """Catches a wrong order, and equal rows that change their places, which `sorted` keeps in both directions."""
    rows = rows_of(gpt2cost(*GRID, "--format", "csv").out)
    for column in ("latency_s", "bound", "flops"):
        key = (lambda row, c=column: row[c]) if column == "bound" else (lambda row, c=column: float(row[c]))
        for sign in ("", "-"):
            found = rows_of(gpt2cost(*GRID, "--format", "csv", "--sort", sign + column).out)
            assert found == sorted(rows, key=key, reverse=sign == "-")
    assert rows_of(gpt2cost(*GRID, "--format", "csv", "--top", "5").out) == rows[:5]
    by_rate = sorted(rows, key=lambda row: -float(row["tokens_per_s"]))
    assert rows_of(gpt2cost(*GRID, "--format", "csv", "--sort", "-tokens_per_s", "--top", "2").out) == by_rate[:2]


def test_filters(gpt2cost: Any) -> None:
    wide = [
        "sweep",
        "--model",
        "gpt2-xl",
        "--gpu",
        "t4",
        "--batch",
        "1-256*4",
        "--seq",
        "512,1024,2048",
        "--format",
        "csv",
    ]
    every = rows_of(gpt2cost(*wide).out)
    for flags, columns in ((["--only-fitting"], ["fits"]), (["--only-valid"], ["valid"]),
                           (["--only-fitting", "--only-valid"], ["fits", "valid"])):  # fmt: skip
        found = rows_of(gpt2cost(*wide, *flags).out)
        assert found == [row for row in every if all(row[name] == "true" for name in columns)]
        assert 0 < len(found) < len(every)
    empty = gpt2cost(*BASE, "--seq", "2000", "--only-valid", "--format", "csv")
    assert (empty.code, empty.out.count("\n")) == (0, 1)
    assert gpt2cost(*BASE, "--seq", "2000", "--only-valid").out == "no rows\n"
    assert json.loads(gpt2cost(*BASE, "--seq", "2000", "--only-valid", "--format", "json").out)["rows"] == []


def test_kernels_sum_to_the_pass(gpt2cost: Any) -> None:
    passes = rows_of(gpt2cost(*GRID, "--format", "csv").out)
    kernels = rows_of(gpt2cost(*GRID, "--kernels", "--format", "csv").out)
    for row in passes:
        own = [k for k in kernels if all(k[name] == row[name] for name in ("batch_size", "seq_len", "cache_len"))]
        assert sum(int(k["flops"]) for k in own) == int(row["flops"])
        assert sum(int(k["count"]) for k in own) == int(row["launches"])
        assert sum(float(k["share"]) for k in own) == pytest.approx(1)
    assert gpt2cost(*GRID, "--kernels").code == 0


MANY = [*BASE, "--batch", "1-100", "--seq", "1-100", "--cache", "0-99", "--format", "csv"]


def test_head_closes_the_pipe() -> None:
    command = f'"{sys.executable}" -m gpt2cost {" ".join(MANY)} | head -2; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == ",".join(COLUMNS)
    assert done.stdout.splitlines()[2] == "0"
    assert done.stderr == ""


def test_a_full_disk() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "gpt2cost", *MANY], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: cannot write: No space left on device\n"
    done = process(["-m", "gpt2cost", *MANY, "-o", "/dev/full"])
    assert done.returncode == 1
    assert done.stderr == "error: /dev/full: cannot write: No space left on device\n"


# A process that is started in the background ignores SIGINT, one of nohup SIGHUP, and so would its child.
HEARD = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
from gpt2cost.__main__ import main
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupt_leaves_nothing(number: signal.Signals, code: int, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{HEARD}main()", *BASE, "--batch", "1-4000", "--seq", "1-100", "--cache", "0-99",
         "--yes", "--format", "csv", "-o", str(target)],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not list(tmp_path.iterdir()):  # until the temporary file is there
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(number)
    _, err = child.communicate()
    assert child.returncode == code
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


DURING_A_FORK = """
import gpt2cost.prediction.parallel as parallel
parallel.processes = lambda: 3
forks = []
os.register_at_fork(before=lambda: forks.append(0))
os.register_at_fork({where}=lambda: len(forks) == 2 and os.killpg(0, {number}))
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forks")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("where", ["before", "after_in_parent", "after_in_child"])
def test_an_interrupt_during_a_fork_leaves_nothing(
    where: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """Catches one that is lost in a hook of the fork, and a process that goes on."""
    child = subprocess.Popen(
        [sys.executable, "-c", HEARD + DURING_A_FORK.format(where=where, number=int(number)), *MANY,
         "-o", tmp_path / "x.csv"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    _, err = child.communicate()
    assert (child.returncode, err) == (code, "")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)


def test_a_read_only_folder(gpt2cost: Any, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    assert_refused(gpt2cost(*BASE, "--format", "csv", "-o", str(folder / "x.csv")), "permission denied")


def test_a_failure_on_the_way_keeps_the_old_file(
    gpt2cost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.csv"
    target.write_text("old")

    def broken(*_: Any) -> Any:
        raise InputError("broken")

    monkeypatch.setattr("gpt2cost.output.sweep._written", broken)
    done = gpt2cost(*BASE, "--format", "csv", "-o", str(target))
    assert done.code == 2
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_is_what_stdout_gets(gpt2cost: Any, tmp_path: Path) -> None:
    for name in ("csv", "jsonl", "json", "markdown", "table"):
        target = tmp_path / name
        assert gpt2cost(*GRID, "--format", name, "-o", str(target)).out == ""
        assert target.read_text() == gpt2cost(*GRID, "--format", name).out


def test_completion_of_lists() -> None:
    assert "t4,a100" in several(device_names)("t4,a1")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("terminal", "long"), [(True, True), (True, False), (False, True)])
def test_a_progress_bar_on_a_terminal_alone(
    terminal: bool, long: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("gpt2cost.cli.sweep.LONG", 1 if long else 10**6)
    monkeypatch.setattr(sys, "stderr", stderr)
    assert cli.run([*GRID, "--format", "csv", "-o", str(tmp_path / "out.csv")]) == 0
    assert ("points" in stderr.getvalue()) == (terminal and long)
