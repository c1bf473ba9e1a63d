"""`gpt2cost train`: an optimiser step, and the run that is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.choices import choice, either
from gpt2cost.cli.exits import ExitFlags
from gpt2cost.cli.flags import AllFlag, DeviceFlags, ModelFlags, OutputFlags, StrictFlag, takes
from gpt2cost.cli.given import heed
from gpt2cost.cli.many import EnergyFlag, with_energy
from gpt2cost.cli.train_many import TrainFlags
from gpt2cost.output.kernel_rows import EXPLAINED, GROUPS
from gpt2cost.output.train import training_view
from gpt2cost.prediction.energy import check_board_power
from gpt2cost.prediction.train import train as predict_train
from gpt2cost.prediction.train_settings import clip_norm


@dataclass(eq=False, repr=False)
class BatchFlags:
    """What one optimiser step takes."""

    gpus: Annotated[int, typer.Option("--gpus", help="All GPUs, on all nodes.")] = 1
    nodes: Annotated[int, typer.Option("--nodes", help="Machines that the GPUs are in.")] = 1
    micro_batch: Annotated[
        int | None, typer.Option("--micro-batch", help="Sequences of one pass on one GPU.", show_default="1")
    ] = None
    seq: Annotated[
        int | None, typer.Option("--seq", "--seq-len", help="Tokens of a sequence.", show_default="n_positions")
    ] = None
    grad_accum: Annotated[
        int | None,
        typer.Option("--grad-accum", help="Passes whose gradients add up to a step, on each GPU.", show_default="1"),
    ] = None
    global_batch: Annotated[int | None, typer.Option("--global-batch", help="Sequences of a step, on all GPUs.")] = None
    global_tokens: Annotated[
        str | None, typer.Option("--global-tokens", help="Tokens of a step, on all GPUs, such as 524288 or 0.5Mi.")
    ] = None


@dataclass(eq=False, repr=False)
class RunLengthFlags:
    """How long a model is trained."""

    tokens: Annotated[str | None, typer.Option("--tokens", help="Of the whole run, such as 10e9 or 10B.")] = None
    steps: Annotated[int | None, typer.Option("--steps", help="Of the whole run.")] = None
    eval_every: Annotated[int | None, typer.Option("--eval-every", help="Validate every so many steps.")] = None
    eval_batches: Annotated[
        int | None, typer.Option("--eval-batches", help="Micro-batches of a validation.", show_default="20")
    ] = None
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", help="Of one GPU: adds the run's cost.")
    ] = None


@takes
def train(
    *,
    model: ModelFlags,
    device: DeviceFlags,
    batch: BatchFlags,
    how: TrainFlags,
    length: RunLengthFlags,
    group: Annotated[str, choice("--group", GROUPS, f"A row per {either(GROUPS)}.")] = "kernel",
    explain: Annotated[
        bool, typer.Option("--explain", help="Add what bounds the slowest kernels, and what would help the step.")
    ] = False,
    all_: AllFlag = False,
    energy: EnergyFlag = False,
    strict: StrictFlag = False,
    exits: ExitFlags,
    out: OutputFlags,
) -> None:
    """Predict a training step and the whole run: time, tokens/s, MFU, memory, communication and cost."""
    check_choice("group", group, GROUPS)
    sink = out.sink()
    if explain:
        sink.only_in("--explain", *EXPLAINED)
    if all_:
        sink.only_in("--all", "table")
    flags: dict[str, Any] = {**vars(batch), **vars(how), **vars(length)}
    flags["clip_grad_norm"] = clip_norm(how.clip_grad_norm)
    loaded, hardware = model.load_model(), device.load_device()
    if energy:
        check_board_power([hardware])
    training = predict_train(loaded, hardware, **flags)
    heed(training.warnings, strict)
    sink.show(with_energy(training_view(group, explain, all_), energy), training)
    exits.leave(oom=bool(training.memory.fits), positions=training.valid)
