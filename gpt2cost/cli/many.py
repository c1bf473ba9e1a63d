"""Flags that take several values: lists of models, devices and settings, lists and ranges of sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from gpt2cost.cli.flags import (
    HostFactorFlag,
    HwSetFlag,
    SetFlag,
    assignments,
    choices,
    device_names,
    hardware_changes,
    model_names,
    required,
    several,
    size,
)
from gpt2cost.device.catalog import change_hardware, load_hardware
from gpt2cost.device.dtypes import DTYPES
from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.grid import split_list
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS, IMPLEMENTATIONS, RUNTIMES

ModelsFlag = Annotated[
    str | None, typer.Option("--model", help="Models, separated by commas.", autocompletion=several(model_names))
]
GpusFlag = Annotated[
    str | None,
    typer.Option("--gpu", "--hardware", help="Devices, separated by commas.", autocompletion=several(device_names)),
]
AttnsFlag = Annotated[str | None, choices("--attn", ATTENTION_IMPLEMENTATIONS, "sdpa")]
RuntimesFlag = Annotated[str | None, choices("--runtime", RUNTIMES, "eager")]
ImplsFlag = Annotated[str | None, choices("--impl", IMPLEMENTATIONS, "hf, of nanoGPT's model_args nanogpt")]


def size_list(name: str, default: str | None) -> Any:
    """The flag of one of `SIZE_FIELDS` where it takes a list or a range. `default`: as the help shows it."""
    helps = {
        "batch": "Sequences: 1,2,8, 1-64*2.",
        "seq": "New tokens: 64, 128-1024+128.",
        "cache": "Tokens in the KV cache: 0,512.",
    }
    return size(name, helps[name], show_default=default or True)


@dataclass(eq=False, repr=False)
class DevicesFlags:
    """Devices for the same work: the first is the main one."""

    gpu: GpusFlag = None
    hw_set: HwSetFlag = None
    host_factor: HostFactorFlag = None

    def load_devices(self) -> list[Hardware]:
        """The devices, each once. Raises `InputError` where there is none."""
        names = split_list("gpu", required("--gpu", self.gpu))
        changes = hardware_changes(self.hw_set, self.host_factor)
        return [change_hardware(load_hardware(name), changes) for name in dict.fromkeys(names)]


@dataclass(eq=False, repr=False)
class SizeListFlags:
    """Sizes of many passes: lists and ranges."""

    batch: Annotated[str | None, size_list("batch", "1")] = None
    seq: Annotated[str | None, size_list("seq", "128")] = None
    cache: Annotated[str | None, size_list("cache", "0")] = None


@dataclass(eq=False, repr=False)
class GivenSizeFlags:
    """The sizes of one pass, or of a training step, which has no cache: None where they are not given."""

    batch: Annotated[int | None, size("batch", "Sequences in the batch.", show_default="1")] = None
    seq: Annotated[int | None, size("seq", "New tokens per sequence in this forward pass.", show_default="128")] = None
    cache: Annotated[int | None, size("cache", "Tokens per sequence already in the KV cache.", show_default="0")] = None

    def or_usual(self) -> dict[str, int]:
        """The sizes, the usual ones where none are given."""
        usual = {"batch": 1, "seq": 128, "cache": 0}
        return {name: value if (own := getattr(self, name)) is None else own for name, value in usual.items()}


@dataclass(eq=False, repr=False)
class ManyFlags:
    """Several models, devices, dtypes, attention implementations, runtimes and implementations."""

    model: ModelsFlag = None
    set_: SetFlag = None
    gpu: GpusFlag = None
    hw_set: HwSetFlag = None
    host_factor: HostFactorFlag = None
    dtype: Annotated[str | None, choices("--dtype", DTYPES, "fp16")] = None
    attn: AttnsFlag = None
    runtime: RuntimesFlag = None
    impl: ImplsFlag = None

    def axes(self) -> dict[str, str | None]:
        """As `make_grid` takes them."""
        return {name: getattr(self, name) for name in ("model", "gpu", "dtype", "attn", "runtime", "impl")}

    def model_changes(self) -> dict[str, str]:
        """What --set changes."""
        return assignments("--set", self.set_, ",")

    def hw_changes(self) -> dict[str, Any]:
        """What --hw-set and --host-factor change."""
        return hardware_changes(self.hw_set, self.host_factor)
