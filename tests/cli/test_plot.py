"""`gpt2cost plot`: files in every format, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers import Call, Result, assert_refused

pytest.importorskip("matplotlib")

FLAGS: dict[str, list[str]] = {
    "roofline": ["--gpu", "a100", "--batch", "2"],
    "breakdown": ["--gpu", "a100", "--batch", "1-64*2"],
    "curve": ["--gpu", "a100,t4", "--batch", "1-64*2"],
    "timeline": ["--gpu", "a100", "--seq", "16"],
}
MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("kind", FLAGS)
def test_every_kind(kind: str, tmp_path: Path, gpt2cost: Call) -> None:
    path = tmp_path / "picture.svg"
    assert gpt2cost("plot", kind, "--model", "distilgpt2", *FLAGS[kind], "-o", path) == Result(0, "", "")
    assert path.read_bytes().startswith(MAGIC["svg"])
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("format", MAGIC)
def test_every_format_twice_alike(format: str, tmp_path: Path, gpt2cost: Call) -> None:
    """Catches a date, or a random name, in a file: a format writes its own, whatever the picture shows."""
    command = ("plot", "curve", "--model", "distilgpt2", *FLAGS["curve"], "-o")
    first, second = tmp_path / f"first.{format}", tmp_path / f"second.{format}"
    for path in (first, second):
        assert gpt2cost(*command, path) == Result(0, "", "")
    assert first.read_bytes().startswith(MAGIC[format])
    assert first.read_bytes() == second.read_bytes()


CURVE = ("plot", "curve", "--model", "distilgpt2", "--gpu", "a100")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--batch", "1,2"], "-o is required"),
        (["--batch", "1,2", "-o", "x.gif"], ".png, .svg, .pdf"),
        (["--batch", "1,2", "-o", "none/x.png"], "no folder"),
        (["-o", "x.png"], "exactly one"),
        (["--batch", "1,2", "--quantity", "speed", "-o", "x.png"], "quantity"),
        (["--batch", "1,2", "--phase", "both", "-o", "x.png"], "phase"),
        (["--gpu", "a100,a1000", "--batch", "1,2", "-o", "x.png"], "unknown hardware"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str], named: str, tmp_path: Path, gpt2cost: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(gpt2cost(*CURVE, *flags), named)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_there_is_a_hint(gpt2cost: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "gpt2cost.output.plot", raising=False)
    result = gpt2cost("plot", "roofline", "--model", "distilgpt2", "--gpu", "a100", "-o", tmp_path / "x.png")
    assert_refused(result, 'plot needs matplotlib: pip install "gpt2cost[plot]"')
