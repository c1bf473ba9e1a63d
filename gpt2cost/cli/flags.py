"""The command line's flags, each defined once, and the groups that commands share.

A group is a dataclass of annotated fields; `takes` gives a command the flags of the groups among its parameters.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from gpt2cost.cli.choices import choice, config_keys, device_names, either, model_names, size
from gpt2cost.cli.extras import load
from gpt2cost.cli.given import flag_of, hardware_changes, model_changes, named_as_given, required, with_stdin
from gpt2cost.device.catalog import change_hardware, load_hardware
from gpt2cost.device.dtypes import DTYPES
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.output.formats import COLUMNAR, EVERY_FORMAT
from gpt2cost.output.sink import Sink
from gpt2cost.prediction.settings import PHASES, How, Sizes, check_how, check_sizes
from gpt2cost.table.config import Model, change_model, load_model
from gpt2cost.table.options import (
    ATTENTION_IMPLEMENTATIONS,
    CACHE_TYPES,
    HEADS,
    IMPLEMENTATIONS,
    LOGITS,
    RUNTIMES,
    WEIGHTS,
)

# ---------------------------------------------------------------------------------------------- groups of flags

Command = Callable[..., None]


def takes(command: Command, more: Iterable[inspect.Parameter] = ()) -> Command:
    """`command` with each parameter that is a dataclass of flags replaced by the flags, as typer reads them.

    `more` are the flags that a parameter such as `**shape` stands for.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _parameters_of(groups[name])
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            parameters += more
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    @wraps(command)
    def call(**given: Any) -> None:
        flags = with_stdin(given)
        made = {
            name: group(**{field.name: flags.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        command(**made, **flags)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _parameters_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [keyword(field.name, hints[field.name], field.default) for field in dataclasses.fields(group)]


def keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    """A flag as a parameter of a command."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


# ---------------------------------------------------------------------------------------------- single flags

GpuFlag = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        "--hardware",
        help="A device (gpt2cost hardware list) or a YAML file; - is stdin.",
        autocompletion=device_names,
    ),
]
EncoderLenFlag = Annotated[
    int | None, typer.Option("--encoder-len", help="States of an encoder that cross-attention sees.", show_default="0")
]
HeadFlag = Annotated[
    str | None,
    choice("--head", HEADS, f"What the hidden states go through: {either(HEADS)}.", show_default="of its architecture"),
]
WeightsFlag = Annotated[
    str | None,
    choice(
        "--weights", WEIGHTS, f"Linear layers' weights: in the dtype, or bitsandbytes' {either(WEIGHTS[1:])}.",
        show_default="of the config, else dtype",
    ),
]  # fmt: skip
SetFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="What if: config keys of the model, such as n_layer=24,n_embd=2048.", autocompletion=config_keys
    ),
]
HwSetFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--hw-set", help="What if: a constant of the device, such as memory.bandwidth='2 TB/s'; may be repeated."
    ),
]
HostFactorFlag = Annotated[
    float | None,
    typer.Option(
        "--host-factor",
        help="What if: the machine's CPU takes this many times as long as the device's file assumes of its host.",
        show_default="1",
    ),
]
BatchFlag = Annotated[int, size("batch", "Sequences in the batch.")]
DtypeFlag = Annotated[str, choice("--dtype", DTYPES)]
OWN_DTYPE, OWN_ATTN = "of the config, else fp16", "of the config, else sdpa"
"""The defaults of --dtype and --attn, as a help text shows them."""
ATTN_OPTION = choice("--attn", ATTENTION_IMPLEMENTATIONS, show_default=OWN_ATTN)
PHASE_HELP = "prefill (the pass of --seq tokens), decode (the next token) or both"
PhaseFlag = Annotated[str, choice("--phase", PHASES, f"{PHASE_HELP}.")]
LOGITS_OPTION = choice("--logits", LOGITS, "lm_head on all positions or the last.")
CACHE_TYPE_OPTION = choice(
    "--cache-type", CACHE_TYPES, "dynamic (concatenated each step) or static (of the final length, and masked)."
)
CacheTypeFlag = Annotated[str, CACHE_TYPE_OPTION]
IMPL_OPTION = choice(
    "--impl", IMPLEMENTATIONS, "Whose code runs the model: hf, HuggingFace's, or nanogpt, a modular GPT with no cache.",
    show_default="hf, of nanoGPT's model_args nanogpt",
)  # fmt: skip
ImplFlag = Annotated[str | None, IMPL_OPTION]
NoCacheFlag = Annotated[bool, typer.Option("--no-use-cache", help="Run without a KV cache; --cache must be 0.")]
AllFlag = Annotated[
    bool, typer.Option("--all", help="Name every kernel in the text, those of one source line and short ones too.")
]
StrictFlag = Annotated[bool, typer.Option("--strict", help="Make a warning an error (exit 2).")]
FormatFlag = Annotated[str | None, choice("--format", EVERY_FORMAT, show_default="as -o ends, else table")]
OutputFlag = Annotated[
    Path | None, typer.Option("-o", "--output", help="Write to this file, with .gz compressed; - is stdout.")
]

# ---------------------------------------------------------------------------------------------- shared groups


@dataclass(eq=False, repr=False)
class ModelFlags:
    """One model."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="A preset (gpt2cost models), a folder, a config.json (- is stdin), nanoGPT's model_args, or a hub id.",
            autocompletion=model_names,
        ),
    ] = None
    set_: SetFlag = None
    head: HeadFlag = None
    encoder_len: EncoderLenFlag = None
    weights: WeightsFlag = None

    def load_model(self, default: str | None = None) -> Model:
        """The model of --model, and of the flags that change it. Raises `InputError` where there is none."""
        loaded = load_model(required("--model", default if self.model is None else self.model))
        changes = model_changes(self.set_, self.head, self.encoder_len, self.weights)
        for key in ("head", "weights"):
            if getattr(loaded, key) == changes.get(key):
                del changes[key]
        with named_as_given(encoder_len=self.encoder_len, weights=self.weights):
            return change_model(loaded, changes)


@dataclass(eq=False, repr=False)
class ChipFlags:
    """One device, without the machine around it."""

    gpu: GpuFlag = None
    hw_set: HwSetFlag = None

    def load_device(self) -> Hardware:
        """The device of --gpu and --hw-set. Raises `InputError` where there is none."""
        return change_hardware(load_hardware(required("--gpu", self.gpu)), self.changes())

    def changes(self) -> dict[str, Any]:
        """What the flags change of the device."""
        return hardware_changes(self.hw_set)

    def load_any(self) -> Hardware | None:
        """The same where --gpu is given. Raises `InputError` for changes of no device."""
        if self.gpu is not None:
            return self.load_device()
        for name, value in vars(self).items():
            if value is not None:
                raise InputError(f"{flag_of(name)}: goes with --gpu")
        return None


@dataclass(eq=False, repr=False)
class DeviceFlags(ChipFlags):
    """One device, and the machine around it."""

    host_factor: HostFactorFlag = None

    def changes(self) -> dict[str, Any]:
        """What the flags change of the device and its machine."""
        return hardware_changes(self.hw_set, self.host_factor)


@dataclass(eq=False, repr=False)
class SizeFlags:
    """The sizes of one pass."""

    batch: BatchFlag = 1
    seq: Annotated[int, size("seq", "New tokens per sequence in this forward pass.")] = 128
    cache: Annotated[int, size("cache", "Tokens per sequence already in the KV cache.")] = 0


@dataclass(eq=False, repr=False)
class SettingFlags:
    """What decides which kernels run."""

    dtype: Annotated[str | None, choice("--dtype", DTYPES, show_default=OWN_DTYPE)] = None
    attn: Annotated[str | None, ATTN_OPTION] = None
    runtime: Annotated[str, choice("--runtime", RUNTIMES)] = "eager"
    impl: ImplFlag = None


@dataclass(eq=False, repr=False)
class LogitsFlags:
    """Which logits there are, and which KV cache."""

    logits: Annotated[str, LOGITS_OPTION] = "all"
    no_use_cache: NoCacheFlag = False
    cache_type: CacheTypeFlag = "dynamic"


@dataclass(eq=False, repr=False)
class HowFlags(LogitsFlags, SettingFlags):  # the fields of the last base come first
    """How passes are run."""

    def settings(self) -> dict[str, Any]:
        """All of it as the API's functions take it."""
        names = ("dtype", "attn", "runtime", "impl", "logits", "cache_type")
        return {**{name: getattr(self, name) for name in names}, "use_cache": not self.no_use_cache}

    def how(self) -> How:
        """The settings. Raises `InputError` for what is wrong."""
        return check_how(**self.settings())


@dataclass(eq=False, repr=False)
class WorkFlags(HowFlags, SizeFlags):
    """One pass, whatever it runs on."""

    def sizes(self) -> Sizes:
        """The sizes. Raises `InputError` for what is wrong."""
        return check_sizes(self.batch, self.seq, self.cache, not self.no_use_cache)

    def work(self) -> dict[str, Any]:
        """All of it as the API's functions take it."""
        return {"batch": self.batch, "seq": self.seq, "cache": self.cache, **self.settings()}


@dataclass(eq=False, repr=False)
class RunFlags(WorkFlags, DeviceFlags, ModelFlags):
    """One pass of a model on a device."""


@dataclass(eq=False, repr=False)
class OutputFlags:
    """In which format the output is, and where it goes."""

    format: FormatFlag = None
    output: OutputFlag = None

    def sink(self) -> Sink:
        """Raises `InputError` for an unknown format or a path that cannot be written: before the work."""
        return sink_of(self.format, self.output)


def sink_of(format: str | None, output: Path | None) -> Sink:
    """A sink of any format. Raises `InputError` as it does, and where pyarrow is missing that the format needs."""
    sink = Sink(format, output)
    if sink.format in COLUMNAR:
        load("gpt2cost.output.arrow", f"--format {sink.format}")
    return sink
