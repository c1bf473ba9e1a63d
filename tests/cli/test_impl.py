"""`--impl`, and nanoGPT's model_args as a model, from the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import Call, assert_refused

ARGS = {"n_layer": 3, "n_head": 4, "n_embd": 64, "block_size": 128, "vocab_size": 65, "bias": False, "dropout": 0.2}
ON = ["--gpu", "a100"]
NANO = [*ON, "--impl", "nanogpt"]
GPT2 = ["--model", "gpt2"]


@pytest.fixture
def nano(tmp_path: Path) -> str:
    """A file of nanoGPT's model_args."""
    return saved(tmp_path, ARGS)


def saved(folder: Path, args: Any, name: str = "shakespeare.json") -> str:
    path = folder / name
    path.write_text(json.dumps(args), "utf-8")
    return str(path)


def document(gpt2cost: Call, *arguments: str) -> Any:
    result = gpt2cost(*arguments, "--format", "json")
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_predict(gpt2cost: Call) -> None:
    found = document(gpt2cost, "predict", *GPT2, *NANO, "--phase", "prefill")
    assert found["settings"]["impl"] == "nanogpt"
    assert found["settings"]["use_cache"] is False
    assert found["memory"]["kv_cache_bytes"] == 0
    assert (found["model"]["parameters"], found["model"]["bias"]) == (124_439_808, True)
    kernels = found["phases"][0]["kernels"]
    assert sum(kernel["count"] for kernel in kernels) == 6 + 10 * 12
    assert {kernel["source"].partition(":")[0] for kernel in kernels} == {"nanoGPT/model.py"}
    plain = document(gpt2cost, "predict", *GPT2, *ON, "--phase", "prefill")
    assert plain == document(gpt2cost, "predict", *GPT2, *ON, "--impl", "hf", "--phase", "prefill")
    assert plain["settings"]["impl"] == "hf"
    assert "bias" not in plain["model"]
    products = [
        sum(kernel["flops"] for kernel in doc["phases"][0]["kernels"] if kernel["kind"] in ("gemm", "attention"))
        for doc in (plain, found)
    ]
    assert products[0] == products[1]


def test_without_a_cache_a_decode_step_takes_the_whole_text(gpt2cost: Call) -> None:
    prefill, decode = document(gpt2cost, "predict", *GPT2, *NANO, "--seq", "16")["phases"]
    assert (prefill["seq_len"], decode["seq_len"], decode["cache_len"]) == (16, 17, 0)
    assert sum(kernel["count"] for kernel in decode["kernels"]) == sum(kernel["count"] for kernel in prefill["kernels"])


def test_text_names_the_code_only_where_it_is_not_huggingfaces(gpt2cost: Call) -> None:
    plain, nanogpt = (gpt2cost("predict", *GPT2, *ON, "--impl", impl).out for impl in ("hf", "nanogpt"))
    assert plain == gpt2cost("predict", *GPT2, *ON).out
    assert "hf" not in plain
    assert "nanogpt's code" in nanogpt.splitlines()[0]
    assert "source: functions of nanoGPT's model.py" in nanogpt


def test_model_args(gpt2cost: Call, nano: str) -> None:
    found = document(gpt2cost, "predict", "--model", nano, *ON, "--seq", "128")
    model = found["model"]
    assert (found["settings"]["impl"], model["name"], model["bias"]) == ("nanogpt", "shakespeare", False)
    assert (model["n_layer"], model["n_head"], model["n_embd"], model["n_inner"]) == (3, 4, 64, 256)
    assert (model["vocab_size"], model["n_positions"]) == (65, 128)
    d, layers = 64, 3  # a matrix each for wte, wpe, and the 12 d^2 and two layer norms of a block, less all biases
    assert model["parameters"] == (65 + 128) * d + layers * (12 * d * d + 2 * d) + d
    assert any("n_positions 128" in warning for warning in found["warnings"]), "the decode step is one too long"


def test_what_model_args_leave_out_has_nanogpts_defaults(gpt2cost: Call, tmp_path: Path) -> None:
    path = saved(tmp_path, {"block_size": 512})
    model = document(gpt2cost, "predict", "--model", path, *ON)["model"]
    assert (model["n_layer"], model["n_embd"], model["vocab_size"], model["bias"]) == (12, 768, 50304, True)


def test_a_nanogpt_model_with_biases_runs_in_huggingfaces_code_too(gpt2cost: Call, tmp_path: Path) -> None:
    path = saved(tmp_path, ARGS | {"bias": True})
    found = document(gpt2cost, "predict", "--model", path, *ON, "--impl", "hf", "--cache", "4")
    assert found["settings"]["impl"] == "hf"
    assert found["settings"]["use_cache"] is True


