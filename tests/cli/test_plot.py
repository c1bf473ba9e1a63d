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
    "memory": ["--gpu", "a100", "--batch", "2"],
    "memory --over tokens": ["--gpu", "t4", "--prompt", "16", "--new-tokens", "8"],
    "memory --phase train": ["--gpu", "a100", "--micro-batch", "2", "--seq", "64", "--checkpointing", "block"],
    "generate": ["--gpu", "t4", "--prompt", "16", "--new-tokens", "8"],
    "train": ["--gpu", "a100", "--seq", "64", "--gpus", "1-16*2", "--precision", "fp32"],
}
MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.mark.parametrize("kind", FLAGS)
def test_every_kind(kind: str, tmp_path: Path, gpt2cost: Call) -> None:
    path = tmp_path / "picture.svg"
    assert gpt2cost("plot", *kind.split(), "--model", "distilgpt2", *FLAGS[kind], "-o", path) == Result(0, "", "")
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


def test_a_decode_step_is_inferred_as_predict_infers_it(tmp_path: Path, gpt2cost: Call) -> None:
    """--seq 1 on a cache is a decode step, in every picture and without --phase."""
    sizes = ("--model", "distilgpt2", "--gpu", "t4", "--batch", "8", "--seq", "1")
    for kind, cache in (("breakdown", "64-960+128"), ("curve", "64-960+128"), ("timeline", "64"), ("memory", "64")):
        path = tmp_path / f"{kind}.svg"
        assert gpt2cost("plot", kind, *sizes, "--cache", cache, "-o", path) == Result(0, "", "")
        assert "decode" in path.read_text("utf-8")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["memory", "--micro-batch", "2"], "--micro-batch: goes with --phase train alone"),
        (["memory", "--prompt", "2"], "--prompt: goes with --over tokens alone"),
        (["memory", "--over", "tokens", "--seq", "2"], "--seq: not with --over tokens"),
        (["memory", "--over", "tokens", "--logits", "all"], "--logits: not with --over tokens"),
        (["memory", "--over", "tokens", "--logits", "last"], "--logits: not with --over tokens"),
        (["memory", "--phase", "train", "--logits", "all"], "--logits: not of training"),
        (["memory", "--over", "tokens", "--phase", "train"], "--over tokens: a training step generates none"),
        (["memory", "--over", "tokens", "--phase", "decode"], "--phase: not with --over tokens"),
        (["memory", "--phase", "train", "--batch", "2"], "--batch: not of training"),
        (["memory", "--phase", "train", "--dtype", "fp32"], "--dtype: not of training"),
        (["memory", "--phase", "both"], "phase"),
        (["memory", "--over", "time"], "over"),
        (["generate", "--new-tokens", "0"], "new_tokens"),
        (["train"], "exactly one of micro_batch, gpus, seq, grad_accum"),
        (["train", "--gpus", "1,2", "--clip-grad-norm", "x"], "clip_grad_norm"),
    ],
)
def test_flags_of_other_pictures(
    flags: list[str], named: str, tmp_path: Path, gpt2cost: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(gpt2cost("plot", *flags, "--model", "distilgpt2", "--gpu", "a100", "-o", "x.png"), named)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_there_is_a_hint(gpt2cost: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "gpt2cost.output.pictures.plot", raising=False)
    result = gpt2cost("plot", "roofline", "--model", "distilgpt2", "--gpu", "a100", "-o", tmp_path / "x.png")
    assert_refused(result, 'plot needs matplotlib: pip install "gpt2cost[plot]"')


def test_a_name_may_have_dollar_signs(tmp_path: Path, gpt2cost: Call) -> None:
    """matplotlib takes what is between two for a formula."""
    folder = tmp_path / r"a$\frac$"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2", "n_layer": 2}', "utf-8")
    path = tmp_path / "picture.svg"
    assert gpt2cost("plot", "memory", "--model", folder, "--gpu", "a100", "-o", path) == Result(0, "", "")


@pytest.mark.parametrize(
    "flags",
    [
        ["generate", "--prompt", "1000", "--new-tokens", "100"],
        ["breakdown", "--seq", "512,2048"],
        ["curve", "--gpu", "t4,a100", "--seq", "512,2048", "--phase", "prefill"],
        ["train", "--seq", "512,2048"],
        ["memory", "--seq", "2048"],
    ],
)
def test_sizes_that_the_model_cannot_run_are_warned_of_once(flags: list[str], tmp_path: Path, gpt2cost: Call) -> None:
    kind, *more = flags
    result = gpt2cost("plot", kind, "--model", "distilgpt2", "--gpu", "a100", *more, "-o", tmp_path / "x.svg")
    assert result.code == 0
    assert result.err.count("exceeds n_positions 1024 of distilgpt2") == result.err.count("\n") == 1
