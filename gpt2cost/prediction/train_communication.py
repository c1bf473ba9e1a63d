"""What GPUs send each other in a step: buckets beside the last backward pass, and what the step waits for.

`DDP(torch.compile(model))` hides nothing, since all gradients appear at the end; else a bucket is summed while the
backward pass goes on. While gradients accumulate nothing is sent (`no_sync`), but for ZeRO's stages 2 and 3, whose
every micro-step scatters its gradients: what its backward pass does not hide of that is waited for. Stages 1 and 2
gather parameters after the optimiser, hidden by nothing. Stage 3, FSDP's FULL_SHARD, gathers parameters twice a
micro-step, block by block and in 16 bit where activations are. It is counted as waited for, as an upper bound: what
MPT-125M loses from one node to 16 is nearer to that than to what no waiting would leave (llm-foundry's table).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt2cost.device.dtypes import Precision
from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.settings import Number
from gpt2cost.prediction.train_settings import Batch, TrainHow
from gpt2cost.prediction.train_step import LEAST_S, StepTimes, Work, train_options
from gpt2cost.table.config import Model
from gpt2cost.table.ddp import Gradient, buckets, gradients
from gpt2cost.timing.collective import all_gather_s, all_reduce_s, reduce_scatter_s
from gpt2cost.timing.overlap import Bucket, exposed_s, ready_times, reduced


@dataclass(frozen=True, eq=False)
class Communication:
    """Seconds of a step's collectives, those of them that hide behind nothing, and the buckets of the last backward
    pass."""

    total_s: Number = 0.0
    exposed_s: Number = 0.0
    buckets: tuple[Bucket, ...] = ()


SILENT = Communication()
"""Of one GPU."""


def communicate(
    model: Model, hw: Hardware, train: TrainHow, batch: Batch, work: Work, times: StepTimes
) -> Communication:
    """The communication of a step whose passes take `times` where nothing is waited for."""
    if hw.interconnect is None or not work.backward.rows or not np.any(np.asarray(batch.gpus) > 1):
        return SILENT
    interconnect, per_node = hw.interconnect, batch.gpus // batch.nodes
    backward_s = times.last_backward_s
    rows, values = work.backward.rows, work.backward.symbols
    wanted = gradients(rows, train_options(model, train, hw), model.tie_word_embeddings, values)

    def gathered_s(size_bytes: Any) -> Any:
        return all_gather_s(interconnect, size_bytes, per_node, batch.nodes)

    def scattered_s(size_bytes: Any) -> Any:
        return reduce_scatter_s(interconnect, size_bytes, per_node, batch.nodes)

    if train.zero == 3:
        units = _units(wanted, model.n_layer, train.numbers)
        sent_s = batch.grad_accum * sum(2 * gathered_s(size) + scattered_s(size) for size in units)
        return Communication(sent_s, sent_s)
    ready_s = _ready(work, wanted, backward_s, train.compile_inside_ddp)

    def summed_s(size_bytes: Any) -> Any:
        return all_reduce_s(interconnect, size_bytes, per_node, batch.nodes)

    sizes = [gradient.size_bytes for gradient in wanted]
    sum_s = scattered_s if train.zero else summed_s
    buckets = tuple(reduced(sizes, ready_s, sum_s))
    sent_s = sum(sum_s(bucket.size_bytes) for bucket in buckets)
    waited_s = exposed_s(buckets, backward_s)
    if not train.zero:
        return Communication(sent_s, waited_s, buckets)
    gather_s = gathered_s(float(model.parameters * train.numbers.w_bytes))
    total_s, accum = sent_s, batch.grad_accum
    if train.zero >= 2:  # in every micro-step
        total_s = total_s + (accum - 1) * sent_s
        waited_s = waited_s + (accum - 1) * np.maximum(sent_s - backward_s, 0.0)
    return Communication(total_s + gather_s, waited_s + gather_s, buckets)


def _units(wanted: Sequence[Gradient], layers: int, numbers: Precision) -> list[float]:
    """Bytes of what FSDP gathers at once: each block's parameters, and those that are in none."""
    scale = numbers.a_bytes / numbers.w_bytes
    in_blocks = scale * sum(gradient.size_bytes for gradient in wanted if ".h." in gradient.name)
    return [in_blocks / layers] * layers + [scale * sum(gradient.size_bytes for gradient in wanted) - in_blocks]


def _ready(work: Work, wanted: Any, backward_s: Number, all_at_the_end: bool) -> list[Number]:
    """When each gradient is complete by the clock: as far into the backward pass as the device's seconds are."""
    backward = work.backward
    if all_at_the_end:
        return [backward_s for _ in wanted]
    clock = backward_s / np.maximum(backward.device_s, LEAST_S)
    ready_s = ready_times(backward.rows, backward.launch_s, backward.symbols, wanted)
    last = {places[-1] for places in buckets([gradient.size_bytes for gradient in wanted])}
    return [seconds * clock if place in last else seconds for place, seconds in enumerate(ready_s)]