def test_set(gpt2cost: Call, nano: str) -> None:
    found = document(gpt2cost, "predict", *GPT2, *NANO, "--set", "bias=false,block_size=2048")["model"]
    assert (found["bias"], found["n_positions"]) == (False, 2048)
    assert found["parameters"] == 124_439_808 + 1024 * 768 - (12 * (9 + 2) + 1) * 768
    found = document(gpt2cost, "predict", "--model", nano, *ON, "--set", "n_layer=5")
    assert (found["model"]["n_layer"], found["model"]["bias"], found["settings"]["impl"]) == (5, False, "nanogpt")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([*ON, "--impl", "foo"], "impl: expected one of hf, nanogpt, got 'foo'"),
        ([*NANO, "--cache", "4"], "no KV cache"),
        ([*NANO, "--attn", "flash_attention_2"], "attn"),
        ([*NANO, "--cache-type", "static"], "cache_type"),
        ([*NANO, "--set", "activation_function=relu"], "activation_function"),
        ([*NANO, "--set", "n_inner=100"], "n_inner"),
        ([*NANO, "--set", "tie_word_embeddings=false"], "tie_word_embeddings"),
        ([*NANO, "--set", "bias=7"], "bias"),
        ([*NANO, "--logits", "last", "--runtime", "cuda-graph"], "cannot capture"),
        ([*ON, "--set", "bias=false"], "--impl nanogpt"),
    ],
)
def test_what_cannot_run(gpt2cost: Call, arguments: list[str], named: str) -> None:
    assert_refused(gpt2cost("predict", *GPT2, *arguments), named)


def test_passes_of_a_nanogpt_model_are_not_measured(gpt2cost: Call, nano: str) -> None:
    pytest.importorskip("torch")
    assert_refused(gpt2cost("measure", "--model", nano, "--case", "1,8,0"), "nanoGPT")


def test_what_cannot_run_of_a_nanogpt_model(gpt2cost: Call, nano: str, tmp_path: Path) -> None:
    assert_refused(gpt2cost("predict", "--model", nano, *ON, "--impl", "hf"), "bias")
    assert_refused(gpt2cost("predict", "--model", nano, *ON, "--cache", "1"), "no KV cache")
    assert_refused(gpt2cost("table", "--model", nano, "--cache", "1"), "no KV cache")
    for wrong, named in (
        ({"n_heads": 4}, "did you mean 'n_head'"),
        ({"n_embd": 65}, "multiple of n_head"),
        ({"dropout": 1.5}, "pdrop"),
        ({"bias": "yes"}, "bias"),
        ({"block_size": 0}, "block_size"),
    ):
        path = saved(tmp_path, ARGS | wrong, "wrong.json")
        assert_refused(gpt2cost("predict", "--model", path, *ON), named)


def test_a_config_without_a_type_says_what_would_be_right(gpt2cost: Call, tmp_path: Path) -> None:
    assert_refused(gpt2cost("predict", "--model", saved(tmp_path, {"n_layer": 2}), *ON), "block_size")


def test_a_bias_in_a_config_json_is_none_of_huggingfaces(gpt2cost: Call, tmp_path: Path) -> None:
    path = saved(tmp_path, {"model_type": "gpt2", "n_layer": 2, "bias": False})
    assert document(gpt2cost, "predict", "--model", path, *ON)["settings"]["impl"] == "hf"


def test_table(gpt2cost: Call, nano: str) -> None:
    found = document(gpt2cost, "table", "--impl", "nanogpt")
    assert found["impl"] == "nanogpt"
    assert [kernel["op"] for kernel in found["kernels"]].count("addmm") == 4
    without = document(gpt2cost, "table", "--model", nano)["kernels"]
    assert [kernel["op"] for kernel in without].count("mm") == 5
    assert document(gpt2cost, "table")["impl"] == "hf"
    assert gpt2cost("table", "--impl", "nanogpt").out.startswith("sources: functions of nanoGPT's model.py\n")


