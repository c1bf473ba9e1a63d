"""Flags that take several values: lists of models, devices and settings, lists and ranges of sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer

from gpt2cost.cli.choices import choices, device_names, model_names, several, size
from gpt2cost.cli.flags import OWN_ATTN, OWN_DTYPE, EncoderLenFlag, HeadFlag, HostFactorFlag, HwSetFlag, SetFlag
from gpt2cost.cli.given import assignments, hardware_changes, model_changes, required
from gpt2cost.device.catalog import change_hardware
from gpt2cost.device.dtypes import DTYPES
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, echo
from gpt2cost.output.record import View
from gpt2cost.output.sink import Sink
from gpt2cost.prediction.energy import check_board_power
from gpt2cost.prediction.prices import Prices
from gpt2cost.prediction.several import Several, devices_of
from gpt2cost.prediction.what_ifs import listed
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS, IMPLEMENTATIONS, RUNTIMES, WEIGHTS

ModelsFlag = Annotated[
    str | None, typer.Option("--model", help="Models, separated by commas.", autocompletion=several(model_names))
]
GpusFlag = Annotated[
    str | None,
    typer.Option("--gpu", "--hardware", help="Devices, separated by commas.", autocompletion=several(device_names)),
]
AttnsFlag = Annotated[str | None, choices("--attn", ATTENTION_IMPLEMENTATIONS, OWN_ATTN)]
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
        changes = hardware_changes(self.hw_set, self.host_factor)
        return [change_hardware(device, changes) for device in devices_of(required("--gpu", self.gpu))]


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


PriceFlag = Annotated[
    str | None,
    typer.Option("--price-per-hour", help="Adds the cost: 2.5, or of several devices a100=1.3,h100=2.5."),
]

_COMMA_IN_LIST, _BETWEEN = re.compile(r",(?=[^,=]+(,|$))"), ";"
"""A comma before a value that has no key of its own, and what stands for it."""


def prices(given: str | None) -> Prices:
    """What --price-per-hour says: one price, or one for each name. Raises `InputError` for anything else."""
    flag = "--price-per-hour"
    if given is None:
        return None
    if "=" not in given:
        return _price(given, given)
    return {name: _price(text, given) for name, text in assignments(flag, [given], ",").items()}


def _price(text: str, given: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--price-per-hour: expected 2.5 or a100=1.3,h100=2.5, got {echo(given)}") from None


EnergyFlag = Annotated[
    bool,
    typer.Option("--energy", help="Adds a bound of the energy: board power x upper end of the range x GPUs."),
]
ReplicasFlag = Annotated[int, typer.Option("--gpus", help="Replicas of the model, each with a batch of its own.")]
ShardFlag = Annotated[
    str | None, typer.Option("--shard", help="Only a part, such as 3/16; the parts in order are the whole.")
]


@dataclass(eq=False, repr=False)
class PricedDevicesFlags(DevicesFlags):
    """The same, what they cost, and whether their energy is asked for."""

    price_per_hour: PriceFlag = None
    energy: EnergyFlag = False

    def load_devices(self) -> list[Hardware]:
        """As `DevicesFlags` says. Raises `InputError` for energy of a device without a board power."""
        devices = super().load_devices()
        if self.energy:
            check_board_power(devices)
        return devices

    def prices(self) -> Prices:
        """What they cost per hour."""
        return prices(self.price_per_hour)


def with_energy(view: View[Any], energy: bool) -> View[Any]:
    """A view of results that have `energy_bounds`, with them if `energy` is asked for."""
    return import_module("gpt2cost.output.energy").energy_view(view) if energy else view


def show_each(sink: Sink, found: Several, view: View[Any], asked: int, energy: bool = False) -> None:
    """Write one device's own result, or those of several side by side. `asked`: of how many devices."""
    if asked == 1 and not found.priced:
        sink.show(with_energy(view, energy), found.results[0])
    else:
        sink.show(import_module("gpt2cost.output.several").several_view(view, energy), found)


@dataclass(eq=False, repr=False)
class ManyFlags:
    """Several models, devices, dtypes, attention implementations, runtimes and implementations."""

    model: ModelsFlag = None
    set_: SetFlag = None
    head: HeadFlag = None
    encoder_len: EncoderLenFlag = None
    weights: Annotated[str | None, choices("--weights", WEIGHTS, "of the config, else dtype")] = None
    gpu: GpusFlag = None
    hw_set: HwSetFlag = None
    host_factor: HostFactorFlag = None
    dtype: Annotated[str | None, choices("--dtype", DTYPES, OWN_DTYPE)] = None
    attn: AttnsFlag = None
    runtime: RuntimesFlag = None
    impl: ImplsFlag = None

    def axes(self) -> dict[str, str | None]:
        """As `make_grid` takes them."""
        return {name: getattr(self, name) for name in ("model", "gpu", "dtype", "attn", "runtime", "impl")}

    def model_changes(self) -> dict[str, Any]:
        """What --set and the flags beside it change: one value of a key, or a list of them as in n_layer=6,12."""
        given = [_COMMA_IN_LIST.sub(_BETWEEN, text) for text in self.set_ or []]
        changes = model_changes(given, self.head, self.encoder_len, self.weights)
        if "weights" in changes:
            changes["weights"] = changes["weights"].replace(",", _BETWEEN)
        return {key: value.split(_BETWEEN) if _BETWEEN in value else value for key, value in changes.items()}

    def hw_changes(self) -> dict[str, Any]:
        """What --hw-set and --host-factor change; a value may be a list."""
        changes = hardware_changes(self.hw_set, self.host_factor)
        return {path: listed(value) if isinstance(value, str) else value for path, value in changes.items()}
