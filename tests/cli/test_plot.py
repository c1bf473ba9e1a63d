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


@pytest.mark.parametrize("format", MAGIC)
@pytest.mark.parametrize("kind", FLAGS)
def test_every_kind_in_every_format(kind: str, format: str, tmp_path: Path, gpt2cost: Call) -> None:
    path = tmp_path / f"picture.{format}"
    command = ("plot", kind, "--model", "distilgpt2", *FLAGS[kind], "-o", path)
    assert gpt2cost(*command) == Result(0, "", "")
    first = path.read_bytes()
    assert first.startswith(MAGIC[format])
    assert list(tmp_path.iterdir()) == [path]
    assert gpt2cost(*command) == Result(0, "", "")
    assert path.read_bytes() == first


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
