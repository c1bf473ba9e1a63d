"""`gpt2cost report`: a page to look at."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from gpt2cost.cli.choices import choice
from gpt2cost.cli.extras import load
from gpt2cost.cli.flags import ModelFlags, StrictFlag, WorkFlags, takes
from gpt2cost.cli.given import heed, refuse_changed
from gpt2cost.cli.many import DevicesFlags
from gpt2cost.device.dtypes import PRECISIONS
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.files import check_writable, write_text
from gpt2cost.output.messages import print_warnings
from gpt2cost.prediction.generate import Generation, generate
from gpt2cost.prediction.predict import predict_run
from gpt2cost.prediction.train import Training, train
from gpt2cost.table.config import Model
from gpt2cost.table.options import CHECKPOINTING

NEW_TOKENS = 128
"""That generate adds unless --new-tokens says otherwise."""
PANEL = "With --train"
"""These flags have a part of the help to themselves."""


@dataclass(eq=False, repr=False)
class TrainPageFlags:
    """A training step beside the passes: of --batch sequences of --seq tokens on each GPU."""

    train: Annotated[
        bool, typer.Option("--train", help="Add a training step, with --batch sequences of --seq tokens per GPU.")
    ] = False
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs of the step.", rich_help_panel=PANEL)] = 1
    grad_accum: Annotated[
        int, typer.Option("--grad-accum", help="Passes of a step, on each GPU.", rich_help_panel=PANEL)
    ] = 1
    precision: Annotated[str, choice("--precision", tuple(PRECISIONS), rich_help_panel=PANEL)] = "bf16-mixed"
    checkpointing: Annotated[str, choice("--checkpointing", CHECKPOINTING, rich_help_panel=PANEL)] = "none"


@takes
def report(
    *,
    model: ModelFlags,
    devices: DevicesFlags,
    work: WorkFlags,
    new_tokens: Annotated[
        int | None,
        typer.Option(
            "--new-tokens", help="Tokens that generate adds to prompts of --seq; 0: none.", show_default="128"
        ),
    ] = None,
    training: TrainPageFlags,
    strict: StrictFlag = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file: .html.")] = None,
) -> None:
    """Write a page to look at: one HTML file that needs no network, with tree, kernels, pictures and reasons.

    Of several devices in --gpu the first is the page's; all stand in its curves and its comparison.
    """
    if output is None or output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"-o is required, and ends in .html{'' if output is None else f', got {output}'}")
    check_writable(output)
    room = load("gpt2cost.output.report.context", "report")
    loaded, (hw, *others) = model.load_model(), devices.load_devices()
    prediction = predict_run(loaded, hw, work.how(), work.sizes(), "both")
    generation, trained = _generation(loaded, hw, work, new_tokens), _training(loaded, hw, work, training)
    warnings = list(prediction.warnings)
    for name, run in (("generate", generation), ("train", trained)):
        warnings += [f"{name}: {text}" for text in (run.warnings if run else ()) if text not in prediction.warnings]
    heed(warnings, strict)
    write_text(room.page(room.Report(prediction, tuple(others), generation, trained, _command())), output)


def _generation(model: Model, hw: Hardware, work: WorkFlags, new_tokens: int | None) -> Generation | None:
    """The text that is generated after the prompt. Where none can be, a warning unless it was asked for."""
    if new_tokens == 0:
        return None
    settings = {name: value for name, value in work.settings().items() if name != "logits"}
    try:
        return generate(
            model, hw, prompt_tokens=work.cache + work.seq, new_tokens=NEW_TOKENS if new_tokens is None else new_tokens,
            batch=work.batch, **settings,
        )  # fmt: skip
    except InputError as error:
        if new_tokens is not None:
            raise
        print_warnings([f"the page is without generate: {error}"])
        return None


def _training(model: Model, hw: Hardware, work: WorkFlags, flags: TrainPageFlags) -> Training | None:
    """The training step, where it was asked for."""
    if not flags.train:
        refuse_changed(flags, "goes with --train alone")
        return None
    return train(
        model, hw, micro_batch=work.batch, seq=work.seq, gpus=flags.gpus, grad_accum=flags.grad_accum,
        precision=flags.precision, checkpointing=flags.checkpointing, attn=work.attn, runtime=work.runtime,
        impl=work.impl,
    )  # fmt: skip


def _command() -> str:
    """The command line that made the page."""
    return shlex.join(["gpt2cost", *sys.argv[1:]])
