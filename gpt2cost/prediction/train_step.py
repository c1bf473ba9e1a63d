"""One optimiser step: its passes, what they take one after the other, and what of the communication is not hidden.

A step is `grad_accum` micro-steps (a forward pass with its loss, and its backward pass), then the clipping of gradients
and the optimiser, in one run through the host queue, which ends with one synchronisation. From the second micro-step
on, gradients are added to those that there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from gpt2cost.device.hardware import Hardware, Host
from gpt2cost.prediction.one_pass import KernelCost, Pass, run_rows, symbol_values, table_options, total
from gpt2cost.prediction.settings import Number
from gpt2cost.prediction.train_settings import PDROPS, Batch, TrainHow
from gpt2cost.table.config import Model
from gpt2cost.table.fusion import fuse
from gpt2cost.table.kernel import Row
from gpt2cost.table.optimizer import clip_rows, optimizer_rows
from gpt2cost.table.options import COMPILED, Checkpointing, TableOptions
from gpt2cost.table.training import TrainingTable, training_table
from gpt2cost.timing.queue import Steps, host, kernel

FIXED_S = 1.5e-3
"""Host seconds of a step beside its kernels: the next batch is copied, gradients are set to None, the loss is read
(1 to 2 ms in published steps of one GPU)."""
AUTOGRAD = 1.6
"""What recording for autograd multiplies the host's cost of a forward pass by, and what an op of the backward pass
costs the host beside one of a forward pass without it (a tiny GPT-2 on a CPU)."""
COMPILED_AUTOGRAD = 39 / 14
"""The same of a call into compiled code (pytorch#122029)."""


@dataclass(frozen=True, eq=False)
class Work:
    """The passes of a step on one GPU. `accumulate` adds a micro-step's gradients to those before it."""

    forward: Pass
    backward: Pass
    accumulate: Pass
    clip: Pass
    optimizer: Pass

    def repeated(self, batch: Batch) -> Iterator[tuple[str, Number, Pass]]:
        """Each pass by name, and how often it comes in a step; without those that do not."""
        accum = batch.grad_accum
        counts = {"forward": accum, "backward": accum, "accumulate": accum - 1, "clip": 1, "optimizer": 1}
        for name, count in counts.items():
            own: Pass = getattr(self, name)
            if np.any(np.asarray(count) > 0) and own.rows:
                yield name, count, own

    def kernels(self, batch: Batch) -> list[KernelCost]:
        """The rows of all passes, each with its count in the whole step. `device_s` and the like stay a pass's."""
        return [
            replace(cost, count=count * cost.count)
            for _, count, own in self.repeated(batch)
            for cost in own.kernels
        ]  # fmt: skip

    def summed(self, name: str, batch: Batch) -> Number:
        """One of a kernel's figures over the whole step."""
        return total(
            count * total(getattr(cost, name) for cost in own.kernels) for _, count, own in self.repeated(batch)
        )

    def host_s(self, batch: Batch) -> Number:
        """Seconds of the host to issue the step."""
        return FIXED_S + total(count * own.times.host_s for _, count, own in self.repeated(batch))


@dataclass(frozen=True, eq=False)
class StepTimes:
    """Seconds of a step by the clock, and of its parts as the device comes to their end.

    The parts sum to `step_s` less what the host takes before the first kernel and after the last one.
    """

    step_s: Number
    forward_s: Number
    backward_s: Number
    exposed_s: Number
    clip_s: Number
    optimizer_s: Number


# ---------------------------------------------------------------------------------------------- passes


def train_options(model: Model, train: TrainHow, hw: Hardware | None = None) -> TableOptions:
    """What selects the kernels of a micro-step."""
    dropout = tuple(name.removesuffix("_pdrop") for name in PDROPS if getattr(model, name) > 0)
    options = table_options(model, train.how, hw)
    return replace(options, train=True, dropout=dropout, autocast=train.numbers.autocast)


@lru_cache(maxsize=128)
def train_rows(options: TableOptions, checkpointing: Checkpointing, runtime: str) -> TrainingTable:
    """The rows of the forward and of the backward pass as `runtime` launches them."""
    table = training_table(options, checkpointing)
    if runtime not in COMPILED:
        return table
    forward, backward = (tuple(fuse(rows)) if rows else rows for rows in (table.forward, table.backward))
    return TrainingTable(forward, backward)


def step_work(model: Model, hw: Hardware, train: TrainHow, batch: Batch) -> Work:
    """Evaluate the training table and the machine model for the passes of one step."""
    how, precision = train.how, train.precision
    values = symbol_values(model, precision, batch.sizes)
    recording = replace(hw, host=with_autograd(hw.host))

    def run(rows: tuple[Row, ...], device: Hardware, runtime: str) -> Pass:
        return run_rows(rows, values, device, how.dtype, runtime)

    options, clips = train_options(model, train, hw), train.clip_grad_norm is not None
    table = train_rows(options, train.checkpointing, how.runtime)
    tied, scaler = model.tie_word_embeddings, precision == "fp16-mixed"
    clip = clip_rows(options, tied, scaler) if clips else ()
    optimizer = optimizer_rows(train.optimizer, options, tied, scaler=scaler, clips=clips)
    return Work(
        forward=run(table.forward, recording, how.runtime),
        backward=run(table.backward, recording, how.runtime),
        accumulate=run((), hw, "eager"),
        clip=run(clip, hw, "eager"),
        optimizer=run(optimizer, hw, "eager"),
    )


def with_autograd(own: Host) -> Host:
    """The host where autograd records what is run."""
    if own.synchronous:
        return own
    slower = {name: AUTOGRAD * getattr(own, name) for name in ("op_s", "module_s", "view_s", "call_s")}
    return replace(own, **slower, graph_replay_s=COMPILED_AUTOGRAD * own.graph_replay_s)


# ---------------------------------------------------------------------------------------------- time


def step_times(
    work: Work, batch: Batch, exposed_s: Number = 0.0, device: float = 1.0, slower: Number = 1.0
) -> StepTimes:
    """Run a step through the queue, if the device took `device` times as long and the host `slower` times.

    `exposed_s`: what the device waits for communication after the last backward pass.
    """
    passes = (work.forward, work.backward, work.accumulate, work.clip, work.optimizer)
    forward, backward, add, clip, optimizer = (own.steps_at(device, slower) for own in passes)
    host_costs = work.forward.host
    start = host(FIXED_S * slower)
    first = start.then(forward)
    once = first.then(backward)
    again = once.then(forward)
    twice = again.then(backward).then(add)
    micro = once.then(forward.then(backward).then(add).times(batch.grad_accum - 1))
    averaged = micro.then(kernel(0.0, 0.0, exposed_s))
    clipped = averaged.then(clip)
    whole = clipped.then(optimizer)
    forward_1, backward_1, forward_2, backward_2 = map(_device_end, (first, once, again, twice))
    later_s = _device_end(micro) - backward_1
    share = (forward_2 - backward_1) / np.maximum(backward_2 - backward_1, 1e-30)
    forward_s = forward_1 - FIXED_S * slower + share * later_s
    return StepTimes(
        step_s=np.maximum(*whole.end()) + host_costs.sync_s * slower,
        forward_s=forward_s,
        backward_s=_device_end(micro) - FIXED_S * slower - forward_s,
        exposed_s=_device_end(averaged) - _device_end(micro),
        clip_s=_device_end(clipped) - _device_end(averaged),
        optimizer_s=_device_end(whole) - _device_end(clipped),
    )


def _device_end(steps: Steps) -> Any:
    """When the device is done, from an idle start; of a CPU, which is its own device, the host."""
    host_end, device_end = steps.end()
    return np.where(device_end > 0, device_end, host_end)
