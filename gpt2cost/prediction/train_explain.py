"""What bounds a training step and what would help: its slowest kernels, and the step run otherwise or elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.explain import LEAST_GAIN, KernelExplanation, Sensitivity, explained, padded
from gpt2cost.prediction.one_pass import as_python
from gpt2cost.prediction.train import Training, TrainPhase, check_gpus, step_seconds
from gpt2cost.prediction.train_settings import Batch, TrainHow, check_training, one_dropout, with_dropout
from gpt2cost.table.config import Model, change_model
from gpt2cost.timing.kernel import improvements

LEAST_SHARE = 0.01
"""Of a pass's kernel time: a kernel that takes less is not explained."""


@dataclass(frozen=True)
class _Run:
    """One step on a device."""

    model: Model
    hw: Hardware
    how: TrainHow
    batch: Batch

    def step_s(self) -> float | None:
        """Its seconds; None where the device cannot follow."""
        try:
            check_gpus(self.hw, self.how, self.batch)
            check_training(self.hw, self.how, self.model)
            return float(as_python(step_seconds(self.model, self.hw, self.how, self.batch)))
        except InputError:
            return None


def slowest(training: Training, phase: TrainPhase, top: int = 5) -> tuple[KernelExplanation, ...]:
    """Where the time of the slowest kernels of one pass of a phase goes, of those that matter to it."""
    kernels = sorted(phase.kernels, key=lambda cost: -float(cost.device_s))[:top]
    least_s = LEAST_SHARE * float(phase.totals.device_s)
    return tuple(
        explained(training.hardware, training.train.how, cost, phase.symbols)
        for cost in kernels
        if cost.device_s >= least_s
    )


def what_would_help(training: Training) -> tuple[Sensitivity, ...]:
    """The step if one thing were otherwise: settings that help, the largest first, then the device."""
    own = _Run(training.model, training.hardware, training.train, training.batch)
    now_s = float(training.step.step_s)
    software = [
        Sensitivity("software", change, seconds, now_s / seconds)
        for change, run in _software(own)
        if (seconds := run.step_s()) is not None and now_s / seconds >= LEAST_GAIN
    ]
    hardware = [
        Sensitivity("hardware", change, seconds, now_s / seconds)
        for change, hw in improvements(training.hardware)
        if (seconds := replace(own, hw=hw).step_s()) is not None
    ]
    return (*sorted(software, key=lambda change: -change.speedup), *hardware)


def _software(own: _Run) -> Iterator[tuple[str, _Run]]:
    """What could be set otherwise, each with the step that it makes."""
    how, batch = own.how, own.batch
    narrower = {"fp32": ("tf32", "bf16-mixed"), "tf32": ("bf16-mixed",)}
    hows = [(f"precision {name}", replace(how, precision=name)) for name in narrower.get(how.precision, ())]
    hows = [(change, replace(other, how=replace(other.how, dtype=other.numbers.dtype))) for change, other in hows]
    if how.how.attn == "eager":
        hows.append(("attn sdpa", replace(how, how=replace(how.how, attn="sdpa"))))
    if how.how.runtime == "eager":
        hows.append(("runtime compile", replace(how, how=replace(how.how, runtime="compile"))))
    if how.optimizer == "adamw":
        hows.append(("optimizer adamw-fused", replace(how, optimizer="adamw-fused")))
    if how.checkpointing != "none":
        hows.append(("checkpointing none", replace(how, checkpointing="none")))
    if how.compile_inside_ddp and batch.gpus > 1:
        hows.append(("torch.compile(DDP(model))", replace(how, compile_inside_ddp=False)))
    yield from ((change, replace(own, how=other)) for change, other in hows)
    if one_dropout(own.model) != 0:
        yield "no dropout", replace(own, model=with_dropout(replace(own.model, changes=()), 0.0))
    vocabulary = padded(own.model.vocab_size, 64)
    if vocabulary != own.model.vocab_size:
        yield (
            f"vocab_size padded to {vocabulary}",
            replace(own, model=change_model(own.model, {"vocab_size": vocabulary})),
        )
