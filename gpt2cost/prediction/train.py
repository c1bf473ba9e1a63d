"""Table x model x hardware x batch to a `Training`: one optimiser step, its memory, and the whole run.

Sizes are integers or numpy arrays, which broadcast, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from gpt2cost.checks import MAX_SIZE
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.energy import EnergyBound, energy_bound
from gpt2cost.prediction.one_pass import KernelCost, Pass, as_python, bound_of_times, host_sets_pace
from gpt2cost.prediction.predict import Totals, totals_of
from gpt2cost.prediction.ranges import range_of
from gpt2cost.prediction.search import largest_where
from gpt2cost.prediction.settings import Number, beyond_positions, does_not_fit, one_at_a_time
from gpt2cost.prediction.train_communication import SILENT, Communication, communicate
from gpt2cost.prediction.train_memory import TrainMemory, memory_of
from gpt2cost.prediction.train_settings import (
    Batch,
    RunLength,
    TrainHow,
    check_batch,
    check_run,
    check_train_how,
    check_training,
    with_dropout,
)
from gpt2cost.prediction.train_step import StepTimes, Work, step_times, step_work, validation_s
from gpt2cost.result import Result
from gpt2cost.table.config import Model, load_model
from gpt2cost.timing.overlap import Bucket

MFU_CONVENTION = "nanoGPT: 6N + 12LCT FLOPs per token, N without position embeddings, over the dense peak"
"""Of L layers, C wide, T tokens: as nanoGPT's `estimate_mfu`; recomputation is not counted."""
NO_RUN = RunLength()


@dataclass(frozen=True, eq=False)
class Step:
    """One optimiser step.

    `step_s` is its time by the clock; `forward_s`, `backward_s` (with the additions of gradients), `clip_s`,
    `optimizer_s` and `exposed_communication_s` (what is not hidden behind the backward pass, and the copies out of
    buckets) are parts of it, over all micro-steps. `communication_s`: of all collectives, hidden or not, and of those
    copies. `device_s` and `host_s`: busy seconds of the GPU with kernels, and of the host. `flops`: of all kernels of a
    step on one GPU. `mfu` by `mfu_convention`; `hfu`: FLOPs of the products that run, recomputed ones too, over the
    peak. Rates of tokens are those of all GPUs, and of one.
    """

    step_s: Number
    step_low_s: Number
    step_high_s: Number
    forward_s: Number
    backward_s: Number
    optimizer_s: Number
    clip_s: Number
    communication_s: Number
    exposed_communication_s: Number
    device_s: Number
    host_s: Number
    bound: Any
    tokens_per_s: Number
    tokens_per_s_per_gpu: Number
    flops: Number
    mfu: Number
    mfu_convention: str
    hfu: Number


@dataclass(frozen=True, eq=False)
class Run:
    """A whole run: None where its length was not asked for. `time_s` with its validation passes."""

    tokens_per_step: Number
    steps: int | None
    tokens: Number | None
    time_s: Number | None
    gpu_hours: Number | None
    cost: Number | None


@dataclass(frozen=True, eq=False)
class TrainPhase:
    """A part of a step: its rows are those of one pass, which comes `count` times."""

    phase: str
    count: Number
    pass_: Pass
    training: Training

    @property
    def kernels(self) -> tuple[KernelCost, ...]:
        """The rows that are launched, in order."""
        return self.pass_.kernels

    @property
    def symbols(self) -> Mapping[str, Number]:
        """The values with which the row formulas evaluate to the rows' figures."""
        return self.pass_.symbols

    @cached_property
    def totals(self) -> Totals:
        """One pass, alone from an idle device to a synchronisation; its tokens are those of a micro-step."""
        own, sizes = self.training, self.training.batch.sizes
        tokens = sizes.batch_size * sizes.seq_len
        return totals_of(self.pass_, own.hardware, own.train.how, sizes, tokens)


@dataclass(frozen=True, eq=False, repr=False)
class Training(Result):
    """What `train` returns."""

    shown_by = "train"

    model: Model
    hardware: Hardware
    train: TrainHow
    batch: Batch
    length: RunLength
    work: Work
    step: Step
    memory: TrainMemory
    run: Run
    buckets: tuple[Bucket, ...]
    trust: Any
    trust_from: Any
    warnings: tuple[str, ...]

    @property
    def grid_shape(self) -> tuple[int, ...]:
        return self.batch.shape

    @property
    def valid(self) -> bool:
        """Whether a sequence is within the model's positions."""
        return bool(np.all(self.batch.seq_len <= self.model.n_positions))

    @cached_property
    def phases(self) -> tuple[TrainPhase, ...]:
        """Forward, backward, clip and optimizer, in order; accumulate, where there are several micro-steps."""
        return tuple(TrainPhase(name, count, own, self) for name, count, own in self.work.repeated(self.batch))

    @cached_property
    def max_micro_batch(self) -> int:
        """The largest micro-batch of a single point that fits the memory, all else as it is; 0 if none does."""

        return largest_micro_batch(self.model, self.hardware, self.train, self.batch)

    def energy_bounds(self) -> tuple[EnergyBound, ...]:
        """The energy of a step on all GPUs, and of the run, whose range is as wide as a step's.

        Raises `InputError` for a device without a board power.
        """
        step, run, gpus = self.step, self.run, self.batch.gpus
        bounds = [energy_bound(self.hardware, step.step_high_s, self.batch.global_tokens, gpus, part="step")]
        if run.time_s is not None:
            high_s = run.time_s * step.step_high_s / step.step_s
            bounds.append(energy_bound(self.hardware, high_s, run.tokens, gpus, part="run"))
        return tuple(bounds)


