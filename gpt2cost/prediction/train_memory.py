"""What a training step holds at its fullest moment, on one GPU."""

from __future__ import annotations

from collections.abc import Mapping
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
from gpt2cost.table.training import TrainingTable
from gpt2cost.table.training_lifetimes import Step
from gpt2cost.table.training_memory import StepMemory, memory_by_step, step_memory


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
    table, known, how = _asked(model, hw, train, batch)
    if accumulates.all() or not accumulates.any():
        held = vars(step_memory(table, *known, **how, accumulates=bool(accumulates.all())))
    else:
        once, more = (vars(step_memory(table, *known, **how, accumulates=several)) for several in (False, True))
        held = {name: np.where(accumulates, more[name], once[name]) for name in once}
    return _whole(held, model, hw, train, batch)


def memory_by_kernel(
    model: Model, hw: Hardware, train: TrainHow, batch: Batch
) -> list[tuple[Step | None, TrainMemory]]:
    """The memory of a single point at each kernel of a micro-step, and in the optimiser (None): see `memory_by_step`.
    The fullest of them is `memory_of`.
    """
    table, known, how = _asked(model, hw, train, batch)
    moments = memory_by_step(table, *known, **how, accumulates=batch.grad_accum > 1)
    return [(step, _whole(vars(held), model, hw, train, batch)) for step, held in moments]


def _whole(held: Mapping[str, Any], model: Model, hw: Hardware, train: TrainHow, batch: Batch) -> TrainMemory:
    """What a step holds at a moment, and what is there all the time beside it."""
    parts = {name: held[name] for name in PARTS}
    buffers = buffers_bytes(model, train.how, symbol_values(model, train.precision, batch.sizes))
    parts["activations_bytes"] = parts["activations_bytes"] + buffers + workspaces_bytes(hw)
    whole, capacity = total(parts.values()), round(hw.memory.usable_bytes)
    return TrainMemory(
        **parts, total_bytes=whole, capacity_bytes=capacity, fits=whole <= capacity, peak_at=held["peak_at"]
    )


def _asked(
    model: Model, hw: Hardware, train: TrainHow, batch: Batch
) -> tuple[TrainingTable, tuple[Any, ...], dict[str, Any]]:
    """What `step_memory` asks for: the table, what is known by place, and by name."""
    options = train_options(model, train, hw)
    table = train_rows(options, train.checkpointing, train.how.runtime, train.numbers.a_bytes)
    values = symbol_values(model, train.precision, batch.sizes)
    known = (parameters(options, model.tie_word_embeddings), values, train.optimizer)
    return table, known, {"gpus": batch.gpus, "zero": train.zero}
