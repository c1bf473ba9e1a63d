"""What the modular GPT does: a dispatch trace of `nanogpt_model.GPT` on the meta device. See `oracle.py`."""

from __future__ import annotations

import contextlib
import copy
import functools
from typing import Any

import oracle_train
import torch
from nanogpt_model import GPT, GPTConfig
from oracle import FusedAttention, Launch, Trace, default_dtype
from oracle_memory import MemoryTracker, SecondFront
from torch.utils.checkpoint import checkpoint

from gpt2cost.table.config import Model

ODD: dict[str, dict[str, Any]] = {
    "plain": {},
    "one head": {"n_head": 1, "vocab_size": 50304, "block_size": 3000},
    "odd": {"n_layer": 3, "n_head": 5, "n_embd": 35, "vocab_size": 97},
}
"""Sizes of small models, beside the defaults of `tiny`."""


def tiny(**keys: Any) -> GPTConfig:
    """A small model, with some of its keys set."""
    base = {"block_size": 1024, "vocab_size": 11, "n_layer": 2, "n_head": 3, "n_embd": 24}
    return GPTConfig(**{**base, **keys})


def model_of(config: GPTConfig) -> Model:
    """The model that a `GPTConfig` describes, as the table's symbols take it."""
    return Model(
        n_layer=config.n_layer, n_head=config.n_head, n_embd=config.n_embd, n_inner=4 * config.n_embd,
        vocab_size=config.vocab_size, n_positions=config.block_size,
    )  # fmt: skip


@functools.lru_cache(maxsize=16)
def _built(fields: tuple[tuple[str, Any], ...], dtype: torch.dtype, train: bool) -> GPT:
    with default_dtype(dtype), torch.device("meta"):
        return GPT(GPTConfig(**dict(fields))).train(train)


def build(config: GPTConfig, dtype: torch.dtype, train: bool = False) -> GPT:
    """The model of a config, built once: a trace leaves nothing behind in it."""
    return _built(tuple(vars(config).items()), dtype, train)


class NanoTrace(Trace):
    """A trace in which a list that chooses positions gathers: it reads the rows that it copies."""

    def operands(self, op: str, args: Any, kwargs: Any, out: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        if op != "index":
            return super().operands(op, args, kwargs, out)
        (index,) = [indices for indices in args[1] if indices is not None]
        return [index, out], [out]


def trace(config: GPTConfig, dtype: torch.dtype, batch: int, seq: int, logits: str) -> NanoTrace:
    """The kernels of one pass."""
    model, ids = build(config, dtype), torch.empty((batch, seq), dtype=torch.long, device="meta")
    with torch.no_grad(), FusedAttention(), NanoTrace(model) as record:
        model(ids, every_position=logits == "all")
    return record


def step(
    config: GPTConfig, dtype: torch.dtype, batch: int, seq: int, autocast: torch.dtype | None = None
) -> oracle_train.Step:
    """One micro-step of a model with weights in `dtype`, under autocast to `autocast` where given."""
    ids, targets = (torch.empty((batch, seq), dtype=torch.long, device="meta") for _ in range(2))
    return oracle_train.traced_step(build(config, dtype, train=True), lambda model: model(ids, targets)[1], autocast)


def fake_cuda_forward(
    config: GPTConfig, dtype: torch.dtype, batch: int, seq: int, autocast: torch.dtype | None = None
) -> list[Launch]:
    """The forward's kernels on fake CUDA tensors with torch's own autocast."""
    model = build(config, dtype, train=True)
    return oracle_train.fake_cuda(model, lambda own, ids: own(ids, ids), dtype, batch, seq, autocast)


def trained(
    config: GPTConfig, batch: int, seq: int, autocast: torch.dtype | None, checkpoints: bool, micro_steps: int
) -> tuple[MemoryTracker, list[Launch], list[Launch]]:
    """The last of some micro-steps in float32: what it holds, and its kernels, forward and backward.

    As nanoGPT's loop has it, the caller keeps logits and loss. `checkpoints`: each block by `torch.utils.checkpoint`.
    """
    model = copy.deepcopy(build(config, torch.float32, train=True))
    if checkpoints:  # the second forward runs where the front of a GPU is not at work any more
        for block in model.transformer.h:
            block.forward = functools.partial(
                checkpoint, block.forward, use_reentrant=False,
                context_fn=lambda: (contextlib.nullcontext(), SecondFront(autocast)),
            )  # fmt: skip
    ids, targets = (torch.empty((batch, seq), dtype=torch.long, device="meta") for _ in range(2))
    for _ in range(micro_steps):
        given = [tensor for weight in model.parameters() for tensor in (weight, weight.grad) if tensor is not None]
        with MemoryTracker(ids, targets, *given) as tracker, oracle_train.StepTrace(model) as record:
            with oracle_train.GPUFront(autocast):
                logits, loss = model(ids, targets)
            forward = list(record.launches)
            record.launches.clear()
            loss.backward()
        del logits, loss
    return tracker, forward, record.launches
