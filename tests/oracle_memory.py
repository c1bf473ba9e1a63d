"""What a real training step holds, accumulates and runs again: micro-steps of `GPT2LMHeadModel` on the meta device.

A storage counts from the op that makes it until nothing refers to it any more: no Python variable, no saved tensor of
autograd's, no gradient on its way. Weights and the input ids do not count.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from typing import Any

import torch
from oracle import SYNCS, Launch, tensors
from oracle_train import GPUFront, StepTrace, build, inputs
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config


class MemoryTracker(TorchDispatchMode):
    """The bytes that are alive, and the most of them; `op_at_peak`: the op after which they were alive."""

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.given = {tensor.untyped_storage()._cdata for tensor in given}
        self.live: dict[int, int] = {}
        self.bytes = self.peak_bytes = 0
        self.op_at_peak = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op = func.overloadpacket.__name__
        if op in SYNCS:
            return True  # sequences are not packed
        out = func(*args, **(kwargs or {}))
        for tensor in tensors(out):
            storage = tensor.untyped_storage()
            if tensor.device.type == "meta" and storage._cdata not in self.live.keys() | self.given:
                self.live[storage._cdata] = storage.nbytes()
                self.bytes += storage.nbytes()
                weakref.finalize(storage, self.free, storage._cdata)
        if self.bytes > self.peak_bytes:
            self.peak_bytes, self.op_at_peak = self.bytes, op
        return out

    def free(self, key: int) -> None:
        self.bytes -= self.live.pop(key)


class SecondFront(GPUFront):
    """A GPU's front for a second forward, with which its casts of weights end, as autocast's do."""

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self.cast_weights.clear()


def trained(
    config: GPT2Config, attn: str, dtype: torch.dtype, autocast: torch.dtype | None, checkpoints: bool,
    cls: str = "GPT2LMHeadModel",
) -> Any:  # fmt: skip
    """A model of its own, with each block checkpointed as transformers does it."""
    model = copy.deepcopy(build(config, attn, dtype, cls))
    if checkpoints:  # the second forward runs where the front of a GPU is not at work any more
        front = {"context_fn": lambda: (contextlib.nullcontext(), SecondFront(autocast))}
        model.gradient_checkpointing_enable({"use_reentrant": False, **front})
    return model


def memory(
    config: GPT2Config,
    attn: str,
    dtype: torch.dtype,
    batch: int,
    seq: int,
    autocast: torch.dtype | None = None,
    checkpoints: bool = False,
    micro_steps: int = 1,
    encoder: int = 0,
    cls: str = "GPT2LMHeadModel",
) -> MemoryTracker:
    """What the last of some micro-steps holds beside the weights, and beside the gradients that were there before."""
    model = trained(config, attn, dtype, autocast, checkpoints, cls)
    passed = inputs(config, dtype, batch, seq, encoder, cls)
    for _ in range(micro_steps):
        given = [tensor for weight in model.parameters() for tensor in (weight, weight.grad) if tensor is not None]
        with MemoryTracker(*passed.values(), *given) as tracker:
            with GPUFront(autocast):
                outputs = model(**passed)
            outputs.loss.backward()
        del outputs
    return tracker


def kept(
    config: GPT2Config,
    attn: str,
    dtype: torch.dtype,
    batch: int,
    seq: int,
    autocast: torch.dtype | None = None,
    checkpoints: bool = False,
    encoder: int = 0,
) -> int:
    """The bytes that a loss holds beside itself: what its backward pass needs, the token ids among it.

    So are an encoder's states, but where autocast makes others of them that are needed in their place.
    """
    model = trained(config, attn, dtype, autocast, checkpoints)
    passed = inputs(config, dtype, batch, seq, encoder)
    needed = [passed["input_ids"]]
    if encoder and (checkpoints or not autocast):
        needed.append(passed["encoder_hidden_states"])
    with MemoryTracker(*passed.values(), *model.parameters()) as tracker:
        with GPUFront(autocast):
            loss = model(**passed).loss
        return tracker.bytes + sum(tensor.nbytes for tensor in needed) - loss.nbytes


def launches(
    config: GPT2Config,
    attn: str,
    dtype: torch.dtype,
    batch: int,
    seq: int,
    autocast: torch.dtype | None = None,
    checkpoints: bool = False,
    micro_steps: int = 1,
    encoder: int = 0,
) -> tuple[list[Launch], list[Launch]]:
    """The kernels of the last of some micro-steps: of its forward, and of its backward."""
    model = trained(config, attn, dtype, autocast, checkpoints)
    passed = inputs(config, dtype, batch, seq, encoder)
    for _ in range(micro_steps):
        with StepTrace(model) as record:
            with GPUFront(autocast):
                outputs = model(**passed)
            forward = list(record.launches)
            record.launches.clear()
            outputs.loss.backward()
    return forward, record.launches
