"""`gpt2cost generate`: formats, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import Call, Result, assert_refused

from gpt2cost.output.formats import FORMATS

FLAGS = ["generate", "--model", "distilgpt2", "--gpu", "a100", "--prompt", "40", "--new-tokens", "12"]


def test_json(gpt2cost: Call) -> None:
    document = json.loads(gpt2cost(*FLAGS, "--format", "json", "--batch", "2", "--price-per-hour", "3").out)
    curve = document["curve"]
    assert [point["position"] for point in curve] == list(range(41, 52))
    assert document["total_s"] == pytest.approx(document["ttft_s"] + sum(point["latency_s"] for point in curve))
    assert document["total_s"] == pytest.approx(document["passes_s"] + document["generate_s"])
    assert document["tokens_per_s"] == pytest.approx(2 * document["tokens_per_s_per_request"])
    assert document["tpot_mean_s"] == pytest.approx(sum(point["latency_s"] for point in curve) / 11)
    assert document["total_low_s"] < document["total_s"] < document["total_high_s"]
    steps = {step["name"]: step for step in document["loop"]}
    assert steps["generate.argmax"]["source"].startswith("generation/utils.py:")
    assert steps["generate.stop_check_sync"]["op"] == "sync"
    assert document["settings"]["cache_type"] == "dynamic"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("new", ["1", "30"])
def test_every_format(format: str, new: str, tmp_path: Path, gpt2cost: Call) -> None:
    flags = [*FLAGS[:-1], new, "--format", format]
    path = tmp_path / "out"
    text = gpt2cost(*flags).out
    assert gpt2cost(*flags, "-o", path) == Result(0, "", "")
    assert path.read_text("utf-8") == text != ""
    if format in ("csv", "jsonl"):
        assert len(text.splitlines()) == int(new) + (format == "csv")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--prompt", "0"], "prompt"),
        (["--new-tokens", "0"], "new_tokens"),
        (["--new-tokens", "1000001"], "from 1 to 1000000"),
        (["--cache-type", "statik"], "static"),
        (["--cache-type", "static", "--no-use-cache"], "use_cache"),
        (
            ["--no-use-cache", "--runtime", "cuda-graph"],
            "no KV cache every step has new ones; eager and",
        ),
        (["--attn", "flash_attention_2", "--runtime", "cuda-graph"], "; sdpa with cache_type static, or eager"),
        (["--gpu", "t4", "--cache-type", "static", "--attn", "flash_attention_2"], "attn: flash_attention_2 needs an"),
        (["--padded", "--attn", "flash_attention_2"], "padded"),
        (["--cache-type", "static", "--attn", "flash_attention_2"], "cache_type"),
        (["--price-per-hour", "-1"], "price_per_hour"),
        (["--price-per-hour", "nan"], "price_per_hour"),
        (["--prompt", "2000", "--strict"], "n_positions"),
    ],
)
def test_bad_input_is_one_line(flags: list[str], named: str, gpt2cost: Call) -> None:
    assert_refused(gpt2cost(*FLAGS, *flags), named)
