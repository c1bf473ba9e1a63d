"""The command `tree`: what each format says of a model's modules, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from helpers import assert_refused

from gpt2cost import load_model

RUN = ("tree", "--model", "gpt2", "--batch", "2", "--seq", "16")


def nodes(gpt2cost: Any, *more: str) -> list[dict[str, Any]]:
    document = json.loads(gpt2cost(*RUN, *more, "--format", "json").out)
    found: list[dict[str, Any]] = document["nodes"]
    return found


def test_a_node_says_what_its_module_holds_and_costs(gpt2cost: Any) -> None:
    by_path = {node["path"]: node for node in nodes(gpt2cost)}
    c_attn = by_path["transformer.h.0.attn.c_attn"]
    assert (c_attn["class"], c_attn["count"], c_attn["parameters"]) == ("Conv1D", 12, 1_771_776)
    assert c_attn["flops"] == 2 * (2 * 16) * 768 * 2304
    assert c_attn["weights"] == [
        {"name": "weight", "shape": [768, 2304], "symbols": "(hidden_size, 3*hidden_size)", "tied_to": None},
        {"name": "bias", "shape": [2304], "symbols": "(3*hidden_size)", "tied_to": None},
    ]
    assert c_attn["output_shape"] == [2, 16, 2304]
    assert c_attn["output_symbols"] == "(batch_size, seq_len, 3*hidden_size)"
    head = by_path["lm_head"]
    assert (head["parameters"], head["weights"][0]["tied_to"]) == (0, "transformer.wte")
    blocks = by_path["transformer.h"]
    assert (blocks["parameters"], blocks["class"]) == (12 * 7_087_872, "ModuleList")
    assert by_path["transformer.h.0"]["parameters"] == 7_087_872
    assert by_path[""]["parameters"] == load_model("gpt2").parameters


@pytest.mark.parametrize("more", [(), ("--gpu", "t4"), ("--runtime", "compile"), ("--impl", "nanogpt")])
def test_every_format_has_the_same_lines(more: tuple[str, ...], gpt2cost: Any) -> None:
    documented = nodes(gpt2cost, *more)
    rows = list(csv.DictReader(io.StringIO(gpt2cost(*RUN, *more, "--format", "csv").out)))
    lines = [json.loads(line) for line in gpt2cost(*RUN, *more, "--format", "jsonl").out.splitlines()]
    markdown = gpt2cost(*RUN, *more, "--format", "markdown").out
    assert len(documented) == len(rows) == len(lines) == markdown.count("\n| ") - 2
    for node, row, line in zip(documented, rows, lines, strict=True):
        assert list(row) == list(line)
        for key in ("path", "class", "count", "flops", "read_bytes", "write_bytes", "parameters"):
            assert str(line[key]) == row[key] == str(node[key])
        assert (line["device_s"] is None) == ("--gpu" not in more)


def test_the_tree_has_the_totals_of_predict(gpt2cost: Any) -> None:
    run = ("--model", "gpt2", "--batch", "3", "--seq", "40", "--gpu", "a100", "--attn", "eager")
    for phase in ("prefill", "decode"):
        root = json.loads(gpt2cost("tree", *run, "--phase", phase, "--format", "json").out)["nodes"][0]
        predicted = json.loads(gpt2cost("predict", *run, "--phase", phase, "--format", "json").out)
        totals = predicted["phases"][0]["totals"]
        for key in ("launches", "flops", "read_bytes", "write_bytes"):
            assert root[key] == totals[key]
        assert root["device_s"] == pytest.approx(totals["device_s"], rel=1e-12)


@pytest.mark.parametrize("columns", ["80", "100", "120", "160"])
@pytest.mark.parametrize("more", [(), ("--gpu", "a100"), ("--free",), ("--phase", "train")])
def test_the_text_fits_the_page(columns: str, more: tuple[str, ...], gpt2cost: Any, monkeypatch: Any) -> None:
    """At every width what holds and what costs is there, and no number is cut."""
    monkeypatch.setenv("COLUMNS", columns)
    text = gpt2cost("tree", "--model", "gpt2-xl", *more).out
    table = text.split("\n\n")[2]
    assert max(map(len, table.splitlines())) <= int(columns)
    assert "..." not in table
    for words in ("parameters", "FLOPs", "0 of 80,411,200", "h.0 (of 48)", "30,740,800"):
        assert words in table


def test_depth_and_steps(gpt2cost: Any) -> None:
    every, top = nodes(gpt2cost), nodes(gpt2cost, "--depth", "1")
    assert [node["path"] for node in top] == ["", "transformer", "lm_head"]
    assert all(node in every for node in top)
    with_kernels, with_free = nodes(gpt2cost, "--kernels"), nodes(gpt2cost, "--free")
    added = [node for node in with_kernels if node not in every]
    leaves = [node for node in every if node["launches"] == 1]  # whose line is that of their kernel
    assert sum(node["launches"] * node["count"] for node in added + leaves) == every[0]["launches"]
    assert len({node["path"] for node in with_kernels}) == len(with_kernels)
    views = [node for node in with_free if node not in every]
    modules = {node["path"] for node in every}
    assert {node["path"].rpartition(".")[0] for node in (*added, *views)} <= modules
    assert "transformer.h.0.attn.split" in {node["path"] for node in views}
    assert {node["note"].split(":")[0] for node in views} >= {"view", "7 views"}
    (split,) = (line for line in gpt2cost(*RUN, "--free").out.splitlines() if line.strip().startswith("split"))
    assert "3 x 2x12x16x64" in split
    assert not any(node["launches"] or node["flops"] for node in views)


def test_what_launches_nothing_says_why(gpt2cost: Any) -> None:
    notes = {node["path"]: node["note"] for node in nodes(gpt2cost)}
    assert notes["transformer.drop"] == "identity in inference"
    assert notes["transformer.h.0.attn.attn_dropout"] == "never called"
    linear = nodes(gpt2cost, "--set", "activation_function=linear")
    assert {node["note"] for node in linear if node["class"] == "LinearActivation"} == {"identity"}
    merged = {node["path"]: node["note"] for node in nodes(gpt2cost, "--runtime", "compile")}
    assert merged["transformer.h.0.ln_2"] == "in a merged kernel"


def test_parameters_by_component(gpt2cost: Any) -> None:
    text = gpt2cost("tree", "--model", "gpt2", "--parameters").out
    for line in (
        "token embeddings     50257x768               38,597,376",
        "position embeddings  1024x768                   786,432",
        "lm_head              50257x768 (= wte)  0 of 38,597,376",
    ):
        assert line in text
    document = json.loads(gpt2cost("tree", "--model", "gpt2", "--parameters", "--format", "json").out)
    parts = document["components"]
    whole = {part["component"]: part["parameters"] for part in parts}
    assert whole["total"] == document["model"]["parameters"] == 124_439_808
    assert whole["without embeddings"] == 85_056_000
    assert whole["a block"] == sum(part["parameters"] for part in parts if ".h.0." in part["path"])
    held = [part for part in parts if part["weights"]]
    assert sum(part["parameters"] * part["count"] for part in held) == whole["total"]
    untied = gpt2cost("tree", "--model", "gpt2", "--parameters", "--set", "tie_word_embeddings=false").out
    assert "saves" in text
    assert "saves" not in untied


def test_a_micro_step_has_two_trees(gpt2cost: Any) -> None:
    run = ("--phase", "train", "--precision", "fp32", "--dropout", "0")
    found = nodes(gpt2cost, *run)
    forward, backward = ([node for node in found if node["phase"] == phase] for phase in ("forward", "backward"))
    assert sorted(node["path"] for node in forward) == sorted(node["path"] for node in backward)
    assert backward[1]["path"] == "lm_head"
    notes = {node["path"]: node["note"] for node in forward}
    assert notes["transformer.drop"] == "identity"


FLASH = ("--attn", "flash_attention_2")


@pytest.mark.parametrize("gpu", [(), ("--gpu", "a100")])
@pytest.mark.parametrize("command", [("tree",), ("table",), ("explain", "c_attn")])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((*FLASH, "--dtype", "fp32"), "attn: flash_attention_2 needs fp16 or bf16, got fp32"),
        ((*FLASH, "--phase", "train", "--precision", "fp32"), "attn: flash_attention_2 needs fp16 or bf16, got fp32"),
        ((*FLASH, "--set", "n_head=2"), "attn: flash_attention_2 runs heads of up to 256, got head_dim 384"),
        ((*FLASH, "--cache-type", "static"), "cache_type static: with flash_attention_2 it runs other kernels"),
        (("--cache-type", "static", "--no-use-cache"), "cache_type: static needs a cache, and use_cache is off"),
    ],
)
def test_what_no_device_runs_is_refused_without_one(
    flags: tuple[str, ...], message: str, command: tuple[str, ...], gpu: tuple[str, ...], gpt2cost: Any
) -> None:
    if gpu and command == ("table",):
        pytest.skip("table has no device")
    assert_refused(gpt2cost(*command, "--model", "gpt2", *flags, *gpu), message)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--phase", "both"), "phase: expected one of prefill, decode, train, got 'both'"),
        (("--precision", "fp32"), "precision: goes with phase train alone"),
        (("--phase", "train", "--dtype", "bf16"), "dtype: not of training"),
        (("--phase", "train", "--cache", "3"), "cache: not of training"),
        (("--depth", "-1"), "depth: expected"),
        (("--parameters", "--depth", "1"), "--depth: not with --parameters"),
        (("--parameters", "--free"), "--free: not with --parameters"),
        (("--hw-set", "memory.bandwidth=2 TB/s"), "--hw-set: goes with --gpu"),
        (("--impl", "nanogpt", "--cache", "3"), "cache: expected 0 with impl nanogpt"),
        (("--attn", "flash_attention_2", "--cache-type", "static"), "cache_type static"),
        (("--gpu", "t4", "--dtype", "bf16"), "dtype: t4 has no bf16"),
        (("--seq", "2000", "--strict"), "prefill: kv_len 2000 exceeds n_positions 1024"),
    ],
)
def test_a_tree_that_is_refused(flags: tuple[str, ...], message: str, gpt2cost: Any) -> None:
    assert_refused(gpt2cost("tree", "--model", "gpt2", *flags), message)


def test_a_model_is_needed(gpt2cost: Any) -> None:
    assert_refused(gpt2cost("tree"), "--model is required")
