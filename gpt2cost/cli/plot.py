"""Draw predictions: PNG, SVG or PDF, by the suffix of -o."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.choices import choice, either
from gpt2cost.cli.extras import load
from gpt2cost.cli.flags import (
    BatchFlag,
    CacheTypeFlag,
    DeviceFlags,
    HowFlags,
    ModelFlags,
    NoCacheFlag,
    PhaseFlag,
    RunFlags,
    SettingFlags,
    takes,
)
from gpt2cost.cli.given import refuse, refuse_changed
from gpt2cost.cli.many import DevicesFlags, GivenSizeFlags, SizeListFlags
from gpt2cost.cli.train_many import NOT_OF_TRAINING, ONLY_TRAINING, PANEL, TrainFlags
from gpt2cost.device.dtypes import PRECISIONS
from gpt2cost.errors import InputError
from gpt2cost.files import check_writable, write_bytes
from gpt2cost.output.messages import print_warnings
from gpt2cost.output.pictures import plot_data, plot_memory, plot_runs, plot_timeline
from gpt2cost.prediction.generate import generate as predict_generate
from gpt2cost.prediction.predict import Prediction, predict_run
from gpt2cost.prediction.settings import LEAST, PHASES, TRAIN, check_how, check_sizes
from gpt2cost.prediction.train import train as predict_train
from gpt2cost.prediction.train_settings import ZERO_STAGES, check_train_how, clip_norm, with_dropout
from gpt2cost.table.optimizer import OPTIMIZERS
from gpt2cost.table.options import CHECKPOINTING, LOGITS

SUFFIXES = (".png", ".svg", ".pdf")
STEPS, TOKENS = "steps", "tokens"
WITH_TOKENS = "With --over tokens"

plot = typer.Typer(name="plot", no_args_is_help=True, add_completion=False, help=__doc__)

PictureFlag = Annotated[Path | None, typer.Option("-o", "--output", help=f"The file: {either(SUFFIXES)}.")]
OnePhaseFlag = Annotated[str, choice("--phase", PHASES[:2])]


@dataclass(eq=False, repr=False)
class SweptFlags(HowFlags, SizeListFlags):
    """Passes along one size, the one that is a list or a range."""

    def sizes(self) -> dict[str, object]:
        """The sizes as `make_grid` takes them."""
        return {name: getattr(self, name) for name in LEAST}


@dataclass(eq=False, repr=False)
class DrawnFlags(SettingFlags):
    """How what is drawn is run. `logits` is None where it is not given."""

    logits: Annotated[
        str | None, choice("--logits", LOGITS, "lm_head on all positions or the last.", show_default="all")
    ] = None
    no_use_cache: NoCacheFlag = False
    cache_type: CacheTypeFlag = "dynamic"

    def settings(self) -> dict[str, Any]:
        """All that is given, as the API's functions take it."""
        given = {name: value for name, value in vars(self).items() if name != "no_use_cache"}
        if self.logits is None:
            del given["logits"]
        return {**given, "use_cache": not self.no_use_cache}


@dataclass(eq=False, repr=False)
class TextFlags:
    """What is generated. None where it is not given."""

    prompt: Annotated[
        int | None,
        typer.Option("--prompt", help="Tokens of each prompt.", show_default="128", rich_help_panel=WITH_TOKENS),
    ] = None
    new_tokens: Annotated[
        int | None,
        typer.Option(
            "--new-tokens", help="Tokens to generate for each.", show_default="128", rich_help_panel=WITH_TOKENS
        ),
    ] = None


def _number(flag: str, help: str) -> Any:
    return typer.Option(flag, help=help, show_default="1", rich_help_panel=PANEL)


@dataclass(eq=False, repr=False)
class StepFlags:
    """A training step on one GPU of several. None where it is not given."""

    micro_batch: Annotated[int | None, _number("--micro-batch", "Sequences of one pass on one GPU.")] = None
    grad_accum: Annotated[int | None, _number("--grad-accum", "Passes of a step, on each GPU.")] = None
    gpus: Annotated[int | None, _number("--gpus", "All GPUs, on all nodes.")] = None
    nodes: Annotated[int | None, _number("--nodes", "Machines that the GPUs are in.")] = None
    precision: Annotated[
        str | None, choice("--precision", tuple(PRECISIONS), show_default="bf16-mixed", rich_help_panel=PANEL)
    ] = None
    optimizer: Annotated[str | None, choice("--optimizer", OPTIMIZERS, show_default="adamw", rich_help_panel=PANEL)] = (
        None
    )
    checkpointing: Annotated[
        str | None, choice("--checkpointing", CHECKPOINTING, show_default="none", rich_help_panel=PANEL)
    ] = None
    zero: Annotated[str | None, choice("--zero", ZERO_STAGES, show_default="0", rich_help_panel=PANEL)] = None