def test_sweep(gpt2cost: Call, nano: str) -> None:
    impls = ["--impl", "hf,nanogpt"]
    result = gpt2cost("sweep", "--model", f"gpt2,{nano}", *ON, "--seq", "8,16", *impls, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert [(row["model"], row["impl"], row["use_cache"]) for row in rows[::2]] == [
        ("gpt2", "hf", "true"), ("gpt2", "nanogpt", "false"), ("shakespeare", "nanogpt", "false"),
    ]  # fmt: skip
    assert "skipped 1 of 4: impl: hf has biases" in result.err
    plain = gpt2cost("sweep", *GPT2, *ON, "--seq", "8,16").out
    assert plain == gpt2cost("sweep", *GPT2, *ON, "--seq", "8,16", "--impl", "hf").out
    assert "impl" not in plain
    assert_refused(gpt2cost("sweep", *GPT2, *NANO, "--cache", "0,4"), "no KV cache")
    assert_refused(gpt2cost("sweep", *GPT2, *ON, "--impl", "hf,foo"), "impl")


def test_a_study_may_name_it(gpt2cost: Call, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("{model: gpt2, gpu: a100, seq: [8], impl: [hf, nanogpt]}\n", "utf-8")
    rows = document(gpt2cost, "sweep", "--grid", str(study))["rows"]
    assert [row["impl"] for row in rows] == ["hf", "nanogpt"]


def test_compare(gpt2cost: Call) -> None:
    result = gpt2cost("compare", *GPT2, *ON, "--impl", "hf,nanogpt", "--seq", "8", "--format", "jsonl")
    rows = [json.loads(line) for line in result.out.splitlines()]
    assert [(row["label"], row["impl"], row["phase"]) for row in rows] == [
        ("hf", "hf", "prefill"), ("nanogpt", "nanogpt", "prefill"), ("hf", "hf", "decode"),
        ("nanogpt", "nanogpt", "decode"),
    ]  # fmt: skip
    assert rows[1]["launches"] < rows[0]["launches"]


def test_generate(gpt2cost: Call, nano: str) -> None:
    """The text outgrows the block, which no warning calls impossible; every turn takes at most `block_size` tokens."""
    long = ["--prompt", "100", "--new-tokens", "60"]
    found = document(gpt2cost, "generate", "--model", nano, *ON, *long, "--batch", "64")
    assert (found["settings"]["impl"], found["settings"]["use_cache"], found["warnings"]) == ("nanogpt", False, [])
    assert {step["source"].partition(":")[0] for step in found["loop"]} <= {"nanoGPT/model.py", ""}
    assert "cat_ids" in {step["name"].rpartition(".")[2] for step in found["loop"]}
    last = [point["pass_s"] for point in found["curve"] if point["position"] >= 128]
    assert len(set(last)) == 1, "the pass takes the last block_size tokens"
    sampled = document(gpt2cost, "generate", "--model", nano, *ON, *long, "--sample")
    assert [step["op"] for step in sampled["loop"]] == [step["op"] for step in found["loop"]], "greedy draws of one"
    assert_refused(gpt2cost("generate", "--model", nano, *ON, "--padded"), "padded")
    assert_refused(gpt2cost("generate", "--model", nano, *ON, "--runtime", "cuda-graph"), "runtime")


@pytest.mark.parametrize("command", ["predict", "table", "sweep", "compare", "generate", "fit", "trace"])
def test_help(gpt2cost: Call, command: str) -> None:
    assert "--impl" in gpt2cost(command, "--help").out


def test_fit(gpt2cost: Call) -> None:
    assert gpt2cost("fit", *GPT2, *NANO, "--seq", "64").code == 0


def test_train(gpt2cost: Call, nano: str) -> None:
    """Counts of 124M in mixed precision; nanoGPT's own dropout; names that tell every kernel apart."""
    found = document(gpt2cost, "train", *GPT2, *NANO, "--micro-batch", "4")
    assert (found["settings"]["impl"], found["settings"]["dropout"]) == ("nanogpt", 0.0)
    counts = {
        phase["phase"]: sum(kernel["count"] for kernel in phase["kernels"])
        for phase in found["phases"]
        if phase["phase"] in ("forward", "backward")
    }
    assert counts == {"forward": 11 + 20 * 12, "backward": 13 + 31 * 12}
    small = document(gpt2cost, "train", "--model", nano, *ON, "--micro-batch", "4", "--runtime", "compile")
    assert (small["settings"]["impl"], small["settings"]["dropout"]) == ("nanogpt", 0.2)
    for phase in small["phases"]:
        names = [kernel["name"] for kernel in phase["kernels"]]
        assert len(names) == len(set(names))
    assert "nanogpt's code" in gpt2cost("train", *GPT2, *NANO).out.splitlines()[0]
    assert "code" not in gpt2cost("train", *GPT2, *ON).out.splitlines()[0]
    assert_refused(gpt2cost("train", "--model", nano, *ON, "--impl", "hf"), "bias")
