"""One optimiser step: its passes, what they take one after the other, and what of the communication is not hidden.

A step is `grad_accum` micro-steps (a forward pass with its loss, and its backward pass), then the clipping of gradients
and the optimiser, in one run through the host queue, which ends with one synchronisation. From the second micro-step
on, gradients are added to those that there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np

from gpt2cost.device.hardware import Hardware, Host
from gpt2cost.device.sdpa import sdpa_kernel
from gpt2cost.prediction.one_pass import (
    KernelCost,
    Pass,
    run_rows,
    seconds_of_bounds,
    symbol_values,
    table_options,
    total,
)
from gpt2cost.prediction.settings import Number
from gpt2cost.prediction.train_settings import Batch, TrainHow
from gpt2cost.table.accumulation import accumulation_rows
from gpt2cost.table.config import Model
from gpt2cost.table.config_file import PDROPS
from gpt2cost.table.ddp import copy_rows
from gpt2cost.table.kernel import Foreach, FusedAttention, Gemm, Kernel, Row
from gpt2cost.table.optimizer import clip_rows, optimizer_rows
from gpt2cost.table.options import COMPILED, Checkpointing, TableOptions
from gpt2cost.table.training import TrainingTable, training_table
from gpt2cost.table.training_fusion import fuse_training
from gpt2cost.timing.kernel import BOUNDS
from gpt2cost.timing.overlap import slowest_of
from gpt2cost.timing.queue import Steps, host, kernel, only_where, pass_times

FIXED_S = 1.5e-3
"""Host seconds of a step beside its kernels: the next batch is copied, the loss is read and printed."""
PARAMETER = 2.5
"""Of an op's cost on the host, what a step costs for each tensor of parameters beside kernels: its gradient is set to
None and later put in its place, and modules, guards and loops look it up. Fitted: 5.2 ms in all at both ends of a
compiled step of 148 tensors on the host of an H100 (Jjschwartz/gollem@9bdf113), less `FIXED_S`."""
AUTOGRAD = 1.6
"""What recording for autograd multiplies the host's cost of a forward pass by, and what an op of the backward pass
costs the host beside one of a forward pass without it (a tiny GPT-2 on a CPU)."""
LEAST_S = 1e-30
"""Less than anything takes, and more than nothing."""
COMPILED_AUTOGRAD = 39 / 14
"""The same of a call into compiled code (pytorch#122029)."""


@dataclass(frozen=True, eq=False)
class Work:
    """The passes of a step on one GPU. `accumulate` adds a micro-step's gradients to those before it; `to_buckets` and
    `from_buckets` copy them where DDP sums them up."""

    forward: Pass
    backward: Pass
    accumulate: Pass
    to_buckets: Pass
    from_buckets: Pass
    clip: Pass
    optimizer: Pass

    def repeated(self, batch: Batch) -> Iterator[tuple[str, Number, Pass]]:
        """Each pass by name, and how often it comes in a step; without those that do not."""
        accum, shared = batch.grad_accum, _several(batch) * 1
        counts = {
            "forward": accum, "backward": accum, "accumulate": accum - 1, "to_buckets": shared, "from_buckets": shared,
            "clip": 1, "optimizer": 1,
        }  # fmt: skip
        for name, count in counts.items():
            own: Pass = getattr(self, name)
            if np.any(np.asarray(count) > 0) and own.rows:
                yield name, count, own

    def over_step(self, of_pass: Callable[[Sequence[KernelCost]], Number], batch: Batch) -> Number:
        """What a pass's kernels have of something, over the whole step."""
        return total(count * of_pass(own.kernels) for _, count, own in self.repeated(batch))

    def summed(self, name: str, batch: Batch) -> Number:
        """One of a kernel's figures over the whole step."""
        return self.over_step(lambda kernels: total(getattr(cost, name) for cost in kernels), batch)

    def product_flops(self, batch: Batch) -> Number:
        """FLOPs of products and of fused attention over the whole step."""

        def of_pass(kernels: Sequence[KernelCost]) -> Number:
            return total(cost.flops for cost in kernels if isinstance(cost.kernel.shape, Gemm | FusedAttention))

        return self.over_step(of_pass, batch)

    def seconds_of_bounds(self, batch: Batch) -> dict[str, Number]:
        """What seconds of the step's kernels shrink with, by name."""
        parts = [(count, seconds_of_bounds(own.kernels)) for _, count, own in self.repeated(batch)]
        return {name: total(count * seconds[name] for count, seconds in parts) for name in BOUNDS}

    @property
    def fixed_s(self) -> float:
        """Host seconds of a step beside its kernels: `FIXED_S`, and `PARAMETER` of each tensor."""
        own = self.optimizer
        shapes = [row.step.shape for row in own.rows if isinstance(row.step, Kernel)]
        listed = {one.name: one for shape in shapes if isinstance(shape, Foreach) for one in shape.parameters}
        tensors: int = sum(one.count.evaluate(own.symbols) for one in listed.values())
        return FIXED_S + PARAMETER * own.host.op_s * tensors

    def host_s(self, batch: Batch) -> Number:
        """Seconds of the host to issue the step."""
        return self.fixed_s + sum(count * own.times.host_s for _, count, own in self.repeated(batch))

    def device_s(self, batch: Batch) -> Number:
        """Busy seconds of the device: as `Pass.device_s`, the same to the last digit at a point of a grid."""
        return sum(count * own.device_s for _, count, own in self.repeated(batch))


@dataclass(frozen=True, eq=False)
class StepTimes:
    """Seconds of a step by the clock, and of its parts as the device comes to their end.

    The parts sum to `step_s` less what the host takes before the first kernel and after the last one. `backward_s` is
    with what adds gradients and copies them into buckets; `last_backward_s`: of the last micro-step. `exposed_s`: what
    is waited for, and the copies out of buckets after it.
    """

    step_s: Number
    forward_s: Number
    backward_s: Number
    last_backward_s: Number
    exposed_s: Number
    clip_s: Number
    optimizer_s: Number


# ---------------------------------------------------------------------------------------------- passes


def train_options(model: Model, train: TrainHow, hw: Hardware | None = None) -> TableOptions:
    """What selects the kernels of a micro-step.

    A CPU's fused attention drops nothing out: where attention does, torch runs its products and softmax one by one.
    """
    dropout = tuple(name.removesuffix("_pdrop") for name in PDROPS if getattr(model, name) > 0)
    options = table_options(model, train.how, hw)
    if hw is not None and hw.vendor == "cpu" and options.attn == "sdpa" and "attn" in dropout:
        options = replace(options, attn="eager")
    has_flash = hw is None or sdpa_kernel(hw, train.how.dtype, model.head_dim, masked=False) != "efficient"
    return replace(
        options, train=True, dropout=dropout, tied=model.tie_word_embeddings, has_flash=has_flash,
        autocast=train.numbers.autocast,
    )  # fmt: skip


@lru_cache(maxsize=128)
def train_rows(options: TableOptions, checkpointing: Checkpointing, runtime: str, a_bytes: int) -> TrainingTable:
    """The rows of a micro-step as `runtime` launches them; `a_bytes`: of an activation's element."""
    table = training_table(options, checkpointing)
    return fuse_training(table, a_bytes) if runtime in COMPILED else table


@lru_cache(maxsize=128)
def added_rows(options: TableOptions, checkpointing: Checkpointing) -> tuple[Row, ...]:
    """What a micro-step after the first one launches beyond its table, compiled or not."""
    return accumulation_rows(training_table(options, checkpointing))


def step_work(model: Model, hw: Hardware, train: TrainHow, batch: Batch) -> Work:
    """Evaluate the training table and the machine model for the passes of one step."""
    how, precision = train.how, train.precision
    values = symbol_values(model, precision, batch.sizes)
    hw = hw.under_load
    recording = replace(hw, host=with_autograd(hw.host))

    def run(rows: tuple[Row, ...], device: Hardware, runtime: str) -> Pass:
        return run_rows(rows, values, device, how.dtype, runtime)

    options = train_options(model, train, hw)
    accumulates, shares = np.any(np.asarray(batch.grad_accum) > 1), np.any(_several(batch)) and train.zero == 0
    rows = rows_of_step(options, train, model.tie_word_embeddings, accumulates=accumulates, shares=shares)
    return Work(
        forward=run(rows["forward"], recording, how.runtime),
        backward=run(rows["backward"], recording, how.runtime),
        accumulate=run(rows["accumulate"], hw, "eager"),
        to_buckets=run(rows["to_buckets"], hw, "eager"),
        from_buckets=run(rows["from_buckets"], hw, "eager"),
        clip=run(rows["clip"], hw, "eager"),
        optimizer=_part(run(rows["optimizer"], hw, "eager"), batch.gpus if train.zero else 1),
    )


def rows_of_step(
    options: TableOptions, train: TrainHow, tied: bool, *, accumulates: Any = True, shares: Any = True
) -> dict[str, tuple[Row, ...]]:
    """The rows of each pass of `Work`. `accumulates`: there are several micro-steps; `shares`: there are several GPUs,
    which sum up their gradients in buckets."""
    scaler, clips = train.precision == "fp16-mixed", train.clip_grad_norm is not None
    table = train_rows(options, train.checkpointing, train.how.runtime, train.numbers.a_bytes)
    into, out = copy_rows(options, tied) if shares else ((), ())
    return {
        "forward": table.forward,
        "backward": table.backward,
        "accumulate": added_rows(options, train.checkpointing) if accumulates else (),
        "to_buckets": into,
        "from_buckets": out,
        "clip": clip_rows(options, tied, scaler) if clips else (),
        "optimizer": optimizer_rows(train.optimizer, options, tied, scaler=scaler, clips=clips),
    }


def _part(own: Pass, parts: Number) -> Pass:
    """A pass of which each of several GPUs does an equal part, as the optimiser's under ZeRO: the formulas of its rows
    are those of the whole."""
    if np.ndim(parts) == 0 and parts == 1:
        return own

    def part(cost: KernelCost) -> KernelCost:
        counted = {name: -(-getattr(cost, name) // parts) for name in ("flops", "read_bytes", "write_bytes")}
        return replace(cost, **counted, device_s=cost.device_s / parts, terms=cost.terms.scaled(1.0 / parts))

    launch_s = tuple(seconds / parts for seconds in own.launch_s)
    times = pass_times(own.rows, launch_s, own.symbols, own.host, own.runtime)
    return replace(own, launch_s=launch_s, kernels=tuple(map(part, own.kernels)), times=times)


def validation_s(model: Model, hw: Hardware, train: TrainHow, batch: Batch) -> float:
    """Seconds of one batch of validation: a forward pass with its loss, without gradients and dropout."""
    kept = replace(model, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    options = train_options(kept, train, hw)
    table = train_rows(options, train.checkpointing, train.how.runtime, train.numbers.a_bytes)
    values = symbol_values(model, train.precision, batch.sizes)
    own = run_rows(table.forward, values, hw.under_load, train.how.dtype, train.how.runtime)
    return float(own.times.latency_s)


def with_autograd(own: Host) -> Host:
    """The host where autograd records what is run."""
    if own.synchronous:
        return own
    slower = {name: AUTOGRAD * getattr(own, name) for name in ("op_s", "module_s", "view_s", "call_s")}
    return replace(own, **slower, graph_replay_s=COMPILED_AUTOGRAD * own.graph_replay_s)


# ---------------------------------------------------------------------------------------------- time


def step_times(
    work: Work, batch: Batch, exposed_s: Number = 0.0, device: Number = 1.0, slower: Number = 1.0
) -> StepTimes:
    """Run a step through the queue, if the device took `device` times as long and the host `slower` times.

    `exposed_s`: what the device waits for communication after the last backward pass. Of several GPUs the slowest sets
    the pace.
    """
    device = device * slowest_of(batch.gpus)
    passes = (getattr(work, field.name) for field in fields(Work))
    forward, backward, add, into, out, clip, optimizer = (own.steps_at(device, slower) for own in passes)
    into, waits, out = (only_where(_several(batch), own) for own in (into, kernel(0.0, 0.0, exposed_s), out))
    fixed_s = work.fixed_s * slower
    once = host(fixed_s).then(forward)
    first = once.then(backward)
    again = first.then(forward)
    second = again.then(backward).then(add)
    accumulated = first.then(forward.then(backward).then(add).times(batch.grad_accum - 1))
    copied = accumulated.then(into)
    averaged = copied.then(waits).then(out)
    clipped = averaged.then(clip)
    whole = clipped.then(optimizer)
    forward_1, backward_1, forward_2, backward_2 = map(_device_end, (once, first, again, second))
    accumulated_s, copied_s, averaged_s, clipped_s = map(_device_end, (accumulated, copied, averaged, clipped))
    later = (forward_2 - backward_1) / np.maximum(backward_2 - backward_1, LEAST_S)  # forward's share of them
    forward_s = forward_1 - fixed_s + later * (accumulated_s - backward_1)
    last_s = np.where(np.asarray(batch.grad_accum) > 1, backward_2 - forward_2, backward_1 - forward_1)
    return StepTimes(
        step_s=np.maximum(*whole.end()) + work.forward.host.sync_s * slower,
        forward_s=forward_s,
        backward_s=copied_s - fixed_s - forward_s,
        last_backward_s=last_s + copied_s - accumulated_s,
        exposed_s=averaged_s - copied_s,
        clip_s=clipped_s - averaged_s,
        optimizer_s=_device_end(whole) - clipped_s,
    )


def _several(batch: Batch) -> Any:
    """Whether there are several GPUs: True or False, or an array of them."""
    several = np.asarray(batch.gpus) > 1
    return several if several.ndim else bool(several)


def _device_end(steps: Steps) -> Any:
    """When the device is done, from an idle start; of a CPU, which is its own device, the host."""
    host_end, device_end = steps.end()
    return np.where(device_end > 0, device_end, host_end)
