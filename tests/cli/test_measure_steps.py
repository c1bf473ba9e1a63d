"""`gpt2cost measure --phase train` and `validate --phase train`: a small model. Times are measured, never asserted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Call, refusal

from gpt2cost.output.formats import FORMATS

pytest.importorskip("torch")

import torch

from gpt2cost.measure import train_steps

pytestmark = pytest.mark.usefixtures("few_samples", "one_of_each_part")

CAMPAIGN = ROOT / "tests/data/campaign-train-cpu"
STEP = ("--phase", "train", "--seq", "6", "--dropout", "0")
KEYS = {
    "kind", "model", "impl", "precision", "attn", "runtime", "micro_batch", "seq", "grad_accum", "optimizer",
    "clip_grad_norm", "checkpointing", "dropout", "vocab_size", "sweep", "step_us", "step_min_us", "runs",
    "forward_us", "backward_us", "clip_us", "optimizer_us", "reference_us",
}  # fmt: skip


@pytest.fixture
def one_of_each_part(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And on one thread: two wait for each other where others run beside them."""
    parts, threads = train_steps._parts, torch.get_num_threads()
    monkeypatch.setattr(train_steps, "_parts", lambda bench, step, budget_s: parts(bench, step, 0.0))
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_what_is_recorded_is_read_again(gpt2cost: Call, tiny_config: str, tmp_path: Path) -> None:
    lines = tmp_path / "steps.jsonl"
    result = gpt2cost("measure", *STEP, "--model", tiny_config, "--micro-batch", "1,2", "--grad-accum", "1,2",
                      "--impl", "hf,nanogpt", "--rounds", "2", "--format", "jsonl", "-o", lines)  # fmt: skip
    assert result.code == 0, result.err
    assert result.out == ""
    head, *steps, end = lines_of(lines)
    assert (head["kind"], head["device"], end) == ("machine", "cpu", {"kind": "end", "complete": True})
    assert len(steps) == 2 * 2 * 2 * 2
    assert all(set(step) == KEYS for step in steps)
    validate = ("validate", "--phase", "train", "--from", lines, "--gpu", "a100", "--format", "json")
    document = json.loads(gpt2cost(*validate).out)
    assert document["summary"]["cases"] == 8
    assert [part["part"] for part in document["parts"]] == ["forward", "backward", "clip", "optimizer"]
    step = document["steps"][0]
    assert step["error"] == pytest.approx(step["predicted_s"] / step["measured_s"] - 1)
    assert step["repeat_difference"] >= 0
    for flags, count in {("--micro-batch", "2"): 4, ("--impl", "hf", "--grad-accum", "1-2"): 4, ("--seq", "6"): 8,
                         ("--dropout", "0", "--clip-grad-norm", "1", "--model", tiny_config): 8}.items():  # fmt: skip
        assert len(json.loads(gpt2cost(*validate, *flags).out)["steps"]) == count
    for flags in (("--micro-batch", "3"), ("--precision", "bf16-mixed"), ("--dropout", "0.1")):
        assert "no measured training step" in refusal(gpt2cost(*validate, *flags))


@pytest.mark.parametrize("format", FORMATS)
def test_measured_and_predicted_in_every_format(gpt2cost: Call, tiny_config: str, format: str) -> None:
    given = (*STEP, "--model", tiny_config, "--rounds", "1", "--format", format)
    measured = gpt2cost("measure", *given, "--optimizer", "adamw-fused", "--clip-grad-norm", "none")
    assert measured.code == 0, measured.err
    assert "round 1/1" in measured.err
    assert "optimizer" in measured.out
    validated = gpt2cost("validate", *given, "--gpu", "a100", "--checkpointing", "block")
    assert validated.code == 0, validated.err
    assert "warning: --device cpu is measured" in validated.err
    assert "backward" in validated.out


def test_a_step_without_clipping_has_no_such_part(gpt2cost: Call, tiny_config: str) -> None:
    result = gpt2cost("measure", *STEP, "--model", tiny_config, "--clip-grad-norm", "none", "--rounds", "1",
                      "--precision", "fp32,bf16-mixed,bf16", "--format", "jsonl")  # fmt: skip
    steps = [record for record in map(json.loads, result.out.splitlines()) if record["kind"] == "train_step"]
    assert [step["precision"] for step in steps] == ["fp32", "bf16-mixed", "bf16"]
    assert all(set(step) == KEYS - {"clip_us"} for step in steps)


