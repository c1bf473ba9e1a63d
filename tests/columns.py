"""docs/columns.md: the columns of every command's rows, from the rows and the lists of fields themselves."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable
from functools import cache
from typing import Any

from helpers import ROOT

from gpt2cost.cli import app
from gpt2cost.output import accuracy, train_validation, validation
from gpt2cost.output.columns import MEANINGS, type_of
from gpt2cost.output.record import SCHEMA_VERSION

PAGE = ROOT / "docs" / "columns.md"
ONE, TWO = "--model gpt2 --gpu a100", "--model gpt2 --gpu a100,h100"
PRICED = "--price-per-hour a100=1.3,h100=2.5"
ATTENTION = "kernel attention --gpu a100 --heads 12 --head-dim 64 --new-tokens 8 --cached-tokens 8"
COMMANDS = (
    f"predict {ONE}", f"predict {ONE} --group module", f"predict {TWO} {PRICED}", f"predict {ONE} --energy",
    f"train {ONE}", f"train {ONE} --steps 10 --energy", f"sweep {ONE}",
    f"sweep {ONE} --kernels", f"sweep {ONE} --phase train", f"compare {TWO}", f"compare {ONE} --phases",
    f"compare {TWO} --phase train", f"fit {ONE}", f"fit {TWO} {PRICED}", f"fit {TWO} --max-tpot 50ms {PRICED}",
    f"generate {ONE} --new-tokens 4", f"generate {TWO} --new-tokens 4 {PRICED}", "table --model gpt2 --per-launch",
    "table --model gpt2 --phase train", f"tree {ONE}", "tree --model gpt2 --parameters", f"explain c_attn {ONE}",
    "kernel gemm --gpu a100 --m 64 --n 64 --k 64", f"{ATTENTION} --reuse-bytes 0",
    "kernel layer_norm --gpu a100 --rows 8 --columns 768", "kernel copy --gpu a100 --elements 4096",
    "models", "hardware list", "hardware show a100", "accuracy --gpu a100", "accuracy --gpu a100 --leave-one-out",
    "accuracy --gpu a100 --trust",
)  # fmt: skip
"""Commands that need no file; of one that has several kinds of rows, one each."""


def keys(*fields: Any) -> list[str]:
    return [field.key for field in fields]


@cache
def columns() -> dict[str, list[str]]:
    """What is asked for -> the columns of its rows, in order."""
    found = {command: _header(command) for command in COMMANDS}
    run = keys(*accuracy.RUN)
    return {
        **found,
        "accuracy --measurements FOLDER": keys(*accuracy.KERNEL),
        "measure": ["gpu", *keys(*validation.PASS)],
        "measure --kernels": ["gpu", *run, *validation.OP],
        "measure --phase train": ["gpu", *keys(*train_validation.STEP)],
        "validate": keys(*accuracy.SCORED),
        "validate --kernels": ["gpu", *run, *keys(*validation.KERNEL)],
        "validate --phase train": keys(*train_validation.SCORED),
    }


def _header(command: str) -> list[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert app.run([*command.split(), "--format", "csv"]) == 0, command
    return next(csv.reader(io.StringIO(out.getvalue())))


def every(lists: Iterable[list[str]]) -> list[str]:
    return sorted({name for names in lists for name in names})


def page() -> str:
    """The text of the page."""
    found = columns()
    known = "".join(f"| `{name}` | {type_of(name)} | {MEANINGS.get(name, '')} |\n" for name in every(found.values()))
    lists = "".join(f"`gpt2cost {command}`:\n{', '.join(names)}.\n\n" for command, names in found.items())
    return HEAD + known + "\n## The columns of each command\n\n" + lists.rstrip() + "\n"


HEAD = f"""# Columns

Rows of `--format csv`, `jsonl`, `markdown`, `parquet` and `arrow`, and the rows in a JSON document, have these columns.
A column of one name means the same in every command, and has the same type. Values are SI; the name ends in the unit:
`_s` seconds, `_bytes` bytes, `_bytes_per_s`, `_flop_per_s`, `_us` microseconds; counts, shares and ratios have none.
Every row has every input, so that the rows of several runs can stand in one file. In CSV, nothing is an empty cell,
truth values are `true` and `false`, and a list is joined with spaces. Names of changed models and devices,
`gpt2[n_layer=24;n_embd=1536]`, have no comma in them.

Parquet and Arrow files have the types below: `text`, `bool`, `int64` and `float64`; nothing is null, and a list is the
text that CSV has. They need `pip install "gpt2cost[arrow]"`; whole numbers beyond int64 are refused.

`seq_len` and `cache_len` are those of the run, as they were asked for; what a phase of it has is `phase_seq_len`,
`phase_cache_len` and `kv_len`: the decode step after `--seq 512` has 1, 512 and 513.

A JSON document says its `schema_version`, now {SCHEMA_VERSION}, which rises where a key changes its name or its
meaning; new keys do not raise it. CSV and JSON lines do not carry it: `gpt2cost --version` does.

This page is written from the lists of fields (`python tests/regenerate.py`), and a test holds it to them.

## What they mean

| column | type | meaning |
| --- | --- | --- |
"""
