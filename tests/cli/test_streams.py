"""What becomes of the data where a stream is closed, full, slow or stopped: it arrives, or the exit code says so."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import Call, assert_refused, process

from gpt2cost.cli import app

PREDICT = "predict --model gpt2 --gpu a100"
BEYOND = f"{PREDICT} --seq 2000"
"""It warns."""
MANY = "sweep --model gpt2 --gpu a100 --batch 1-4000 --format csv"
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}


def shell(command: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`G` is the command line."""
    run = command.replace("G ", f'"{sys.executable}" -m gpt2cost ', 1)
    return subprocess.run(["bash", "-c", run], capture_output=True, text=True, env={**os.environ, **(env or {})})


@pytest.mark.parametrize("arguments", [PREDICT, f"{PREDICT} --format csv", MANY, "models", "--version", "--help"])
def test_a_closed_stdout_is_one_line(arguments: str) -> None:
    done = shell(f"G {arguments} >&-")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: cannot write: stdout is closed\n"


def test_a_file_needs_no_stdout(tmp_path: Path) -> None:
    done = shell(f"G {PREDICT} --format csv -o {tmp_path}/out.csv >&-")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out.csv").read_text() == shell(f"G {PREDICT} --format csv").stdout


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("arguments", [f"{BEYOND} --format csv", f"{BEYOND} --format json", MANY])
def test_warnings_that_nobody_reads_cost_no_data(arguments: str, closed: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    done, whole = shell(f"G {arguments} {closed}"), shell(f"G {arguments}")
    assert (done.returncode, done.stdout) == (0, whole.stdout)
    assert ("warning" in whole.stderr) == ("2000" in arguments)


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
def test_an_error_does_not_go_to_stdout(closed: str) -> None:
    done = shell(f"G {PREDICT} --dtype fp8 {closed}")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_reader_that_is_stopped_gets_everything() -> None:
    """A signal while the pipe is full has a write return early; a raw file does not go on by itself."""
    child = subprocess.Popen(
        [sys.executable, "-m", "gpt2cost", *MANY.split()], stdout=subprocess.PIPE, env={**os.environ, **UNBUFFERED}
    )
    assert child.stdout is not None
    waiting = last = -1
    while waiting <= 0 or waiting != last:  # until nobody takes what is written
        assert child.poll() is None
        last, waiting = waiting, struct.unpack("i", fcntl.ioctl(child.stdout, termios.FIONREAD, b"\0" * 4))[0]
        time.sleep(0.05)
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    child.send_signal(signal.SIGCONT)
    text, _ = child.communicate()
    assert child.returncode == 0
    assert text.count(b"\n") == 4001


@pytest.mark.parametrize("env", [{}, UNBUFFERED])
@pytest.mark.parametrize("arguments", [MANY, "trace --model gpt2 --gpu a100", "table --format json", f"{MANY} -o out"])
def test_a_disk_that_fills_up_is_a_failure(arguments: str, env: dict[str, str], tmp_path: Path) -> None:
    """A file may grow to 16 blocks of 512 or 1024 bytes, so that the first write goes well in part."""
    done = shell(f"cd {tmp_path}; ulimit -f 16; G {arguments} > x", env)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


INTERRUPTED = """
import importlib.abc, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it would be ignored
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from gpt2cost.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "numpy", "yaml", "gpt2cost.prediction.sweep"])
def test_an_interrupted_start_says_nothing(module: str) -> None:
    done = process(["-c", INTERRUPTED.format(module=module), *MANY.split()])
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(("suffix", "format"), [("json", "json"), ("jsonl", "jsonl"), ("csv", "csv"),
                                                ("md", "markdown"), ("txt", "table"), ("out", "table")])  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_the_format_follows_the_name(suffix: str, format: str, packed: bool, tmp_path: Path, gpt2cost: Call) -> None:
    path = tmp_path / f"x.{suffix}{'.gz' * packed}"
    assert gpt2cost("models", "-o", path).code == 0
    text = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    assert text.decode() == gpt2cost("models", "--format", format).out
    assert gpt2cost("models", "-o", tmp_path / f"again.{suffix}{'.gz' * packed}").code == 0
    assert (tmp_path / f"again.{suffix}{'.gz' * packed}").read_bytes() == path.read_bytes(), "no time is in it"


@pytest.mark.parametrize("command", [["models"], ["sweep", "--model", "gpt2", "--gpu", "a100"]])
@pytest.mark.parametrize(
    ("name", "flags"),
    [("x.csv", ["--format", "json"]), ("x.json", ["--format", "table"]), ("x.md.gz", ["--format", "csv"]),
     ("x.xlsx", ["--format", "csv"]), ("x.tsv", []), ("x.zip", [])],
)  # fmt: skip
def test_a_name_that_says_otherwise(
    name: str, flags: list[str], command: list[str], tmp_path: Path, gpt2cost: Call
) -> None:
    assert_refused(gpt2cost(*command, *flags, "-o", tmp_path / name), "-o")
    assert list(tmp_path.iterdir()) == []


def test_a_trace_is_json(tmp_path: Path, gpt2cost: Call) -> None:
    trace = ("trace", "--model", "gpt2", "--gpu", "a100", "--seq", "8")
    assert_refused(gpt2cost(*trace, "-o", tmp_path / "x.csv"), "-o: expected a name that ends in .json")
    assert gpt2cost(*trace, "-o", tmp_path / "x.json.gz").code == 0
    assert json.loads(gzip.decompress((tmp_path / "x.json.gz").read_bytes()))["traceEvents"]


def test_a_hyphen_is_stdout(tmp_path: Path, gpt2cost: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert gpt2cost("models", "--format", "csv", "-o", "-") == gpt2cost("models", "--format", "csv")
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_leads_to_nothing_yet_is_kept(tmp_path: Path, gpt2cost: Call) -> None:
    target, link = tmp_path / "deep" / "target.csv", tmp_path / "link.csv"
    link.symlink_to("deep/target.csv")
    assert_refused(gpt2cost("models", "-o", link), "no folder")
    target.parent.mkdir()
    assert gpt2cost("models", "-o", link).code == 0
    assert link.is_symlink()
    assert target.read_text() == gpt2cost("models", "--format", "csv").out


def test_data_is_utf8_whatever_the_terminal_takes(tmp_path: Path) -> None:
    """`-o` writes it in UTF-8; a name is no less in a pipe."""
    folder = tmp_path / "modèle"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_layer": 1}')
    done = subprocess.run(
        [sys.executable, "-m", "gpt2cost", "sweep", "--model", str(folder), "--gpu", "a100", "--format", "csv"],
        capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert "modèle" in done.stdout.decode("utf-8")


def test_the_streams_of_a_caller_stay(capsys: pytest.CaptureFixture[str]) -> None:
    """Only the process's own entry takes them."""
    before: Any = (sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT))
    assert app.run(["models"]) == 0
    assert before == (sys.stdout, sys.stderr, signal.getsignal(signal.SIGINT))
