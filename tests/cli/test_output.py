"""Where output goes: files that appear whole, pipes, full disks and terminals."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, SMALL, Result, assert_refused, process


def test_output_file(gpt2cost: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    path.chmod(0o640)
    result = gpt2cost(*SMALL, "--format", "json", "-o", str(path))
    assert result == Result(0, "", "")
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_text() == gpt2cost(*SMALL, "--format", "json").out
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"], "no temporary file is left"
    assert gpt2cost(*SMALL, "-o", str(tmp_path / "new.txt")).code == 0
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failed_write_leaves_the_old_file(gpt2cost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")

    def full(self: Path, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert_refused(gpt2cost(*SMALL, "-o", str(path)), "No space left")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


def test_a_refusal_leaves_the_output_alone(gpt2cost: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    assert_refused(gpt2cost(*SMALL, "--dtype", "fp8", "-o", str(path)))
    assert path.read_text() == "old"


def test_device_files(gpt2cost: Any) -> None:
    assert gpt2cost(*SMALL, "-o", os.devnull) == Result(0, "", "")
    done = process(["-m", "gpt2cost", "models", "--format", "csv", "-o", "/dev/stdout"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == gpt2cost("models", "--format", "csv").out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(gpt2cost: Any) -> None:
    assert_refused(gpt2cost(*SMALL, "-o", "/dev/full"), "No space left")
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "gpt2cost", "models"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_is_quiet() -> None:
    for arguments in ("table --format json", "predict --model gpt2 --gpu a100", "--help"):
        command = f"{sys.executable} -m gpt2cost {arguments} | head -1"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1


def in_a_terminal(arguments: Sequence[str], **env: str) -> str:
    """What a process prints to a terminal, a pseudo one of 80 columns."""
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **env}
    with subprocess.Popen([sys.executable, "-m", "gpt2cost", *arguments], stdout=child, stderr=child, env=environment):
        os.close(child)
        output = b""
        while True:
            try:
                chunk = os.read(parent, 65536)
            except OSError:  # Linux, when the child is gone
                break
            if not chunk:
                break
            output += chunk
    os.close(parent)
    return output.decode().replace("\r\n", "\n")


def test_terminals(tmp_path: Path) -> None:
    styled = in_a_terminal(SMALL)
    assert "\x1b[1m" in styled, "a title stands out"
    assert "\x1b[35mlaunch" in styled, "the bound has its colour"
    assert "█" in styled
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        text = in_a_terminal(SMALL, **env)
        assert "distilgpt2" in text
        assert "\x1b" not in text
        assert max(map(len, re.findall(r"^(?:wte|h\.|lm_head).*", text, re.MULTILINE))) <= 80
    assert "\x1b" not in in_a_terminal([*SMALL, "--format", "json"])
    in_a_terminal([*SMALL, "-o", str(tmp_path / "out.txt")])
    assert "\x1b" not in (tmp_path / "out.txt").read_text()


def test_a_newcomers_first_screen() -> None:
    """The README's first output, on a terminal of 100 columns."""
    command = re.findall(r"<!-- output of: gpt2cost (.*) -->", (ROOT / "README.md").read_text("utf-8"))[0]
    lines = in_a_terminal(command.split(), COLUMNS="100", NO_COLOR="1").splitlines()
    assert 10 < len(lines) <= 45
    assert all(len(line) <= 100 for line in lines)
    assert not any("warning" in line for line in lines)


def test_a_link_stays_a_link(gpt2cost: Any, tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    assert gpt2cost("models", "--format", "json", "-o", str(link)).code == 0
    assert link.is_symlink()
    assert "gpt2-xl" in target.read_text()
