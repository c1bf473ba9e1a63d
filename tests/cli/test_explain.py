"""One step explained: its numbers are those of predict and train, its equations hold, and every step has a name."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from every_table import different_rows
from helpers import assert_refused

from gpt2cost.output.launch import flops_text, product_of, source_line, when_text
from gpt2cost.prediction.one_step import explain_step
from gpt2cost.table.citations import installed_transformers, transformers_version
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Kernel, walk

MODEL = ("--model", "distilgpt2", "--batch", "2", "--seq", "40")
WAYS = [
    ("--attn", "eager"), ("--attn", "eager", "--no-use-cache"), ("--cache-type", "static"), ("--cache", "24"),
    ("--runtime", "compile"), ("--impl", "nanogpt"), ("--attn", "flash_attention_2", "--batch", "1"),
]  # fmt: skip
FIGURES = ("count", "flops", "read_bytes", "write_bytes")


def explained(gpt2cost: Any, *arguments: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(gpt2cost("explain", *arguments, "--format", "json").out)
    return document


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_all_steps_are_those_of_predict(way: tuple[str, ...], phase: str, gpt2cost: Any) -> None:
    arguments = (*MODEL, *way, "--gpu", "a100", "--phase", phase)
    (predicted,) = json.loads(gpt2cost("predict", *arguments, "--format", "json").out)["phases"]
    found = {}
    for name in ("transformer", "lm_head", *(() if "nanogpt" not in way else ("pos", "add"))):
        for step in explained(gpt2cost, name, *arguments)["steps"]:
            if step["count"]:
                found[step["name"]] = step
    assert found.keys() == {kernel["name"] for kernel in predicted["kernels"]}
    for kernel in predicted["kernels"]:
        step = found[kernel["name"]]
        assert [step[key] for key in (*FIGURES, "device_s", "bound", "attention_kernel")] == [
            kernel[key] for key in (*FIGURES, "device_s", "bound", "attention_kernel")
        ]
        assert step["share"] == pytest.approx(kernel["share"])
        assert (step["does"], step["removed_by"]) == (kernel["why"], kernel["removed_by"])
        for figure in FIGURES[1:]:
            assert step["count"] * step["launch"][figure] == step[figure]
        for role, figure in (("inputs", "read_bytes"), ("outputs", "write_bytes")):
            assert sum(own["bytes"] for own in step[role]) == step["launch"][figure]
            assert [(own["name"], own["shape"], own["symbols"]) for own in step[role]] == [
                (own["name"], own["shape"], own["symbols"]) for own in kernel[role]
            ]
    assert sum(step["device_s"] for step in found.values()) == pytest.approx(predicted["totals"]["device_s"])


def test_steps_of_training_are_those_of_train(gpt2cost: Any) -> None:
    trained = json.loads(
        gpt2cost(
            "train", "--model", "distilgpt2", "--gpu", "a100", "--micro-batch", "2", "--seq", "40", "--grad-accum", "2",
            "--attn", "eager", "--format", "json",
        ).out
    )["phases"]  # fmt: skip
    kernels = {(phase["phase"], each["name"]): each for phase in trained for each in phase.get("kernels", ())}
    for phase, name in (
        ("forward", "h.attn.softmax"), ("backward", "h.attn.scores.grad_key"), ("backward", "wte.grad_weight.add"),
    ):  # fmt: skip
        (step,) = explained(gpt2cost, name, *MODEL, "--attn", "eager", "--phase", "train", "--gpu", "a100")["steps"]
        expected = kernels[phase, f"transformer.{name}"]
        assert step["phase"] == phase
        assert [step[key] for key in (*FIGURES, "device_s")] == [expected[key] for key in (*FIGURES, "device_s")]
    for name in ("clip.norms", "optimizer.matrices.exp_avg", "c_fc.accumulate_weight", "ddp.transformer.wpe.weight"):
        steps = explained(gpt2cost, name, *MODEL, "--phase", "train")["steps"]
        assert all(step["does"] for step in steps)


@pytest.mark.parametrize(
    ("name", "more"),
    [("cat_key", ()), ("h.attn.scores", ("--attn", "eager")), ("lm_head", ()), ("c_fc", ("--phase", "train"))],
)
def test_printed_equations_hold(name: str, more: tuple[str, ...], gpt2cost: Any) -> None:
    document = explained(gpt2cost, name, *MODEL, *more)
    text = gpt2cost("explain", name, *MODEL, *more).out
    sizes = {size: own["value"] for size, own in document["steps"][0]["launch"].get("product", {}).items()}
    checked = 0
    for line in re.findall(r"^ +(?:FLOPs |reads|writes|batch =|[mnk] =) *(.+)$", text, re.M):
        sides = line.split(" = ")
        numbers = {eval(side.replace(",", ""), {}, {**document["symbols"], **sizes}) for side in sides}
        assert len(numbers) == 1
        checked += 1
    assert checked >= 3


def test_a_product_is_written_by_its_sizes(gpt2cost: Any) -> None:
    text = gpt2cost("explain", "h.attn.c_attn", "--model", "distilgpt2", "--batch", "8", "--seq", "512").out
    assert "FLOPs  2*m*n*k = 2*4096*2304*768 = 14,495,514,624\n" in text
    assert "(batch_size, seq_len, hidden_size)" in text


def test_what_a_product_is_written_as_is_its_formula() -> None:
    products = 0
    for row in different_rows():
        if isinstance(row.step, Kernel) and (sizes := product_of(row.step)):
            assert eval(flops_text(row.step), {}, sizes) == row.step.flops
            products += 1
    assert products > 30


def test_every_condition_has_words() -> None:
    assert {when_text(row.step.when) for row in different_rows()} > {"always"}


def test_a_step_that_does_not_run_here_says_when_it_does(gpt2cost: Any) -> None:
    text = gpt2cost("explain", "clone_query", "--attn", "eager").out
    assert "runs: when there are several sequences and there are several heads, which is not so here" in text


@pytest.mark.parametrize("name", ["attn.cat_key", "transformer.h.attn.cat_key", "h.0.attn.cat_key", "cat_key"])
def test_names_of_a_step(name: str, gpt2cost: Any) -> None:
    (step,) = explained(gpt2cost, name, *MODEL)["steps"]
    assert step["name"] == "transformer.h.attn.cat_key"


def test_every_step_can_be_asked_for_by_its_path() -> None:
    for row in walk(cost_table()):
        if isinstance(row.step, Kernel):
            assert [step.row for step in explain_step("gpt2", row.path).steps] == [row]


def test_groups_and_steps_without_a_kernel(gpt2cost: Any) -> None:
    document = explained(gpt2cost, "h.attn", *MODEL)
    assert document["group"] == "h.attn"
    names = [step["name"].rpartition(".")[2] for step in document["steps"] if step["count"]]
    assert names == ["c_attn", "cat_key", "cat_value", "scaled_dot_product_attention", "c_proj"]
    text = gpt2cost("explain", "h.attn", *MODEL).out
    assert "of which 5 launch a kernel here; together " in text
    free = gpt2cost("explain", "h.attn.split").out
    assert "split in prefill: a view, 7 of them, no kernel\n" in free
    assert re.search(r"gives +\(batch_size, num_heads, seq_len, head_dim\) +1x12x128x64$", free, re.M)
    assert "bytes" not in free
    assert "identity" not in gpt2cost("explain", "drop").out.partition("\n\n")[0]


def test_a_step_that_a_compiler_has_merged_is_the_merged_kernel(gpt2cost: Any) -> None:
    (step,) = explained(gpt2cost, "add_1", *MODEL, "--runtime", "compile")["steps"]
    assert step["name"] == "transformer.h.mlp.act.mul+pow+mul_1+add+mul_2+tanh+add_1+mul_3"
    assert "One kernel that the compiler makes of 8" in step["does"]


def test_steps_that_a_compiler_computes_in_others_are_those_others(gpt2cost: Any) -> None:
    """Of a mask nothing but views would be left."""
    steps = explained(gpt2cost, "causal_mask", *MODEL, "--runtime", "compile", "--attn", "eager")["steps"]
    assert [step["name"] for step in steps if step["count"]] == ["transformer.h.attn.scale+mask+softmax"]


def test_lines_fit_the_page_but_for_formulas(gpt2cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = gpt2cost("explain", "ln_1", "--gpu", "t4").out
    assert all(len(line) <= 80 for line in text.splitlines() if "*" not in line)


def test_steps_of_generation(gpt2cost: Any) -> None:
    (step,) = explained(gpt2cost, "generate.cat_ids", "--phase", "generate")["steps"]
    assert step["phase"] == "after a pass"
    assert "multinomial" in gpt2cost("explain", "multinomial", "--phase", "generate", "--sample").out
    whole = explained(gpt2cost, "generate", "--phase", "generate")
    assert whole["group"] == "generate"
    assert {step["phase"] for step in whole["steps"]} == {"before all passes", "before a pass", "after a pass"}


def test_a_pass_beyond_the_positions_is_warned_of(gpt2cost: Any) -> None:
    result = gpt2cost("explain", "wpe", "--seq", "2000")
    assert "kv_len 2000 exceeds n_positions 1024" in result.err
    assert result.out
    assert_refused(gpt2cost("explain", "wpe", "--seq", "2000", "--strict"), "exceeds n_positions")


def test_the_source_line_is_the_installed_one() -> None:
    """A transformers older than those whose lines ship, or an older minor version, has some lines otherwise."""
    installed = installed_transformers()
    if installed is None:
        pytest.skip("transformers is not installed")
    is_known = installed[0].split(".")[:2] == transformers_version().split(".")[:2]
    for row in walk(cost_table()):
        if isinstance(row.step, Kernel):
            source, quoted = row.step.source, source_line(row.step.source)
            has_line = is_known and not str(source).endswith("?")
            assert source.fragment in quoted or not (has_line or quoted)


@pytest.mark.parametrize("more", [(), ("--phase", "train", "--dropout", "0.2")])
def test_what_was_asked_for_stands_in_a_row_and_is_what_tree_writes(more: tuple[str, ...], gpt2cost: Any) -> None:
    settings = explained(gpt2cost, "h.mlp.c_fc", *MODEL, *more)["settings"]
    assert settings == json.loads(gpt2cost("tree", *MODEL, *more, "--format", "json").out)["settings"]
    assert {"attn", "runtime", "impl"} <= settings.keys()
    assert ("dropout" in settings) == ("--dropout" in more)
    row = json.loads(gpt2cost("explain", "h.mlp.c_fc", *MODEL, *more, "--format", "jsonl").out.splitlines()[0])
    assert settings.items() <= row.items()


def test_a_micro_step_has_no_new_tokens(gpt2cost: Any) -> None:
    text = gpt2cost("explain", "ln_1", *MODEL, "--phase", "train").out
    assert "tokens, bf16-mixed" in text.splitlines()[0]
    assert "new tokens" not in text.splitlines()[0]


@pytest.mark.parametrize("form", ["jsonl", "csv", "markdown"])
def test_flat_formats(form: str, gpt2cost: Any) -> None:
    out = gpt2cost("explain", "h.mlp", *MODEL, "--gpu", "t4", "--format", form).out
    assert out.count("transformer.h.mlp.act.pow") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scores",), "step: nothing in this pass is called 'scores': --attn eager has it"),
        (("cat_keyy",), "did you mean 'h.attn.cat_key'"),
        (("write_key",), "--cache-type static has it"),
        (("grad_weight",), "gpt2cost table"),
        (("h.12.mlp",), "step: gpt2 has the layers h.0 to h.11, got '12'"),
        (("dot_product",), "did you mean 'h.attn.scaled_dot_product_attention'"),
        (("",), "step: nothing in this pass is called ''"),
        (("cat_key", "--phase", "both"), "phase: expected one of prefill, decode, generate, train, got 'both'"),
        (("cat_key", "--precision", "fp32"), "precision: goes with phase train alone"),
        (("cat_key", "--phase", "train", "--cache", "4"), "cache: not of training"),
        (("cat_key", "--sample"), "sample: goes with phase generate alone"),
        (("cat_key", "--hw-set", "memory.bandwidth=1 TB/s"), "--hw-set: goes with --gpu"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], message: str, gpt2cost: Any) -> None:
    assert_refused(gpt2cost("explain", *arguments), message)
