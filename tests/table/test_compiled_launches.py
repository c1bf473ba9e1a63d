"""Compiled passes beside the schedule that Inductor makes of the real model for a GPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from helpers import values
from oracle import tiny
from oracle_inductor import Launched, launches

from gpt2cost.table.config import load_model
from gpt2cost.table.fusion import fuse
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import Kernel, walk
from gpt2cost.table.options import TableOptions

CONFIG = tiny(n_layer=3, n_embd=64, n_head=4)
WITHOUT = {"use_cache": False}
PADDED = {"padded": True}
CASES: list[tuple[str, tuple[int, int, int], dict[str, Any]]] = [
    *(("sdpa", point, {}) for point in ((2, 40, 0), (1, 1, 16), (2, 5, 19))),
    *(("sdpa", point, PADDED) for point in ((2, 40, 0), (1, 1, 16))),
    *(("sdpa", (2, 16, 0), how) for how in (WITHOUT, {**WITHOUT, **PADDED})),
    *(("eager", point, {}) for point in ((1, 40, 0), (2, 1, 16), (2, 5, 19))),
    *(("eager", (2, 5, 19), how) for how in (PADDED,)),
    *(("eager", (2, 16, 0), how) for how in (WITHOUT, {**WITHOUT, **PADDED})),
    *((attn, (2, 5, 19), {"static": 32}) for attn in ("sdpa", "eager")),
]
"""Attention, sizes, and how it runs. (A prefill of several texts with eager attention is left out: there Inductor
writes new keys and values twice, for the cache and for the products.)"""


Kernels = tuple[list[str], Counter[Any], int]
"""The calls of libraries in order; how many other kernels are of a name or write so many bytes; the masks' bytes."""


def of_inductor(attn: str, point: tuple[int, int, int], how: dict[str, Any]) -> Kernels:
    """Inductor writes a mask for each layer, those of several layers in one kernel if it reads a tensor: the bytes are
    compared. A layer norm writes what it likes, since a sum of residuals is computed again from its addends until there
    are too many; a cache that is written to counts whole; the first position is not written twice.
    """
    found = launches(CONFIG, attn, *point, **how)
    library = ["attention" if "attention" in op else op for each in found if each.is_library for op in each.ops]
    masks = [each for each in found if "where" in each.ops and "exp" not in each.ops]
    rest = [each for each in found if not each.is_library and each not in masks]
    return library, Counter(map(_label, rest)), sum(mask.written for mask in masks)


def _label(kernel: Launched) -> Any:
    if "rsqrt" in kernel.ops:
        return "norm"
    if "index_put_" in kernel.ops:
        return "write"
    return "prepend" if {"cat", "iota"} <= kernel.ops else kernel.written


def of_the_table(attn: str, point: tuple[int, int, int], how: dict[str, Any]) -> Kernels:
    model = load_model(CONFIG)
    named = {name: value for name, value in how.items() if name != "static"}
    cache_type = "static" if "static" in how else "dynamic"
    options = TableOptions(attn=attn, traced=True, cache_type=cache_type, **named)  # type: ignore[arg-type]
    sizes = values(model, "fp16", *point)
    sizes["kv_len"] = how.get("static", sizes["kv_len"])
    rows = [row for row in fuse(tuple(walk(cost_table(options)))) if isinstance(row.step, Kernel) and row.times(sizes)]
    block = [row for row in rows if row.count != 1]
    start = rows.index(block[0])
    unrolled = [*rows[:start], *block * model.n_layer, *rows[start + len(block) :]]
    steps = [row.step for row in unrolled if isinstance(row.step, Kernel)]
    library = ["attention" if step.kind == "attention" else step.op for step in steps if step.shape is not None]
    merged = [step for step in steps if step.shape is None]
    masks = [step for step in merged if step.op.endswith("where")]
    names = {"native_layer_norm": "norm", "index_copy_": "write", "arange+add+cat": "prepend"}
    rest = Counter(
        next((name for op, name in names.items() if step.op.endswith(op)), step.writes.evaluate(sizes))
        for step in merged
        if step not in masks
    )
    return library, rest, sum(step.writes.evaluate(sizes) for step in masks)


@pytest.mark.parametrize(("attn", "point", "how"), CASES, ids=str)
def test_launches_of_a_compiled_pass(
    attn: str, point: tuple[int, int, int], how: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # it keeps its files where it is left early
    assert of_the_table(attn, point, how) == of_inductor(attn, point, how)
