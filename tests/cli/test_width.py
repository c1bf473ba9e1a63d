"""Tables on a page of 80 columns: none is wider, whatever is asked for."""

from __future__ import annotations

import re

import pytest
from columns import COMMANDS
from helpers import Call

ONE, TWO = "--model gpt2 --gpu a100 --seq 16", "--model gpt2 --gpu a100,h100 --seq 16"
CROSSED = "--set add_cross_attention=true --encoder-len 99"
MORE = (
    f"predict {ONE} --explain", f"predict {ONE} --explain --runtime compile", f"predict {ONE} --all",
    f"predict {ONE} --group layer", f"predict {ONE} --weights nf4 --explain", f"predict {ONE} {CROSSED} --explain",
    "predict --model gpt2-xl --gpu h100 --batch 64 --seq 1000 --explain",
    "predict --model gpt2 --gpu a100-sxm-80gb,rtx-pro-6000-server,m1-max --seq 16",
    f"train {ONE} --all", f"train {ONE} --explain", f"train {ONE} --gpus 8", f"train {ONE} --group module",
    f"sweep {ONE} --batch 1,2,1024", f"sweep {ONE} --kernels --batch 1,2", f"sweep {TWO} --energy",
    f"sweep {TWO} --dtype fp16,fp32 --attn eager,sdpa --runtime eager,compile",
    f"compare {TWO} --energy", f"compare {TWO} --runtime eager,reduce-overhead --attn sdpa,eager",
    f"fit {TWO} --energy", "generate --model gpt2 --gpu a100 --new-tokens 4 --energy",
    "table", "table --per-launch", f"tree {ONE} --kernels --free", f"tree {ONE} --runtime compile --kernels",
    f"tree {ONE} {CROSSED} --kernels", f"tree {ONE} --phase train --kernels", f"tree {ONE} --weights nf4 --kernels",
    f"explain softmax {ONE} --attn eager --runtime compile", f"explain mlp {ONE}", "accuracy",
)  # fmt: skip
"""Beside one command of each kind of rows, flags that add columns or make names longer."""


@pytest.mark.parametrize("command", [*COMMANDS, *MORE])
def test_a_table_fits_a_page_of_80_columns(command: str, gpt2cost: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule is as wide as its table. Prose is wrapped by the terminal."""
    monkeypatch.setenv("COLUMNS", "80")
    result = gpt2cost(*command.split())
    assert result.code == 0, result.err
    rules = re.findall(r"^-+$", result.out, re.MULTILINE)
    assert all(len(rule) <= 80 for rule in rules), f"{max(map(len, rules))} columns"
