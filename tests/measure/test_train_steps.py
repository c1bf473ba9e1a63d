"""What `measure --phase train` runs is what the training table lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch")

import nanogpt_model as oracle_model
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2cost.measure.nanogpt import GPT
from gpt2cost.measure.train_records import step_cases
from gpt2cost.measure.train_steps import Trainer
from gpt2cost.table.config import Model
from gpt2cost.table.kernel import Kernel
from gpt2cost.table.optimizer import clip_rows, optimizer_rows
from gpt2cost.table.options import TableOptions


class Ops(TorchDispatchMode):  # type: ignore[misc]
    """The ops that run, by part of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: dict[str, list[str]] = {}
        self.now: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.now.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def mark(self, part: str) -> None:
        self.parts[part], self.now = self.now, []


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def ops_of(run: Any) -> list[str]:
    with Ops() as ops:
        run()
    return ops.now


@pytest.mark.parametrize(("bias", "fused"), [(True, True), (False, True), (True, False)])
def test_the_modular_gpt_runs_what_the_oracle_runs(bias: bool, fused: bool) -> None:
    model = Model(n_layer=2, n_head=2, n_embd=16, n_inner=64, vocab_size=32, n_positions=8, bias=bias,
                  attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)  # fmt: skip
    oracle = oracle_model.GPT(oracle_model.GPTConfig(8, 32, 2, 2, 16, 0.0, bias, fused)).train()
    own, ids = GPT(model, fused).train(), torch.zeros(2, 8, dtype=torch.long)
    assert ops_of(lambda: own(ids, ids).backward()) == ops_of(lambda: oracle(ids, ids)[1].backward())
    sizes = [sorted(tuple(one.shape) for one in module.parameters()) for module in (own, oracle)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-fused"])
def test_clip_and_optimizer_are_the_tables(tiny_config: str, optimizer: Any) -> None:
    (case,), _ = step_cases("cpu", {"model": tiny_config, "optimizer": optimizer, "seq": 4, "dropout": 0.0})
    trainer, ids = Trainer("cpu", case), torch.zeros(1, 4, dtype=torch.long)
    trainer.step(ids, 1)
    with Ops() as ops:
        trainer.step(ids, 1, ops.mark)
    for part, rows in (("clip", clip_rows(TableOptions())), ("optimizer", optimizer_rows(optimizer, TableOptions()))):
        listed = [row.step.op for row in rows if isinstance(row.step, Kernel)]
        large = [op for op in listed if op.startswith(("_foreach", "_fused", "stack", "linalg"))]
        ran = [op for op in ops.parts[part] if op.startswith(("_foreach", "_fused", "stack", "linalg"))]
        counted_on_host = ["_foreach_add_"] * 2 if (part, optimizer) == ("optimizer", "adamw") else []
        assert sorted(ran) == sorted(large + counted_on_host)


def test_the_loss_falls_when_it_may(tiny_config: str) -> None:
    """The step trains: with a rate that is no token one."""
    (case,), _ = step_cases("cpu", {"model": tiny_config, "seq": 16, "dropout": 0.0})
    trainer, ids = Trainer("cpu", case), torch.arange(32).reshape(2, 16)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1e-2
    losses = [trainer.step(ids, 2) for _ in range(8)]
    assert losses[-1] < losses[0]
