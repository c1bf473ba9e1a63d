"""`gpt2cost compare`: formats, what-ifs, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import Result, assert_refused

from gpt2cost.output.compare import KINDS

TWO = ["compare", "--model", "gpt2", "--gpu", "a100,rtx4090"]


def test_formats(gpt2cost: Any) -> None:
    document = json.loads(gpt2cost(*TWO, "--format", "json").out)
    rows = list(csv.DictReader(io.StringIO(gpt2cost(*TWO, "--format", "csv").out)))
    lines = [json.loads(line) for line in gpt2cost(*TWO, "--format", "jsonl").out.splitlines()]
    assert [phase["phase"] for phase in document["phases"]] == ["prefill", "decode"]
    assert [row["label"] for row in rows] == ["a100-sxm-80gb", "rtx4090"] * 2
    assert float(rows[0]["latency_ratio"]) == 1
    for row, line in zip(rows, lines, strict=True):
        assert row == {
            name: "" if v is None else v if isinstance(v, str) else json.dumps(v) for name, v in line.items()
        }
        kinds = [float(row[f"{kind}_s"]) for kind in KINDS]
        assert sum(kinds) == pytest.approx(float(row["latency_s"]))
    batch = [c["size"] for c in document["crossovers"] if (c["phase"], c["axis"]) == ("prefill", "batch_size")]
    assert int(rows[1]["crossover_batch"]) == min(batch)
    prefill = [*TWO, "--phase", "prefill"]
    assert gpt2cost(*prefill, "--format", "markdown").out.startswith("| label |")
    assert "from batch size" in gpt2cost(*prefill).out


def test_the_word_stays_on_a_narrow_page(gpt2cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for page in (gpt2cost(*TWO), gpt2cost(*TWO, "--dtype", "fp16,fp32", "--runtime", "eager,reduce-overhead")):
        assert all(line.endswith("trust") for line in page.out.splitlines() if "latency ms" in line)


@pytest.mark.parametrize("more", [["--phase", "prefill"], ["--phase", "train", "--seq", "64"]])
def test_many_candidates_on_a_narrow_page(gpt2cost: Any, monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    """Where the time goes is said of each of them, in as many tables as that takes."""
    monkeypatch.setenv("COLUMNS", "80")
    candidates = [*TWO, "--set", "n_layer=2,3,4", *more]
    rows = csv.DictReader(io.StringIO(gpt2cost(*candidates, "--format", "csv").out))
    lines = gpt2cost(*candidates).out.splitlines()
    heads = [line for line in lines if line.startswith(("kind ", "part "))]
    assert len(heads) > 1
    assert all(sum(row["label"] in head for head in heads) == 1 for row in rows)
    assert max(len(line) for line in lines if line.startswith("---")) <= 80  # rules are as wide as their tables


def test_what_ifs(gpt2cost: Any) -> None:
    done = gpt2cost(*TWO, "--set", "n_layer=2", "--hw-set", "memory.bandwidth=1 TB/s", "--format", "json")
    document = json.loads(done.out)
    assert document["what_if"] == {"model": {"n_layer": 2}, "hardware": {"memory.bandwidth": "1 TB/s"}}
    assert document["phases"][0]["candidates"][0]["model"] == "gpt2[n_layer=2]"


def test_a_model_without_an_lm_head_has_no_last_logits(gpt2cost: Any, tmp_path: Path) -> None:
    """It is compared as it is, and said to be; alone it is refused."""
    path = tmp_path / "bare.json"
    path.write_text(json.dumps({"model_type": "gpt2", "architectures": ["GPT2Model"]}))
    flags = ["--gpu", "a100", "--logits", "last", "--phase", "prefill", "--format", "csv"]
    both = gpt2cost("compare", "--model", f"{path},gpt2", *flags)
    assert both.err == "warning: logits: last is of models with head lm: all that bare gives is computed\n"
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(both.out))}
    for name, model, logits in (("bare", path, "all"), ("gpt2", "gpt2", "last")):
        alone = gpt2cost("sweep", "--model", model, "--gpu", "a100", "--logits", logits, "--format", "csv").out
        (row,) = csv.DictReader(io.StringIO(alone))
        assert {key: row[key] for key in ("flops", "logits")} == {key: rows[name][key] for key in ("flops", "logits")}
    assert_refused(gpt2cost("sweep", "--model", path, *flags), "goes with head lm")


def test_the_real_model_cannot_run_it(gpt2cost: Any) -> None:
    done = gpt2cost(*TWO, "--seq", "2000")
    assert done.code == 0
    assert "n_positions" in done.err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--gpu", "a100"], "2 to 20"),
        (["--gpu", "a100,a100"], "only one"),
        (["--gpu", "a100,b100x"], "unknown hardware"),
        (["--dtype", "fp16,bf16,fp32,tf32", "--attn", "eager,sdpa", "--runtime", "eager,compile,cuda-graph"], "48"),
        (["--batch", "0"], "batch"),
        (["--phase", "x"], "phase"),
        (["--set", "x=1"], "unknown key"),
    ],
)
def test_refused(gpt2cost: Any, arguments: list[str], hint: str) -> None:
    result = gpt2cost(*TWO, *arguments)
    last = Result(result.code, result.out, result.err.splitlines(keepends=True)[-1])
    assert_refused(last, hint)