def test_a_stopped_run_goes_on(
    gpt2cost: Call, tiny_config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, done = tmp_path / "steps.jsonl", 0
    command = ("measure", *STEP, "--model", tiny_config, "--micro-batch", "1,2", "--rounds", "2", "--format", "jsonl",
               "-o", lines)  # fmt: skip
    measure: Callable[..., dict[str, Any]] = train_steps.measure_step

    def stopped(*given: Any) -> dict[str, Any]:
        nonlocal done
        done += 1
        if done > 3:
            raise KeyboardInterrupt
        return measure(*given)

    with monkeypatch.context() as patch:
        patch.setattr(train_steps, "measure_step", stopped)
        result = gpt2cost(*command)
    assert result.code not in (0, 2)
    assert "goes on from" in result.err
    before = lines_of(lines)
    assert [record.get("sweep") for record in before] == [None, 0, 0, 1]
    again = gpt2cost(*command)
    assert again.code == 0, again.err
    assert "goes on with 3 measurements" in again.err
    whole = lines_of(lines)
    assert whole[:4] == before
    assert [(record.get("micro_batch"), record.get("sweep")) for record in whole[4:]] == [(2, 1), (None, None)]
    assert gpt2cost(*command).code == 0  # complete: set aside, and measured anew
    assert lines_of(tmp_path / "steps.jsonl.bak") == whole


def test_a_step_that_cannot_run_is_no_end(gpt2cost: Call, tiny_config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = train_steps.Trainer.step

    def only_small(own: Any, batch: Any, *more: Any) -> float:
        if len(batch) > 1:
            raise RuntimeError("out\nof memory")
        return step(own, batch, *more)

    monkeypatch.setattr(train_steps.Trainer, "step", only_small)
    measure = ("measure", *STEP, "--model", tiny_config, "--rounds", "2")
    result = gpt2cost(*measure, "--micro-batch", "2,1", "--format", "csv")
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 2
    assert "2x6: RuntimeError: out of memory" in result.err
    assert "no step could be run" in refusal(gpt2cost(*measure, "--micro-batch", "2"))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--batch", "2"), "--batch: not of training"),
        (("--case", "1,2,0"), "--case: not of training"),
        (("--kernels",), "--kernels: is of passes"),
        (("--phase", "both"), "phase: expected one of"),
        (("--precision", "fp16-mixed"), "precision: fp16-mixed needs --device cuda"),
        (("--precision", "fp8"), "precision: expected one of"),
        (("--attn", "flash_attention_2"), "attn: flash_attention_2 needs --device cuda"),
        (("--runtime", "cuda-graph"), "runtime: expected one of"),
        (("--seq", "65"), "seq: expected at most n_positions, 64"),
        (("--micro-batch", "0"), "micro_batch: expected"),
        (("--dropout", "1"), "dropout: expected a probability"),
        (("--rounds", "0"), "rounds: expected"),
    ],
)
@pytest.mark.parametrize("command", ["measure", "validate"])
def test_what_is_wrong_is_said_in_a_line(
    gpt2cost: Call, tiny_config: str, command: str, flags: tuple[str, ...], says: str
) -> None:
    device = ("--gpu", "a100") if command == "validate" else ()
    assert says in refusal(gpt2cost(command, "--phase", "train", "--model", tiny_config, *device, *flags))


def test_flags_of_steps_go_with_steps(gpt2cost: Call, tiny_config: str) -> None:
    for flags in (("--micro-batch", "2"), ("--dropout", "0"), ("--impl", "hf")):
        assert "goes with --phase train" in refusal(gpt2cost("measure", "--model", tiny_config, *flags))
    assert "--model is required" in refusal(gpt2cost("measure", "--phase", "train"))


def test_records_of_older_campaigns(gpt2cost: Call, tmp_path: Path) -> None:
    """They have one line a step, `compile` for the runtime, and no attention."""
    step = {"kind": "train_step", "impl": "nanogpt", "model": "gpt2", "precision": "bf16-mixed", "micro_batch": 4,
            "seq": 1024, "optimizer": "adamw-fused", "compile": True, "dropout": 0.0, "vocab_size": 50304,
            "clip_grad_norm": 1.0, "step_us": 4e4, "forward_us": 1e4, "backward_us": 2e4, "clip_us": 5e2,
            "optimizer_us": 1e3, "peak_allocated_bytes": 6_000_000_000}  # fmt: skip
    records = [{"kind": "machine", "part": "train"}, step, {**step, "micro_batch": 64, "error": "out of memory"}]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    validate = ("validate", "--phase", "train", "--from", path, "--gpu")
    (row,) = json.loads(gpt2cost(*validate, "a100", "--format", "json").out)["steps"]
    settings = ("runtime", "attn", "impl", "vocab_size", "grad_accum", "measured_s", "measured_peak_bytes")
    assert [row[key] for key in settings] == ["compile", "sdpa", "nanogpt", 50304, 1, 0.04, 6_000_000_000]
    assert row["repeat_difference"] is None
    assert row["peak_error"] == pytest.approx(row["predicted_peak_bytes"] / 6e9 - 1)
    assert "peak" in gpt2cost(*validate, "a100").out
    assert "t4 has no bf16" in refusal(gpt2cost(*validate, "t4"))
    for lacking in ("precision", "seq", "step_us"):
        path.write_text(json.dumps({key: value for key, value in step.items() if key != lacking}), "utf-8")
        assert lacking in refusal(gpt2cost(*validate, "a100"))


def test_recorded_steps_of_a_campaign(gpt2cost: Call) -> None:
    """Of distilgpt2 on one core of a Xeon, in seconds of the processor: every line finds its prediction."""
    command = ("validate", "--phase", "train", "--from", CAMPAIGN, "--gpu", "a100", "--format", "json")
    scored = json.loads(gpt2cost(*command).out)
    recorded = [record for path in CAMPAIGN.iterdir() for record in lines_of(path) if record["kind"] == "train_step"]
    assert scored["summary"]["cases"] == len(recorded) > 1
    assert scored["skipped"] == {}
    assert [(step["impl"], step["vocab_size"], step["dropout"], step["optimizer"]) for step in scored["steps"]] == [
        (record["impl"], record["vocab_size"], record["dropout"], record["optimizer"]) for record in recorded
    ]
    assert {part["cases"] for part in scored["parts"]} == {len(recorded)}
    one = json.loads(gpt2cost(*command, "--impl", "hf", "--optimizer", "adamw-fused").out)["steps"]
    assert [step["dropout"] for step in one] == [0.1]