@dataclass(eq=False, repr=False)
class StepListFlags:
    """The sizes of training steps, of which one is a list or a range."""

    micro_batch: Annotated[
        str | None, typer.Option("--micro-batch", help="Sequences of one pass on one GPU: 1-64*2.", show_default="1")
    ] = None
    seq: Annotated[
        str | None, typer.Option("--seq", "--seq-len", help="Tokens of a sequence.", show_default="n_positions")
    ] = None
    grad_accum: Annotated[
        str | None, typer.Option("--grad-accum", help="Passes of a step, on each GPU.", show_default="1")
    ] = None
    gpus: Annotated[str | None, typer.Option("--gpus", help="All GPUs: 1,8, 8-128*2.", show_default="1")] = None
    nodes: Annotated[
        str | None, typer.Option("--nodes", help="Machines that they are in.", show_default="as many as they need")
    ] = None
    global_batch: Annotated[str | None, typer.Option("--global-batch", help="Sequences of a step, on all GPUs.")] = None


@plot.command()
@takes
def roofline(*, run: RunFlags, phase: PhaseFlag = "both", output: PictureFlag = None) -> None:
    """Kernels on the device's roofs: intensity against the rate that each attains."""
    picture = _Picture(output)
    picture.write(plot_data.roofline(_predicted(run, phase)))


@plot.command()
@takes
def breakdown(
    *,
    model: ModelFlags,
    device: DeviceFlags,
    swept: SweptFlags,
    phase: OnePhaseFlag = "prefill",
    output: PictureFlag = None,
) -> None:
    """Time by kernel kind, stacked, over the size that is swept, such as --batch 1-64*2."""
    picture = _Picture(output)
    loaded, hardware = model.load_model(), device.load_device()
    picture.write(plot_data.breakdown(loaded, hardware, swept.sizes(), phase, **swept.settings()))


@plot.command()
@takes
def curve(
    *,
    model: ModelFlags,
    devices: DevicesFlags,
    swept: SweptFlags,
    phase: OnePhaseFlag = "decode",
    quantity: Annotated[str, choice("--quantity", plot_data.QUANTITIES)] = "latency",
    output: PictureFlag = None,
) -> None:
    """Latency or throughput over the size that is swept, of one device or several, with the range of each."""
    picture = _Picture(output)
    loaded, several = model.load_model(), devices.load_devices()
    picture.write(plot_data.curve(loaded, several, swept.sizes(), phase, quantity, **swept.settings()))


@plot.command()
@takes
def timeline(*, run: RunFlags, phase: OnePhaseFlag = "prefill", output: PictureFlag = None) -> None:
    """The host's queue above the device's stream: the whole pass, and one layer closely."""
    picture = _Picture(output)
    picture.write(plot_timeline.timeline(_predicted(run, phase)))


