"""One word per exit: 0 fine, 1 our failure, 2 wrong usage or input, 3 `--fail-on` said no, of every command."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import EVERY_COMMAND, MY_GPU, ROOT, Call, assert_refused

from gpt2cost.cli import app

ONE, SIZES = EVERY_COMMAND["predict"][:4], EVERY_COMMAND["predict"][4:]
NEEDS = {"calibrate": "scipy", "measure": "torch", "plot": "matplotlib", "report": "jinja2"}
PASS = {
    "kind": "pass", "model": "gpt2", "dtype": "fp32", "attn": "sdpa", "batch": 1, "seq": 16, "cache": 0,
    "wall_us": 9000.0, "wall_min_us": 8000.0, "runs": 9,
}  # fmt: skip
RECORDED = Path(__file__).parents[1] / "data" / "campaign-cpu"


@pytest.fixture
def arguments(tmp_path: Path, tiny_config: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a command is called with, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    passes = tmp_path.parent / f"{tmp_path.name}-passes.jsonl"
    passes.write_text(json.dumps(PASS))

    def of(command: str) -> list[str]:
        if command in NEEDS:
            pytest.importorskip(NEEDS[command])
        names = {"recorded": RECORDED, "passes": passes, "tiny": tiny_config}
        return [command, *(text.format(**names) for text in EVERY_COMMAND[command])]

    return of


def test_every_command_is_here() -> None:
    assert list(EVERY_COMMAND) == list(app.COMMANDS)


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_fine_is_0(command: str, arguments: Any, gpt2cost: Call, few_samples_if_torch: None) -> None:
    assert gpt2cost(*arguments(command)).code == 0


@pytest.fixture
def few_samples_if_torch(request: pytest.FixtureRequest) -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        return
    request.getfixturevalue("few_samples")


@pytest.mark.parametrize("command", EVERY_COMMAND)
@pytest.mark.parametrize("wrong", [["--nonsense"], ["--format", "nope"], ["-o", "no-folder/x.yaml"]])
def test_wrong_usage_is_2(command: str, wrong: list[str], arguments: Any, gpt2cost: Call) -> None:
    given = [part for part in arguments(command) if part not in ("-o", "out.yaml", "out.svg", "out.html")]
    assert_refused(gpt2cost(*given, *wrong))


class Full:
    """A stdout on a full disk."""

    def writelines(self, lines: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write = writelines

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise OSError


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_our_failure_is_1(
    command: str, arguments: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    few_samples_if_torch: None, tmp_path: Path,
) -> None:  # fmt: skip
    def full(self: Path, target: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    given = arguments(command)
    monkeypatch.setattr(sys, "stdout", Full())
    code = app.run(given)
    monkeypatch.undo()
    error = capsys.readouterr().err.splitlines()[-1]
    assert (code, error.startswith("error: ")) == (1, True)
    assert "No space left on device" in error
    assert list(tmp_path.iterdir()) == []


LARGE = ["--batch", "100000", "--seq", "1024"]
NO: dict[str, tuple[list[str], str]] = {
    "predict": (["predict", *ONE, "--batch", "100000"], "oom"),
    "predict beyond": (["predict", *ONE, "--seq", "1024"], "positions"),
    "predict one of two": (["predict", "--model", "gpt2-xl", "--gpu", "a100,t4", "--batch", "600"], "oom"),
    "sweep": (["sweep", *ONE, "--batch", "1,100000"], "oom"),
    "sweep beyond": (["sweep", *ONE, "--seq", "8,1025"], "positions"),
    "sweep of nothing": (["sweep", *ONE, "--seq", "1025", "--only-valid"], "positions"),
    "compare": (["compare", "--model", "gpt2", "--gpu", "a100,t4", "--batch", "100000"], "oom"),
    "compare beyond": (["compare", "--model", "gpt2", "--gpu", "a100,t4", "--seq", "1025"], "positions"),
    "compare of phases": (["compare", *ONE, "--phases", "--seq", "1024"], "positions"),
    "compare of training": (["compare", "--model", "gpt2-xl", "--gpu", "a10,l4", "--phase", "train"], "oom"),
    "fit": (["fit", "--model", "gpt2-xl", "--gpu", "t4", "--set", "n_layer=4000"], "oom"),
    "fit beyond": (["fit", *ONE, "--seq", "2000", "--phase", "prefill"], "positions"),
    "fit of a service beyond": (["fit", *ONE, "--prompt", "1000", "--new-tokens", "100"], "positions"),
    "generate": (["generate", *ONE, "--batch", "100000", "--new-tokens", "2"], "oom"),
    "generate beyond": (["generate", *ONE, "--prompt", "1000", "--new-tokens", "100"], "positions"),
    "train": (["train", "--model", "gpt2-xl", "--gpu", "l4"], "oom"),
    "train beyond": (["train", *ONE, "--seq", "1025"], "positions"),
    "accuracy": (["accuracy"], "range"),
}


@pytest.mark.parametrize("case", NO)
def test_no_is_3_after_the_output(case: str, gpt2cost: Call) -> None:
    """And 0 where nobody asked."""
    arguments, reason = NO[case]
    asked, usual = gpt2cost(*arguments, "--fail-on", reason), gpt2cost(*arguments)
    assert (usual.code, asked.code) == (0, 3)
    assert asked[1:] == usual[1:]


def flags_of(command: str) -> list[str]:
    return [flag for param in getattr(app._built(command), "params", ()) for flag in param.opts]


def test_every_command_that_can_say_no_is_here() -> None:
    """With each of its reasons; and the page of exit codes names it beside the reason."""
    page = (ROOT / "docs" / "capacity.md").read_text("utf-8").partition("## Exit codes")[2].partition("`limited by`")[0]
    for command in app.COMMANDS:
        tried = {reason for arguments, reason in NO.values() if arguments[0] == command}
        if "--fail-on" not in flags_of(command):
            assert tried == set()
        elif command not in ("validate", "accuracy"):
            assert tried == {"oom", "positions"}, command
            assert f"`{command}`" in page.partition("--fail-on positions")[0]
        else:
            assert f"`{command}`" in page.partition("learned positions")[2]
    for code in "0123":
        assert f"| {code} | " in page
        assert f"{code} " in app.EXITS


@pytest.mark.parametrize("format", ["table", "parquet"])
def test_a_reader_that_has_seen_enough_is_no_failure(format: str) -> None:
    if format == "parquet":
        pytest.importorskip("pyarrow")
    command = f'"{sys.executable}" -m gpt2cost sweep {" ".join(ONE)} --batch 1-20000 --format {format}'
    script = f"{command} | head -c 1 > /dev/null; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())


def test_several_reasons(gpt2cost: Call) -> None:
    beyond = ["predict", *ONE, "--seq", "1024"]
    assert gpt2cost(*beyond, "--fail-on", "oom").code == 0
    assert gpt2cost(*beyond, "--fail-on", "oom,positions").code == 3
    assert_refused(gpt2cost(*beyond, "--fail-on", "oom,range"), "fail_on: expected one of oom, positions, got 'range'")
    assert_refused(gpt2cost("accuracy", "--trust", "--fail-on", "range"), "--fail-on does not go with --trust")
    assert gpt2cost("sweep", *ONE, "--seq", "8,1025", "--only-valid", "--fail-on", "positions").code == 0


@pytest.mark.parametrize(("wall_us", "code"), [(9000.0, 0), (900_000.0, 3)])
def test_a_measurement_out_of_its_range(wall_us: float, code: int, tmp_path: Path, gpt2cost: Call) -> None:
    path = tmp_path / "passes.jsonl"
    path.write_text(json.dumps({**PASS, "wall_us": wall_us}))
    validate = ("validate", "--gpu", "a100", "--from", path)
    assert gpt2cost(*validate).code == 0
    assert gpt2cost(*validate, "--fail-on", "range").code == code


def test_a_file_of_a_device_that_is_wrong_is_2(tmp_path: Path, gpt2cost: Call) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(MY_GPU.replace("capacity: 80 GB", "capacity: 80"))
    assert_refused(gpt2cost("predict", "--model", "gpt2", "--gpu", path), str(path))