def train(
    model: object,
    gpu: str | Hardware,
    *,
    gpus: int = 1,
    nodes: int = 1,
    micro_batch: int | None = None,
    seq: int | None = None,
    grad_accum: int | None = None,
    global_batch: int | None = None,
    global_tokens: int | str | None = None,
    precision: str = "bf16-mixed",
    attn: str | None = None,
    runtime: str = "eager",
    compile_inside_ddp: bool = False,
    optimizer: str = "adamw",
    clip_grad_norm: float | None = 1.0,
    dropout: float | None = None,
    checkpointing: str = "none",
    zero: int | str = 0,
    impl: str | None = None,
    tokens: float | str | None = None,
    steps: int | None = None,
    eval_every: int | None = None,
    eval_batches: int | None = None,
    price_per_hour: float | None = None,
) -> Training:
    """Predict the training of a GPT-2 model: the time of an optimiser step, its memory, and the whole run.

    `model` and `gpu` as in `predict`. `gpus` are all GPUs, on `nodes` machines. Of `micro_batch` (sequences of one pass
    on one GPU), `grad_accum` (passes of a step, on each GPU), `global_batch` (sequences of a step) and `global_tokens`
    any that determine the rest; without the last two, what is left out is 1. `seq` is the model's positions unless
    given. Tokens may be text: "0.5Mi", "10B". `dropout` sets all three probabilities of the config. `zero` 2 and 3
    (`fsdp`) predict memory and volumes; their time is rough. The run has whole steps of `tokens`, or `steps`; every
    `eval_every` of them `eval_batches` (20) are validated. `price_per_hour` is that of one GPU.

    Raises `InputError` for anything unknown, contradictory or impossible, with what would be right.
    """
    how = check_train_how(
        precision, attn, runtime, optimizer, clip_grad_norm, checkpointing, zero, compile_inside_ddp, impl
    )
    loaded, hw = with_dropout(load_model(model), dropout, impl), load_hardware(gpu)
    given = {
        "micro_batch": micro_batch, "grad_accum": grad_accum, "global_batch": global_batch,
        "global_tokens": global_tokens,
    }  # fmt: skip
    batch = check_batch(given, loaded.n_positions if seq is None else seq, gpus, nodes)
    check_gpus(hw, how, batch)
    length = check_run(
        batch.global_tokens, tokens=tokens, steps=steps, eval_every=eval_every, eval_batches=eval_batches,
        price_per_hour=price_per_hour,
    )  # fmt: skip
    return train_run(loaded, hw, how, batch, length)


def largest_micro_batch(model: Model, hw: Hardware, how: TrainHow, batch: Batch) -> int:
    """See `Training.max_micro_batch`."""

    def fits(sizes: Any) -> Any:
        memory = memory_of(model, hw, how, replace(batch, micro_batch=sizes.astype(float)))
        return np.broadcast_to(memory.fits, sizes.shape)

    return largest_where(fits, 1, MAX_SIZE)