@plot.command()
@takes
def memory(
    *,
    model: ModelFlags,
    device: DeviceFlags,
    sizes: GivenSizeFlags,
    how: DrawnFlags,
    phase: Annotated[
        str, choice("--phase", (*PHASES[:2], TRAIN), "prefill (the pass of --seq tokens), decode, or train: a step.")
    ] = "prefill",
    over: Annotated[
        str, choice("--over", (STEPS, TOKENS), "steps: the kernels of a pass; tokens: a whole generation.")
    ] = STEPS,
    text: TextFlags,
    step: StepFlags,
    output: PictureFlag = None,
) -> None:
    """Live memory, stacked: weights, KV cache and activations over a pass, generated tokens or a training step."""
    picture = _Picture(output)
    check_choice("phase", phase, (*PHASES[:2], TRAIN))
    check_choice("over", over, (STEPS, TOKENS))
    loaded, hardware = model.load_model(), device.load_device()
    if over == TOKENS or phase != TRAIN:
        refuse(vars(step), ONLY_TRAINING)
    if over == TOKENS:
        if phase == TRAIN:
            raise InputError(f"--over {TOKENS}: a training step generates none; it goes with --over {STEPS} alone")
        if phase != PHASES[0]:
            raise InputError(f"--phase: not with --over {TOKENS}, which takes the prompt and every later token")
        refuse(
            {"seq": sizes.seq, "cache": sizes.cache}, "not with --over tokens, which takes --prompt and --new-tokens"
        )
        refuse({"logits": how.logits}, "not with --over tokens, whose passes have those of the last position")
        prompt, new_tokens = text.prompt, text.new_tokens
        generation = predict_generate(
            loaded, hardware, batch=sizes.or_usual()["batch"], prompt_tokens=128 if prompt is None else prompt,
            new_tokens=128 if new_tokens is None else new_tokens, **how.settings(),
        )  # fmt: skip
        picture.write(plot_memory.memory_over_tokens(generation))
        return
    refuse(vars(text), f"goes with --over {TOKENS} alone")
    if phase == TRAIN:
        refuse({"batch": sizes.batch, "cache": sizes.cache}, NOT_OF_TRAINING)
        refuse_changed(how, NOT_OF_TRAINING, "dtype", "logits", "no_use_cache", "cache_type")
        given = {name: value for name, value in vars(step).items() if value is not None}
        training = predict_train(
            loaded, hardware, seq=sizes.seq, attn=how.attn, runtime=how.runtime, impl=how.impl, **given
        )
        picture.write(plot_memory.memory_of_training(training))
        return
    own = check_sizes(**sizes.or_usual(), use_cache=not how.no_use_cache)
    prediction = predict_run(loaded, hardware, check_how(**how.settings()), own, phase)
    picture.write(plot_memory.memory(prediction))


@plot.command()
@takes
def generate(
    *,
    model: ModelFlags,
    device: DeviceFlags,
    prompt: Annotated[int, typer.Option("--prompt", help="Tokens of each prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option("--new-tokens", help="Tokens to generate for each.")] = 128,
    batch: BatchFlag = 1,
    setting: SettingFlags,
    sample: Annotated[bool, typer.Option("--sample", help="Draw from the 50 likeliest tokens; else greedy.")] = False,
    cache_type: CacheTypeFlag = "dynamic",
    output: PictureFlag = None,
) -> None:
    """Time per token of a generation, with a KV cache and without."""
    picture = _Picture(output)
    loaded, hardware = model.load_model(), device.load_device()
    settings = dataclasses.asdict(setting) | {"sample": sample, "cache_type": cache_type}
    sizes = {"prompt_tokens": prompt, "new_tokens": new_tokens, "batch": batch}
    picture.write(plot_runs.generated(loaded, hardware, **sizes, **settings))


@plot.command()
@takes
def train(
    *, model: ModelFlags, device: DeviceFlags, sizes: StepListFlags, how: TrainFlags, output: PictureFlag = None
) -> None:
    """Where a training step spends its time, over micro-batch, GPUs or another size, and how well that scales."""
    picture = _Picture(output)
    flags = vars(how) | {"clip_grad_norm": clip_norm(how.clip_grad_norm)}
    loaded = with_dropout(model.load_model(), flags.pop("dropout"), how.impl)
    picture.write(plot_runs.step_split(loaded, device.load_device(), check_train_how(**flags), vars(sizes)))


def _predicted(run: RunFlags, phase: str) -> Prediction:
    return predict_run(run.load_model(), run.load_device(), run.how(), run.sizes(), phase)


class _Picture:
    """The picture's file, checked before the work. Raises `InputError`, also where matplotlib is missing."""

    def __init__(self, output: Path | None) -> None:
        if output is None or output.suffix.lower() not in SUFFIXES:
            given = "" if output is None else f", got {output}"
            raise InputError(f"-o is required, and ends in {', '.join(SUFFIXES)}{given}")
        check_writable(output)
        self.path, self.drawing = output, load("gpt2cost.output.pictures.plot", "plot")

    def write(self, data: plot_data.Picture) -> None:
        """Print the warnings of `data`, draw it, and write the file whole or not at all."""
        print_warnings(data.warnings)
        write_bytes([self.drawing.rendered(self.drawing.draw(data), self.path.suffix.lower()[1:])], self.path)
