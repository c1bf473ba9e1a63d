"""The questions that texts about GPT-2 raise, and what the tool answers: tests/data/questions.yaml.

107 questions, tables and formulas of five texts that this tool grew from, and one on energy. Each is asked
of the tool as a user would do: by a command, or by a page of docs/. What must be in the answer comes from somewhere
else: from the real model on the meta device (`parameters`, `shape`, `launches`, `config`), from a formula short enough
to check in the head, or from what others have published.

A question has `answers`, or a reason why it is `outside`; `partly` says what is missing. Of an answer,

* `run` is a command, whose text has each line of `says` in it, blanks apart; where it fails, `code` is its exit code;
* `gives` compares values of its JSON with others. `at(...)` is the value at a path, `rows(...)` are a pass's kernels;
* `page` is a page of docs/ that says so.

Braces in `says` are evaluated: `{parameters("gpt2"):,}`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import oracle
import pytest
import torch
import yaml
from helpers import ROOT, Result
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2cost.cli import app
from gpt2cost.files import data_dir
from gpt2cost.table.kernel import short_path

QUESTIONS: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests/data/questions.yaml").read_text("utf-8"))
SIZES = {"B": 8, "S": 512, "n": 12, "d": 64, "H": 768, "F": 3072, "V": 50257, "P": 1024, "L": 12, "a": 2}
"""gpt2 in fp16, 8 x 512 tokens: what formulas are written in. (S: new tokens, d: head_dim, a: bytes of an element)"""

# ---------------------------------------------------------------------------------------------- the real model


@functools.cache
def config(name: str) -> GPT2Config:
    """A preset as transformers reads it."""
    return GPT2Config.from_json_file(str(data_dir("configs") / f"{name}.json"))


@functools.cache
def real(name: str) -> GPT2LMHeadModel:
    """A preset's model without data."""
    with torch.device("meta"):
        return GPT2LMHeadModel(config(name))


def parameters(name: str, module: str = "") -> int:
    return sum(one.numel() for one in real(name).get_submodule(module).parameters())


@functools.cache
def traced(attn: str, batch: int, seq: int, cache: int = 0, **how: Any) -> oracle.Trace:
    """A pass of gpt2 in fp16, as PyTorch dispatches it."""
    return oracle.trace(config("gpt2"), attn, torch.float16, batch, seq, cache, **how)


def launches(attn: str, batch: int, seq: int, cache: int = 0, module: str = "", **how: Any) -> list[oracle.Launch]:
    """Those in a module, of all layers: `h.attn`."""
    own = module if module in ("", "lm_head") else f"transformer.{module}"
    found = (
        (re.sub(r"\.h\.\d+", ".h", launch.module), launch) for launch in traced(attn, batch, seq, cache, **how).launches
    )
    return [launch for path, launch in found if f"{path}.".startswith(f"{own}." if own else "")]


def moved(attn: str, batch: int, seq: int, cache: int = 0, module: str = "") -> int:
    """Bytes read and written in a module."""
    return sum(launch.read_bytes + launch.write_bytes for launch in launches(attn, batch, seq, cache, module))


def names(name: str) -> list[str]:
    """The modules of a model, of its blocks the first."""
    return [module for module, _ in real(name).named_modules() if not re.search(r"\.h\.[1-9]", module)]


@functools.cache
def shapes(batch: int, seq: int) -> dict[str, list[int]]:
    """What each module of gpt2 returns first, by forward hooks."""
    model, made = real("gpt2"), {}

    def hook(name: str) -> Any:
        def record(module: Any, inputs: Any, output: Any) -> None:
            made[name] = list(oracle.tensors(output)[0].shape)

        return record

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names("gpt2")]
    with torch.no_grad():
        model(torch.empty((batch, seq), dtype=torch.long, device="meta"))
    for handle in handles:
        handle.remove()
    return made


def shape(module: str, batch: int, seq: int) -> list[int] | None:
    """What a module of gpt2 returns; None where it is never called."""
    return shapes(batch, seq).get(module)


def source(module: str) -> str:
    """The code of a module's forward."""
    return inspect.getsource(type(real("gpt2").get_submodule(module)).forward)


