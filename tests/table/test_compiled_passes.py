"""Compiled passes of other heads, and with an encoder's states, beside what Inductor makes of the real model."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
import transformers
from helpers import values
from oracle import tiny
from torch._inductor.utils import run_and_get_code

from gpt2cost.table.config import load_model
from gpt2cost.table.fusion import fuse
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.heads import CLASSES
from gpt2cost.table.kernel import Kernel, walk
from gpt2cost.table.options import Head, TableOptions

LIBRARY = {"addmm", "mm", "attention"}
CASES: dict[str, tuple[Head, int, dict[str, Any]]] = {
    "classifier of one sequence": ("sequence-classification", 0, {}),
    "classifier": ("sequence-classification", 0, {"pad_token_id": 3}),
    "tokens": ("token-classification", 0, {}),
    "two heads": ("double-heads", 0, {}),
    "encoder": ("lm", 8, {}),
}


def calls_of_inductor(head: Head, encoder: int, batch: int, keys: dict[str, Any]) -> list[str]:
    """What its code calls in order: products and attention by name, the rest by the ops that it merges."""
    config = tiny(n_layer=2, num_labels=5, add_cross_attention=encoder > 0, **keys)
    model = getattr(transformers, CLASSES[head])(config).eval()
    passed = {"encoder_hidden_states": torch.zeros(batch, encoder, config.n_embd)} if encoder else {}
    torch._dynamo.reset()
    with torch.no_grad(), torch._inductor.config.patch(force_disable_caches=True):
        compiled = torch.compile(model, dynamic=False)
        _, (code,) = run_and_get_code(
            lambda: compiled(torch.zeros(batch, 16, dtype=torch.long), use_cache=False, **passed)
        )
    found = re.findall(r"extern_kernels\.(\w+)\(|aten\.(\w+)\.default\(|^ *(cpp_fused_\w+)\(", code, re.M)
    calls = [next(filter(None, groups)) for groups in found]
    return ["attention" if "attention" in call and "fused" not in call else call for call in calls]


def calls_of_the_table(head: Head, encoder: int, batch: int, keys: dict[str, Any]) -> list[str]:
    model = load_model(tiny(n_layer=2, num_labels=5, add_cross_attention=encoder > 0, **keys))
    options = TableOptions(
        use_cache=False, traced=True, head=head, encoder=encoder > 0, has_pad_token="pad_token_id" in keys
    )
    sizes = {**values(model, "fp32", batch, 16, 0), "encoder_len": encoder}
    rows = [row for row in fuse(tuple(walk(cost_table(options)))) if isinstance(row.step, Kernel)]
    rows = [row for row in rows if row.step.when.evaluate(sizes)]
    block = [row for row in rows if row.count != 1]
    start = rows.index(block[0])
    unrolled = [*rows[:start], *block * model.n_layer, *rows[start + len(block) :]]
    return ["attention" if row.step.kind == "attention" else row.step.op for row in unrolled]


@pytest.mark.parametrize("case", CASES)
def test_what_runs_from_the_first_attention_on(case: str) -> None:
    """The same products in the same order, and as many merged kernels between two of them. A search for a last token is
    a kernel of its own on a GPU: it has fewer rows than what it chooses; in C++ both share a function. The table makes
    the float mask in each layer, as on a GPU (see `test_compiled_launches`), and C++ once: left out here."""
    head, encoder, keys = CASES[case]
    batch = 2 if keys or head != "sequence-classification" else 1
    real, own = (calls(head, encoder, batch, keys) for calls in (calls_of_inductor, calls_of_the_table))
    real, own = (listed[listed.index("attention") :] for listed in (real, own))
    own = [call for call in own if "where" not in call]
    if case == "classifier":
        assert own[-2:] == ["ne+_to_copy+arange+mul+argmax", "arange+index"]
        own[-2:] = ["+".join(own[-2:])]
    assert [call if call in LIBRARY else "merged" for call in own] == [
        call if call in LIBRARY else "merged" for call in real
    ]
    if head != "lm" and own[-1] not in LIBRARY:
        merged = re.findall("_to_copy|arange|argmax|index|mul|ne", real[-1])
        assert set(own[-1].split("+")) == set(merged)
