"""What a training step holds at its fullest moment, on one GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.one_pass import total
from gpt2cost.prediction.settings import Number
from gpt2cost.prediction.train_settings import Batch, TrainHow
from gpt2cost.prediction.train_step import Work
from gpt2cost.table.config import Model


@dataclass(frozen=True, eq=False)
class TrainMemory:
    """Bytes on one GPU; the parts sum to the total.

    `optimizer_bytes`: AdamW's two moments. `bucket_bytes`: DDP's buffers. `casts_bytes`: weights in 16 bit, of
    autocast. `activations_bytes`: what backward needs of forward, without `logits_bytes`. `peak_at`: the tensor that
    the peak stands at.
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


def memory_of(model: Model, hw: Hardware, train: TrainHow, batch: Batch, work: Work) -> TrainMemory:
    """The memory of a step."""
    weights = model.parameters * train.numbers.w_bytes
    shared = batch.gpus > 1
    parts: dict[str, Number] = {
        "parameters_bytes": _part(weights, batch, train.zero >= 3),
        "gradients_bytes": _part(weights, batch, train.zero >= 2),
        "optimizer_bytes": _part(2 * weights, batch, train.zero >= 1),
        "bucket_bytes": weights * shared,
        "casts_bytes": model.parameters * train.numbers.a_bytes * train.numbers.autocast,
        "activations_bytes": total(cost.write_bytes for cost in work.forward.kernels),
        "logits_bytes": 0,
    }
    whole, capacity = total(parts.values()), round(hw.memory.usable_bytes)
    return TrainMemory(**parts, total_bytes=whole, capacity_bytes=capacity, fits=whole <= capacity, peak_at="logits")


def _part(size: int, batch: Batch, sharded: bool) -> Number:
    """What a GPU keeps of something: an equal part where it is sharded, rounded up."""
    return -(-size // batch.gpus) if sharded else size
