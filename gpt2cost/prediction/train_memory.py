"""What a training step holds at its fullest moment, on one GPU."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.one_pass import buffers_bytes, symbol_values, total
from gpt2cost.prediction.settings import Number
from gpt2cost.prediction.train_settings import Batch, TrainHow
from gpt2cost.prediction.train_step import train_options, train_rows
from gpt2cost.table.config import Model
from gpt2cost.table.optimizer import parameters
from gpt2cost.table.training_memory import StepMemory, step_memory


@dataclass(frozen=True, eq=False)
class TrainMemory:
    """Bytes on one GPU; the parts sum to the total.

    `optimizer_bytes`: AdamW's two moments. `bucket_bytes`: DDP's buffers. `casts_bytes`: weights in 16 bit, of
    autocast. `activations_bytes` and `logits_bytes`: what the passes hold at the peak, which stands at the kernel and
    the tensor that `peak_at` names; the former with a model's buffers and the workspaces of cuBLAS.
    """

    parameters_bytes: Number
    gradients_bytes: Number
    optimizer_bytes: Number
    bucket_bytes: Number
    casts_bytes: Number
    activations_bytes: Number
    logits_bytes: Number
    total_bytes: Number
    capacity_bytes: Number
    fits: Any
    peak_at: Any


PARTS = tuple(field.name for field in fields(StepMemory) if field.name != "peak_at")


WORKSPACE_BYTES, HOPPER_WORKSPACE_BYTES = 2 * 4 * 2**20 + 8 * 16 * 2**10, 32 * 2**20
"""What PyTorch gives each handle of cuBLAS for its work (`parseChosenWorkspaceSize`, ATen/cuda; NVIDIA's advice)."""
HANDLES = 2
"""The thread that runs the forward pass has one, and the one that runs the backward pass."""


def workspaces_bytes(hw: Hardware) -> int:
    """Bytes that the libraries hold for a process that trains."""
    if hw.vendor != "nvidia":
        return 0
    is_hopper = int(hw.compute_capability or 0) == 9
    return HANDLES * (HOPPER_WORKSPACE_BYTES if is_hopper else WORKSPACE_BYTES)


def memory_of(model: Model, hw: Hardware, train: TrainHow, batch: Batch) -> TrainMemory:
    """The memory of a step."""
    accumulates = np.asarray(batch.grad_accum) > 1
    if accumulates.all() or not accumulates.any():
        held = _held(model, hw, train, batch, bool(accumulates.all()))
    else:
        once, more = (_held(model, hw, train, batch, several) for several in (False, True))
        held = {name: np.where(accumulates, more[name], once[name]) for name in once}
    peak_at = held.pop("peak_at")
    buffers = buffers_bytes(model, train.how, symbol_values(model, train.precision, batch.sizes))
    held["activations_bytes"] = held["activations_bytes"] + buffers + workspaces_bytes(hw)
    whole, capacity = total(held.values()), round(hw.memory.usable_bytes)
    return TrainMemory(**held, total_bytes=whole, capacity_bytes=capacity, fits=whole <= capacity, peak_at=peak_at)


def _held(model: Model, hw: Hardware, train: TrainHow, batch: Batch, accumulates: bool) -> dict[str, Any]:
    """The parts of a step's memory, and where its peak stands."""
    options = train_options(model, train, hw)
    table = train_rows(options, train.checkpointing, train.how.runtime, train.numbers.a_bytes)
    values = symbol_values(model, train.precision, batch.sizes)
    memory = step_memory(
        table, parameters(options, model.tie_word_embeddings), values, train.optimizer, accumulates=accumulates,
        gpus=batch.gpus, zero=train.zero,
    )  # fmt: skip
    return {name: getattr(memory, name) for name in (*PARTS, "peak_at")}
