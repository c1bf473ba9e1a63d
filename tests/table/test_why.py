"""The reason of each step: there is one, and what it says of formulas, flags and what removes a step is so."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import typer.main
from every_table import different_rows, of_passes, of_training

from gpt2cost.cli.app import COMMANDS, app
from gpt2cost.table.formula import NEVER, Formula
from gpt2cost.table.fusion import fuse
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Kernel, Row, short_path, walk
from gpt2cost.table.options import TableOptions
from gpt2cost.table.symbols import T
from gpt2cost.table.training import training_table
from gpt2cost.table.why.reasons import DOES, REMOVED_BY, RULES, key_of, why


def test_every_step_of_every_table_has_a_reason_and_no_text_is_left_over() -> None:
    used = set()
    for row in different_rows():
        said = why(row)
        assert re.fullmatch(r"[A-Z0-9].*\.", said.does, re.S), row.path
        assert not re.search(r"[{}]|  |\.\.(?!\.)", said.does), row.path
        assert len(said.does) < (400 if not getattr(row.step, "parts", ()) else 4000), row.path
        if not getattr(row.step, "parts", ()):
            used.add(key_of(row))
    assert used == set(DOES) | set(RULES)
    assert used >= set(REMOVED_BY)


def test_a_step_without_a_text_is_an_error() -> None:
    row = next(walk(cost_table()))
    with pytest.raises(KeyError, match=r"no text for transformer\.h\.nothing"):
        why(replace(row, module="transformer.h", step=replace(row.step, name="nothing")))


def test_the_flags_that_texts_name_are_there() -> None:
    command: Any = typer.main.get_command(app)
    known = {
        name
        for each in COMMANDS
        for option in command.get_command(None, each).params
        for name in option.opts
    }  # fmt: skip
    texts = [*DOES.values(), *RULES.values(), *REMOVED_BY.values()]
    flags = {flag for text in texts for flag in re.findall(r"--[a-z][a-z-]*", text)}
    assert flags
    assert flags <= known


CHANGES: dict[str, dict[str, Any]] = {
    "--attn sdpa": {"attn": "sdpa"},
    "--cache-type static": {"cache_type": "static"},
    "--cache-type dynamic": {"cache_type": "dynamic"},
    "--dropout 0": {"dropout": ()},
    "--logits all": {"logits": "all"},
    "--precision bf16,": {"autocast": False},
}
"""What a text says that removes a step -> the same of a table. Of masks it depends on the sizes."""


@pytest.mark.parametrize("flag", CHANGES)
def test_what_is_said_to_remove_a_step_does(flag: str) -> None:
    removed = 0
    for options in (
        *of_passes(),
        *(of_training() if flag in ("--attn sdpa", "--dropout 0", "--precision bf16,") else ()),
    ):
        other = {_made(row) for row in _rows(replace(options, **CHANGES[flag])) if isinstance(row.step, Kernel)}
        for row in _rows(options):
            if flag in why(row).removed_by and "mask" not in row.step.name:
                removed += 1
                assert _made(row) not in other
    assert removed


SIZES: dict[str, dict[str, Formula | int]] = {
    "a batch of 1": {"batch_size": 1},
    "a micro-batch of 1": {"batch_size": 1},
    "a batch above 1": {"batch_size": 2},
    "a step of one token": {"seq_len": 1},
    "kv_len that is a multiple of 8": {"kv_len": 16},
    "a prefill": {"cache_len": 0, "kv_len": T},
    "a step of one token has a mask": {"seq_len": 1},
}
"""What a text says of the sizes at which a step is not launched -> these sizes."""


@pytest.mark.parametrize("sizes", SIZES)
def test_a_step_is_not_launched_at_the_sizes_that_are_said(sizes: str) -> None:
    checked = 0
    for options in (*of_passes(), *(of_training() if "micro" in sizes else ())):
        if options.padded or options.cache_type == "static" or (options.traced and not options.use_cache):
            continue
        for row in _rows(options):
            said = why(row).removed_by
            if sizes in said and "--attn sdpa without padding" not in said:
                checked += 1
                assert row.step.when.where(SIZES[sizes]) == NEVER, row.path
    assert checked


def test_what_compiled_code_merges_is_merged() -> None:
    """Where there is no static cache, whose conditions keep some apart."""
    checked = 0
    for options in of_passes():
        if options.traced and not options.in_generate and options.cache_type == "dynamic":
            rows = tuple(walk(cost_table(options)))
            alone = {row.path for row in fuse(rows)}
            for row in rows:
                if why(row).removed_by.startswith("--runtime compile merges"):
                    checked += 1
                    assert row.path not in alone
    assert checked > 50


def _rows(options: TableOptions) -> Any:
    if not options.train:
        return walk(cost_table(options))
    table = training_table(options)
    return (*table.forward, *table.backward)


def _made(row: Row) -> str:
    """A row's path, without the cast by which autocast's gradients go."""
    return row.path.replace(".cast_input.grad_", ".grad_")


def test_reasons_of_gradients_name_steps_and_tensors_that_there_are() -> None:
    checked = 0
    for options in of_training():
        table = training_table(options)
        steps = {short_path(row.path) for row in table.forward}
        steps |= {short_path(row.module) for row in table.forward}
        for row in table.backward:
            does = why(row).does
            named = re.findall(r"\bh\.[\w.]*\w", does)
            assert steps.issuperset(named), does
            checked += len(named)
            assert "float32" not in does.partition(",")[0], does
    assert checked > 1000


def test_what_a_mask_is_for_is_said_where_there_is_no_cache_too() -> None:
    """Compiled code without a KV cache cannot ask whether texts are packed: sdpa then always has a mask."""
    for options in (*of_passes(), *of_training()):
        if (
            options.attn == "sdpa"
            and options.traced
            and not options.use_cache
            and not options.padded
            and options.impl == "hf"
        ):
            for row in _rows(options):
                if row.step.name in ("float_mask", "causal_mask.le", "scaled_dot_product_attention_masked"):
                    assert "without a KV cache, --runtime eager" in why(row).removed_by


def test_formulas_of_activation_functions_are_those_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    act2fn = pytest.importorskip("transformers.activations").ACT2FN
    names = {name: getattr(torch, name) for name in ("tanh", "erf", "sigmoid", "sqrt", "relu")}
    x = torch.linspace(-3, 12, 50)
    names |= {
        "x": x, "pi": torch.tensor(math.pi), "sqrt": lambda it: torch.as_tensor(it).sqrt(), "mu": 0.707107,
        "sigma": 0.282095, "clip": torch.clip, "gelu": torch.nn.functional.gelu,
        "softplus": torch.nn.functional.softplus, "exp": lambda it: torch.as_tensor(it).exp(),
    }  # fmt: skip
    checked = set()
    for options in of_passes():
        for row in walk(cost_table(options)):
            said = re.search(r"Kernel . of . of the activation (.+?): ", why(row).does)
            if said and options.activation_function not in checked:
                checked.add(options.activation_function)
                value = eval(said[1].replace("^", "**"), names)
                assert torch.allclose(value, act2fn[options.activation_function](x), atol=1e-5)
    assert len(checked) == 10


def test_the_eight_kernels_of_gelu_are_in_their_order() -> None:
    rows = [row for row in walk(cost_table()) if row.module.endswith("act") and isinstance(row.step, Kernel)]
    said = [why(row).does for row in rows]
    assert len(said) == 8
    assert all(text.startswith(f"Kernel {place} of 8") for place, text in enumerate(said, 1))