def check_gpus(hw: Hardware, how: TrainHow, batch: Batch) -> None:
    """Raise `InputError` where there are no such GPUs, or one is too few."""
    if how.zero and batch.gpus == 1:
        raise InputError(f"zero: stage {how.zero} shards over several GPUs, and gpus is 1")
    if batch.gpus > 1:
        if hw.interconnect is None:
            raise InputError(f"gpus: {hw.name} has no interconnect in its file, so that gpus must be 1")
        hw.interconnect.check(batch.gpus // batch.nodes, batch.nodes)


def step_seconds(model: Model, hw: Hardware, how: TrainHow, batch: Batch) -> Number:
    """Seconds of a step alone, for settings that have been checked and that the device can run."""
    work = step_work(model, hw, how, batch)
    return _with_communication(model, hw, how, batch, work)[1].step_s


def _with_communication(
    model: Model, hw: Hardware, how: TrainHow, batch: Batch, work: Work
) -> tuple[Communication, StepTimes]:
    """What a step sends, and its times with what it waits for."""
    alone = step_times(work, batch)
    sent = communicate(model, hw, how, batch, work, alone)
    return sent, alone if sent is SILENT else step_times(work, batch, sent.exposed_s)


def train_run(model: Model, hw: Hardware, how: TrainHow, batch: Batch, length: RunLength = NO_RUN) -> Training:
    """`train` for settings that have been checked. Raises `InputError` where the device cannot run them.

    A step's range is that of a pass on the device. It holds 106 of 107 published steps and their parts, but that is no
    estimate for others: they were in view when it was chosen, and clocks under load are fitted to some of them. No
    training step makes a device `measured`.
    """
    how = how.on(model)
    check_training(hw, how, model)
    work = step_work(model, hw, how, batch)
    sent, times = _with_communication(model, hw, how, batch, work)
    host_s, device_s = work.host_s(batch), work.device_s(batch)

    def latency_at(device: float, slower: float) -> Number:
        """A step's seconds by factors on device and host; communication takes the device's."""
        return step_times(work, batch, device * sent.exposed_s, device, slower).step_s

    range_ = range_of(latency_at, hw, how.how, batch.sizes, host_sets_pace(host_s, device_s))
    step = _step(model, hw, how, batch, work, times, (range_.low_s, range_.high_s), sent)
    memory = memory_of(model, hw, how, batch)
    validated_s = (
        length.evaluations * length.eval_batches * validation_s(model, hw, how, batch) if length.evaluations else 0.0
    )
    word = np.where(range_.trust == "measured", "calibrated", range_.trust)
    return Training(
        model, hw, how, batch, length, work, step, memory, _run(length, step, batch, validated_s), sent.buckets,
        as_python(word), as_python(range_.trust_from), tuple(_warnings(model, hw, how, batch, memory)),
    )  # fmt: skip


def _step(
    model: Model, hw: Hardware, how: TrainHow, batch: Batch, work: Work, times: StepTimes,
    span: tuple[Number, Number], sent: Communication,
) -> Step:  # fmt: skip
    host_s, device_s, step_s = work.host_s(batch), work.device_s(batch), times.step_s
    bounds = {**work.seconds_of_bounds(batch), "communication": times.exposed_s}
    peak = hw.compute.peak_flop_per_s[how.numbers.dtype]
    per_gpu = batch.micro_batch * batch.grad_accum * batch.seq_len / step_s
    return Step(
        step_s=as_python(step_s),
        step_low_s=as_python(span[0]),
        step_high_s=as_python(span[1]),
        forward_s=as_python(times.forward_s),
        backward_s=as_python(times.backward_s),
        optimizer_s=as_python(times.optimizer_s),
        clip_s=as_python(times.clip_s),
        communication_s=as_python(sent.total_s + times.exposed_s - sent.exposed_s),
        exposed_communication_s=as_python(times.exposed_s),
        device_s=as_python(device_s),
        host_s=as_python(host_s),
        bound=bound_of_times(bounds, host_s, device_s),
        tokens_per_s=as_python(batch.gpus * per_gpu),
        tokens_per_s_per_gpu=as_python(per_gpu),
        flops=work.summed("flops", batch),
        mfu=as_python(flops_per_token(model, batch.seq_len) * per_gpu / peak),
        mfu_convention=MFU_CONVENTION,
        hfu=as_python(work.product_flops(batch) / (step_s * peak)),
    )


def flops_per_token(model: Model, seq_len: Number) -> Number:
    """Of forward and backward, by `MFU_CONVENTION`."""
    counted = model.parameters - model.n_positions * model.n_embd
    return 6 * counted + 12 * model.n_layer * model.n_embd * seq_len


def _run(length: RunLength, step: Step, batch: Batch, validated_s: float) -> Run:
    tokens, steps = batch.global_tokens, length.steps
    if steps is None:
        return Run(tokens, None, None, None, None, None)
    time_s = as_python(steps * step.step_s + validated_s)
    gpu_hours = batch.gpus * time_s / 3600
    cost = None if length.price_per_hour is None else gpu_hours * length.price_per_hour
    return Run(tokens, steps, steps * tokens, time_s, gpu_hours, cost)


def _warnings(model: Model, hw: Hardware, how: TrainHow, batch: Batch, memory: TrainMemory) -> Iterator[str]:
    yield from model.notes
    yield from one_at_a_time(model, batch.micro_batch)
    yield from beyond_positions(model, "seq:", batch.seq_len)
    if how.zero >= 2:
        yield f"zero {how.zero}: memory and volumes follow the stage; its time is not scored against measurements"
    if not np.all(memory.fits):
        text = does_not_fit(memory.total_bytes, memory.capacity_bytes)
        if not batch.shape:
            largest = largest_micro_batch(model, hw, how, batch)
            text += (
                f"; the largest micro-batch that fits is {largest}" if largest else "; not even a micro-batch of 1 fits"
            )
        yield text