def extra(attn: str = "eager", **flags: Any) -> Counter[tuple[str, int]]:
    """What a forward pass of 2 x 16 tokens launches beyond a plain one: ops and their bytes."""
    model, ids = (
        oracle.build(config("gpt2"), attn, torch.float16),
        torch.empty((2, 16), dtype=torch.long, device="meta"),
    )
    given = {name: ids if value == "ids" else value for name, value in flags.items()}
    with torch.no_grad(), oracle.FusedAttention(), oracle.Trace(model) as record:
        model(ids, **given)

    def counted(found: Iterable[oracle.Launch]) -> Counter[tuple[str, int]]:
        return Counter((launch.op, launch.read_bytes + launch.write_bytes) for launch in found)

    return counted(record.launches) - counted(launches(attn, 2, 16))


# ---------------------------------------------------------------------------------------------- the tool


@functools.cache
def asked(command: str) -> Result:
    """A command's answer, at 120 columns."""
    out, err = io.StringIO(), io.StringIO()
    printed = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "120", "NO_COLOR": "1"}),
        contextlib.chdir(ROOT),
        printed[0],
        printed[1],
    ):
        code = app.run(shlex.split(command))
    return Result(code, out.getvalue(), err.getvalue())


@functools.cache
def document(command: str) -> Any:
    answer = asked(f"{command} --format json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def at(found: Any, path: str) -> Any:
    """The value at `phases/prefill/totals/flops`: of a list that whose path, name or phase it is."""
    for key in path.split("/"):
        if isinstance(found, list):
            found = next(one for one in found if key in [one.get(name) for name in ("path", "name", "phase", "model")])
        else:
            found = found[key]
    return found


def rows(found: Any, phase: str, prefix: str = "") -> list[Any]:
    """The kernels of a pass whose name begins so."""
    kernels = at(found, f"phases/{phase}/kernels")
    return [row for row in kernels if short_path(row["name"]).startswith(prefix)]


def value(expression: str, found: Any = None) -> Any:
    """What an expression of questions.yaml is."""
    asks = (config, extra, launches, moved, names, parameters, real, shape, source, len, list, round, set, sum, type)
    known = {**SIZES, **{one.__name__: one for one in asks}}
    known |= {"at": functools.partial(at, found), "rows": functools.partial(rows, found)}
    return eval(expression, {"__builtins__": {}, **known})


def filled(text: str) -> str:
    """A text with its braces evaluated."""

    def one(brace: re.Match[str]) -> str:
        expression, _, form = brace[1].partition(":")
        return format(value(expression), form)

    return plain(re.sub(r"\{(.+?)\}", one, text))


def plain(text: str) -> str:
    """Without Markdown's backticks, and with one blank between words."""
    return " ".join(text.replace("`", "").split())


def check(answer: dict[str, Any]) -> None:
    text = (ROOT / answer["page"]).read_text("utf-8") if "page" in answer else ""
    if "run" in answer and "says" in answer:
        result = asked(answer["run"])
        assert result.code == answer.get("code", 0), result.err
        text = result.out + result.err
    for line in answer.get("says", ()):
        assert filled(line) in plain(text), filled(line)
    for left, right in answer.get("gives", {}).items():
        found, wanted = value(left, document(answer["run"])), value(right)
        assert found == (pytest.approx(wanted, rel=1e-12) if isinstance(wanted, float) else wanted), left


# ---------------------------------------------------------------------------------------------- the questions


@pytest.mark.parametrize(
    "question", [pytest.param(question, id=f"{question['n']}: {question['ask'][:50]}") for question in QUESTIONS]
)
def test_it_answers(question: dict[str, Any]) -> None:
    for answer in question.get("answers", ()):
        check(answer)


def test_every_question_has_an_answer_or_a_reason() -> None:
    assert [question["n"] for question in QUESTIONS] == list(range(1, 109))
    for question in QUESTIONS:
        assert question.keys() <= {"n", "ask", "answers", "partly", "outside"}
        assert bool(question.get("answers")) != bool(question.get("outside")), question["n"]
        for answer in question.get("answers", ()):
            assert answer.keys() <= {"run", "code", "says", "gives", "page"}
            assert answer.get("says") or answer.get("gives"), question["n"]
            assert "page" not in answer or Path(answer["page"]).suffix == ".md"


def test_how_many_are_answered() -> None:
    """Of the first 107 a release before had answered 39, 39 partly, and 29 not at all."""
    outside = [question["n"] for question in QUESTIONS if "outside" in question]
    partly = [question["n"] for question in QUESTIONS if "partly" in question]
    assert (len(QUESTIONS) - len(outside) - len(partly), len(partly), len(outside)) == (106, 0, 2)
