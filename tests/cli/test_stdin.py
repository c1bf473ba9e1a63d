"""`-` in the place of a file is stdin, whatever stdin is: a file, a pipe, a socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import MY_GPU, ROOT, Call

from gpt2cost.errors import InputError
from gpt2cost.files import read_text

RUN = [sys.executable, "-m", "gpt2cost"]
ONE = ["--model", "gpt2", "--gpu", "a100", "--seq", "8"]
PASS = {
    "kind": "pass", "model": "gpt2", "dtype": "fp32", "attn": "sdpa", "batch": 1, "seq": 16, "cache": 0,
    "wall_us": 9000.0, "wall_min_us": 8000.0, "runs": 9,
}  # fmt: skip
KERNELS = "gpu,dtype,m,n,k,latency_us\na100,bf16,128,128,128,5\n"


@pytest.fixture
def files(tmp_path: Path, gpt2cost: Call) -> dict[str, Path]:
    """Files of every kind that a flag takes."""
    found = {name: tmp_path / name for name in ("config.json", "mine.yaml", "study.yaml", "r.jsonl", "k.csv", "t.json")}
    found["config.json"].write_text((ROOT / "configs" / "distilgpt2.json").read_text())
    found["mine.yaml"].write_text(MY_GPU)
    found["study.yaml"].write_text("model: gpt2\ngpu: a100\nbatch: 1,2\n")
    found["r.jsonl"].write_text(json.dumps(PASS) + "\n")
    found["k.csv"].write_text(KERNELS)
    assert gpt2cost("trace", *ONE, "--phase", "prefill", "-o", found["t.json"]).code == 0
    return found


COMMANDS: dict[str, list[str]] = {
    "config.json": ["sweep", "--model", "-,gpt2", "--gpu", "a100"],
    "mine.yaml": ["compare", "--model", "gpt2", "--gpu", "a100,-"],
    "study.yaml": ["sweep", "--grid", "-"],
    "r.jsonl": ["validate", "--gpu", "a100", "--from", "-"],
    "k.csv": ["accuracy", "--measurements", "-"],
    "t.json": ["validate", "--model", "gpt2", "--gpu", "a100", "--trace", "-"],
}
"""A file -> a command that reads it from stdin."""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_hyphen_is_read_from_stdin(name: str, files: dict[str, Path], gpt2cost: Call) -> None:
    """As the file itself is: from a pipe, and from a file."""
    path, command = files[name], [*COMMANDS[name], "--format", "csv"]
    named = gpt2cost(*(part.replace("-", str(path)) if part in ("-", "-,gpt2", "a100,-") else part for part in command))
    assert named.code == 0
    right = named.out.replace(f"{path.parent.name},", "config,").replace("k.csv", "stdin")
    piped = subprocess.run([*RUN, *command], input=path.read_text(), capture_output=True, text=True)
    with path.open() as file:
        redirected = subprocess.run([*RUN, *command], stdin=file, capture_output=True, text=True)
    assert (piped.returncode, piped.stdout) == (redirected.returncode, redirected.stdout) == (0, right)


def test_a_socket_is_stdin_too() -> None:
    """As programs have it that other programs start."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(MY_GPU.encode())
        ours.shutdown(socket.SHUT_WR)
        done = subprocess.run([*RUN, "hardware", "show", "-"], stdin=theirs, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "my-gpu" in done.stdout


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["predict", "--model", "-", "--gpu", "-"], "--model and --gpu: stdin is read once"),
        (["sweep", "--model", "-,-", "--gpu", "a100"], "--model: stdin is read once"),
        (["sweep", "--grid", "-", "--gpu", "-"], "stdin is read once"),
    ],
)
def test_stdin_is_read_once(command: list[str], why: str) -> None:
    done = subprocess.run([*RUN, *command], input=MY_GPU, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert why in done.stderr


def test_a_terminal_or_nothing_is_no_file() -> None:
    command = [*RUN, "predict", "--gpu", "a100", "--model", "-"]
    main, terminal = os.openpty()
    try:
        typed = subprocess.run(command, stdin=terminal, capture_output=True, text=True)
    finally:
        os.close(main)
        os.close(terminal)
    closed = subprocess.run(["bash", "-c", '"$@" <&-', "-", *command], capture_output=True, text=True)
    wanted = "error: --model -: expected a file or a pipe on stdin, such as < FILE\n"
    assert [(done.returncode, done.stderr) for done in (typed, closed)] == [(2, wanted)] * 2


def test_what_came_through_a_pipe_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as nothing more is written into it. One that nobody writes into is not waited for for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr("gpt2cost.files.PIPE_WAIT_S", 0.05)
    with pytest.raises(InputError, match=r"pipe: cannot read: nobody wrote into this pipe in 0\.05 s"):
        read_text(pipe, pipes=True)
    holder = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # keeps what is written until it is read
    for second, text in enumerate(("one", "two")):
        pipe.write_text(text)
        os.utime(pipe, (second, second))  # the clock of a file system may stand still between both
        assert [read_text(pipe, pipes=True) for _ in range(2)] == [text, text]
    os.close(holder)


@pytest.mark.parametrize("more", [[], ["--phase", "train"]], ids=str)
def test_a_model_is_measured_from_a_pipe(more: list[str], tiny_config: str) -> None:
    pytest.importorskip("torch")
    sizes = ["--seq", "4", "--rounds", "1", "--threads", "1", *([] if more else ["--batch", "1", "--cache", "0"])]
    text = Path(tiny_config, "config.json").read_text()
    done: Any = subprocess.run(
        [*RUN, "measure", "--model", "-", *sizes, *more, "--format", "csv"], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 2
