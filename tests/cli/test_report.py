"""`gpt2cost report`: a file, and what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers import Call, Result, assert_refused

REPORT = ("report", "--model", "distilgpt2", "--gpu", "a100")


@pytest.mark.parametrize(
    "flags",
    [
        (), ("--train", "--gpus", "2", "--batch", "2", "--seq", "64"), ("--seq", "1", "--cache", "64"),
        ("--no-use-cache", "--new-tokens", "0"), ("--impl", "nanogpt", "--new-tokens", "4"),
        ("--cache-type", "static", "--runtime", "reduce-overhead"), ("--gpu", "t4,m2,rtx4090", "--dtype", "fp32"),
    ],
    ids=lambda flags: " ".join(flags) or "defaults",
)  # fmt: skip
def test_a_page(flags: tuple[str, ...], tmp_path: Path, gpt2cost: Call) -> None:
    pytest.importorskip("jinja2")
    path = tmp_path / "page.html"
    assert gpt2cost(*REPORT, *flags, "-o", path) == Result(0, "", "")
    assert path.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_can_be_generated(tmp_path: Path, gpt2cost: Call) -> None:
    """A graph cannot be replayed on a cache that grows: the page is made without, unless generate was asked for."""
    pytest.importorskip("jinja2")
    path = tmp_path / "page.html"
    result = gpt2cost(*REPORT, "--runtime", "cuda-graph", "-o", path)
    assert result.code == 0
    assert result.err.startswith("warning: the page is without generate: runtime: cuda-graph")
    assert result.err.count("\n") == 1
    assert_refused(gpt2cost(*REPORT, "--runtime", "cuda-graph", "--new-tokens", "8", "-o", path), "cuda-graph")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ((), "-o is required"),
        (("-o", "page.txt"), ".html"),
        (("-o", "none/page.html"), "no folder"),
        (("--gpu", "a100,a1000", "-o", "page.html"), "unknown hardware"),
        (("--dtype", "fp32", "--attn", "flash_attention_2", "-o", "page.html"), "flash_attention_2 needs"),
        (("--new-tokens", "-1", "-o", "page.html"), "new_tokens"),
        (("--seq", "1024", "--strict", "-o", "page.html"), "n_positions"),
        (("--gpus", "8", "-o", "page.html"), "--gpus: goes with --train alone"),
        (("--new-tokens", "1000", "--strict", "-o", "page.html"), "generate: kv_len 1127 of the last pass exceeds"),
    ],
)
def test_bad_input_is_one_line(
    flags: tuple[str, ...], named: str, tmp_path: Path, gpt2cost: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("jinja2")
    monkeypatch.chdir(tmp_path)
    assert_refused(gpt2cost(*REPORT, *flags), named)
    assert list(tmp_path.iterdir()) == []


def test_without_jinja2(tmp_path: Path, gpt2cost: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "gpt2cost.output.report.context", raising=False)
    result = gpt2cost(*REPORT, "-o", tmp_path / "page.html")
    assert_refused(result, 'report needs jinja2: pip install "gpt2cost[page]"')
