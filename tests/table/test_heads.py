"""Models with other heads, and with a pad token, against the real ones on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import oracle
import pytest
import torch
from helpers import ROOT
from oracle import tiny
from table_match import assert_table_equals_trace
from transformers import GPT2Config

from gpt2cost.errors import InputError
from gpt2cost.prediction.generate import generate
from gpt2cost.prediction.model_tree import tree
from gpt2cost.prediction.predict import predict
from gpt2cost.prediction.sweep import sweep
from gpt2cost.prediction.train import train
from gpt2cost.table.config import change_model, load_model
from gpt2cost.table.heads import CLASSES, CLASSIFIES
from gpt2cost.table.options import HEADS

POINTS = ((1, 5, 0), (1, 1, 4), (1, 3, 4))
LABELS = {"num_labels": 5, "pad_token_id": 3}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("keys", [{}, LABELS, {"tie_word_embeddings": False}])
def test_heads(head: str, keys: dict[str, Any]) -> None:
    for attn in ("sdpa", "eager", "flash_attention_2"):
        for point in POINTS:
            assert_table_equals_trace(tiny(**keys), attn, "fp16", *point, head=head)
    if head != "sequence-classification" or "pad_token_id" in keys:  # which takes one sequence alone without it
        assert_table_equals_trace(tiny(**keys), "sdpa", "fp32", 3, 7, 0, head=head)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_a_pad_token_is_searched_for(attn: str) -> None:
    """In each pass that is not traced and has no mask."""
    config = tiny(pad_token_id=3)
    for batch, seq, cache in ((1, 1, 0), (2, 1, 4), (2, 6, 0), (1, 6, 4)):
        assert_table_equals_trace(config, attn, "fp16", batch, seq, cache)
        assert_table_equals_trace(config, attn, "fp16", batch, seq, cache, padded=True)
    assert_table_equals_trace(config, attn, "fp16", 2, 6, 0, use_cache=False)
    assert_table_equals_trace(config, attn, "fp16", 2, 6, 4, static=16)


def test_what_the_pad_token_costs() -> None:
    """Three kernels and two waits, one of them for the index; of GPT2LMHeadModel and of a graph none."""
    plain, padded = (change_model(load_model("gpt2"), {"pad_token_id": value}) for value in (None, 50256))
    runs = [predict(model, "a100", seq=8, phase="prefill").phases[0] for model in (plain, padded)]
    assert runs[1].totals.launches - runs[0].totals.launches == 3
    added = [row.step for row in runs[1].pass_.rows if row.step not in [own.step for own in runs[0].pass_.rows]]
    assert sum(step.op == "sync" for step in added) == 2
    captured = [predict(model, "a100", seq=8, phase="prefill", runtime="compile") for model in (plain, padded)]
    assert captured[0].phases[0].totals.launches == captured[1].phases[0].totals.launches
    steps = [generate(model, "a100", prompt_tokens=8, new_tokens=4).rest.latency_s for model in (plain, padded)]
    assert (steps[1] > steps[0]).all()


@pytest.mark.parametrize("head", HEADS)
def test_parameters_and_modules(head: str, tmp_path: Path) -> None:
    """Of a config whose `architectures` names the class."""
    for tied in (True, False):
        real = oracle.build(tiny(num_labels=4, tie_word_embeddings=tied), "sdpa", torch.float32, cls=CLASSES[head])  # type: ignore[index]
        real.tie_weights()
        config = tiny(num_labels=4, tie_word_embeddings=tied, architectures=[CLASSES[head]])  # type: ignore[index]
        config.to_json_file(tmp_path / "config.json", use_diff=False)
        model = load_model(tmp_path)
        assert (model.head, model.notes) == (head, ())
        assert model.parameters == sum(p.numel() for p in real.parameters())
        root = tree(model, seq=4).root
        modules = {path for path, _ in real.named_modules() if ".h.1" not in f".{path}"}
        assert {node.path for node in root.walk()} == modules
        assert root.cls == CLASSES[head]  # type: ignore[index]
        assert root.parameters == model.parameters


def test_heads_of_other_names(tmp_path: Path) -> None:
    for name, head, notes in (("TFGPT2LMHeadModel", "lm", 0), ("GPT2ForQuestionAnswering", "lm", 1)):
        config = tiny(architectures=[name])
        config.to_json_file(tmp_path / "config.json")
        model = load_model(tmp_path)
        assert (model.head, len(model.notes)) == (head, notes)


def test_only_a_language_model_generates() -> None:
    for head in set(HEADS) - {"lm"}:
        with pytest.raises(InputError, match="head"):
            generate(change_model(load_model("distilgpt2"), {"head": head}), "a100", prompt_tokens=8, new_tokens=4)


def test_classifiers_are_trained(gpt2cost: Any) -> None:
    """With the loss of their labels, and of their own parameters; other heads are refused."""
    for head in CLASSIFIES:
        model = change_model(load_model("distilgpt2"), {"head": head, "num_labels": 3, "pad_token_id": 0})
        for runtime in ("eager", "compile"):
            found = train(model, "a100", seq=64, micro_batch=4, runtime=runtime)
            assert found.memory.optimizer_bytes == 8 * model.parameters
            assert not found.warnings
        assert found.memory.total_bytes < train("distilgpt2", "a100", seq=64, micro_batch=4).memory.total_bytes
    for keys, named in (({"head": "double-heads"}, "head"), ({"head": CLASSIFIES[0], "num_labels": 1}, "num_labels")):
        with pytest.raises(InputError, match=named):
            train(change_model(load_model("distilgpt2"), keys), "a100")
    flags = ("--model", "distilgpt2", "--head", CLASSIFIES[0], "--gpu", "a100", "--micro-batch", "2", "--seq", "64")
    result = gpt2cost("train", *flags)
    assert result.code == 0
    assert "pad_token_id" in result.err


def test_several_sequences_need_a_pad_token() -> None:
    """Without one GPT2ForSequenceClassification refuses them."""
    model = change_model(load_model("distilgpt2"), {"head": "sequence-classification"})
    assert not predict(model, "a100", batch=1).warnings
    assert "pad_token_id" in predict(model, "a100", batch=2).warnings[0]
    assert not predict(change_model(model, {"pad_token_id": 0}), "a100", batch=2).warnings
    (warning,) = sweep(model, "a100", batch=[1, 2]).warnings
    assert "pad_token_id" in warning
    assert not sweep(model, "a100", batch=1).warnings


@pytest.mark.parametrize("command", ["predict", "tree", "table", "fit", "plot timeline -o", "trace -o", "report -o"])
@pytest.mark.parametrize("head", HEADS)
def test_every_command_takes_every_head(head: str, command: str, gpt2cost: Any, tmp_path: Path) -> None:
    name, *output = command.split(" -o")
    files = {"plot timeline": "x.svg", "trace": "x.json", "report": "x.html"}
    flags = ["--model", "distilgpt2", "--head", head, "--batch", "1"]
    flags += [] if name in ("table", "tree") else ["--gpu", "a100"]
    flags += ["-o", str(tmp_path / files[name])] if output else []
    result = gpt2cost(*name.split(), *flags)
    assert result.code == 0, result.err
    assert output or name == "table" or head == "lm" or f"head={head}" in result.out


CASES = ROOT.parent / "shared" / "field-cases" / "configs"


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not shipped with this checkout")
def test_the_configs_from_the_field() -> None:
    """Launches, FLOPs of products and parameters of each that is taken are those of the real model."""
    taken = 0
    for path in sorted(CASES.glob("*.json")):
        try:
            model = load_model(path)
        except InputError:
            continue
        config, cls = GPT2Config.from_pretrained(path), CLASSES[model.head]
        trace = oracle.trace(config, "sdpa", torch.float16, 1, 64, 0, cls=cls)
        real = oracle.build(config, "sdpa", torch.float16, cls=cls)
        real.tie_weights()
        (phase,) = predict(model, "a100", seq=64, phase="prefill").phases
        products = (cost.flops for cost in phase.kernels if cost.kernel.shape is not None)
        assert phase.totals.launches == len(trace.launches), path
        assert sum(products) == sum(launch.flops for launch in trace.launches), path
        assert model.parameters == sum(p.numel() for p in real.parameters()), path
        taken += 1
    assert taken >= 6
