"""Flags of training that several commands have: how one step is run; and of many, for `--phase train`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from gpt2cost.cli.choices import choice, choices
from gpt2cost.cli.flags import ATTN_OPTION, ImplFlag
from gpt2cost.cli.given import is_given
from gpt2cost.device.dtypes import PRECISIONS
from gpt2cost.prediction.train_settings import TRAIN_RUNTIMES, ZERO_STAGES, clip_norm
from gpt2cost.table.optimizer import OPTIMIZERS
from gpt2cost.table.options import CHECKPOINTING, IMPLEMENTATIONS

PANEL = "With --phase train"
"""These flags have a part of the help to themselves."""


def _sizes(flag: str, help: str) -> Any:
    return typer.Option(flag, help=help, rich_help_panel=PANEL)


def _names(flag: str, names: tuple[str, ...], default: str) -> Any:
    option = choices(flag, names, default)
    option.rich_help_panel = PANEL
    return option


@dataclass(eq=False, repr=False)
class TrainFlags:
    """How a step is run."""

    precision: Annotated[str, choice("--precision", tuple(PRECISIONS))] = "bf16-mixed"
    attn: Annotated[str | None, ATTN_OPTION] = None
    runtime: Annotated[str, choice("--runtime", TRAIN_RUNTIMES)] = "eager"
    compile_inside_ddp: Annotated[
        bool, typer.Option("--compile-inside-ddp", help="DDP(torch.compile(m)): communication overlaps nothing.")
    ] = False
    impl: ImplFlag = None
    optimizer: Annotated[str, choice("--optimizer", OPTIMIZERS)] = "adamw"
    clip_grad_norm: Annotated[
        str, typer.Option("--clip-grad-norm", help="The largest norm of all gradients, or none: not clipped.")
    ] = "1.0"
    dropout: Annotated[
        float | None,
        typer.Option("--dropout", help="Probability, of all three in the config.", show_default="the config's"),
    ] = None
    checkpointing: Annotated[
        str, choice("--checkpointing", CHECKPOINTING, "none, or block: backward runs each block's forward again.")
    ] = "none"
    zero: Annotated[
        str, choice("--zero", ZERO_STAGES, "What GPUs share: 1 moments, 2 gradients too, 3 or fsdp parameters too.")
    ] = "0"


@dataclass(eq=False, repr=False)
class TrainRowFlags:
    """What decides which kernels a micro-step has, beside what decides it of a pass."""

    precision: Annotated[
        str | None, choice("--precision", tuple(PRECISIONS), show_default="bf16-mixed", rich_help_panel=PANEL)
    ] = None
    checkpointing: Annotated[
        str | None, choice("--checkpointing", CHECKPOINTING, show_default="none", rich_help_panel=PANEL)
    ] = None
    dropout: Annotated[
        float | None,
        typer.Option(
            "--dropout", help="Probability, of all three.", show_default="the config's", rich_help_panel=PANEL
        ),
    ] = None


@dataclass(eq=False, repr=False)
class StepListFlags:
    """What a training step on one device takes, and how it is run: lists and ranges."""

    micro_batch: Annotated[str | None, _sizes("--micro-batch", "Sequences of one pass on one GPU: 1-64*2.")] = None
    grad_accum: Annotated[str | None, _sizes("--grad-accum", "Passes of a step, on each GPU.")] = None
    precision: Annotated[str | None, _names("--precision", tuple(PRECISIONS), "bf16-mixed")] = None
    optimizer: Annotated[str | None, _names("--optimizer", OPTIMIZERS, "adamw")] = None
    checkpointing: Annotated[str | None, _names("--checkpointing", CHECKPOINTING, "none")] = None
    clip_grad_norm: Annotated[
        str | None,
        typer.Option("--clip-grad-norm", help="A number or none.", show_default="1.0", rich_help_panel=PANEL),
    ] = None
    dropout: Annotated[
        float | None,
        typer.Option(
            "--dropout", help="Probability, of all three.", show_default="the config's", rich_help_panel=PANEL
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """The flags that are given, as `make_train_grid` takes them."""
        flags = {name: value for name, value in dataclasses.asdict(self).items() if is_given(value)}
        if "clip_grad_norm" in flags:
            flags["clip_grad_norm"] = clip_norm(flags["clip_grad_norm"]) or "none"
        return flags


@dataclass(eq=False, repr=False)
class MeasureStepFlags(StepListFlags):
    """The same where it is measured, and whose code is."""

    precision: Annotated[
        str | None, _names("--precision", tuple(PRECISIONS), "fp32, with --device cuda bf16-mixed")
    ] = None
    impl: Annotated[str | None, _names("--impl", IMPLEMENTATIONS, "hf, of nanoGPT's model_args nanogpt")] = None


@dataclass(eq=False, repr=False)
class TrainListFlags(StepListFlags):
    """The same on several GPUs."""

    gpus: Annotated[str | None, _sizes("--gpus", "All GPUs: 1,8, 8-128*2.")] = None
    nodes: Annotated[str | None, _sizes("--nodes", "Machines that they are in.")] = None
    global_batch: Annotated[str | None, _sizes("--global-batch", "Sequences of a step, on all GPUs.")] = None
    global_tokens: Annotated[str | None, _sizes("--global-tokens", "Tokens of a step, on all GPUs.")] = None
    zero: Annotated[str | None, _names("--zero", ZERO_STAGES, "0")] = None
    compile_inside_ddp: Annotated[
        bool, typer.Option("--compile-inside-ddp", help="DDP(torch.compile(m)).", rich_help_panel=PANEL)
    ] = False


NOT_OF_TRAINING = (
    "not of training, which takes --micro-batch, --seq and --precision, and keeps no cache: see --phase train"
)
ONLY_TRAINING = "goes with --phase train alone"
