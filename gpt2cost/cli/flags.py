"""The command line's flags: one definition each, with its help and shell completion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gpt2cost.device.catalog import change_hardware, hardware_names, load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, echo, plain
from gpt2cost.files import data_dir
from gpt2cost.table.config import Model, change_model, load_model, preset_names

DEVICES = ("cpu", "cuda", "mps")
"""What can be measured, by torch's names."""


MAX_THREADS = 4096


def model_names(incomplete: str) -> list[str]:
    """Shell completion of presets."""
    return sorted(path.stem for path in data_dir("configs").glob(f"{incomplete}*.json"))


def device_names(incomplete: str) -> list[str]:
    """Shell completion of devices."""
    return [name for name in hardware_names() if name.startswith(incomplete)]


def among(*choices: str) -> Callable[[str], list[str]]:
    """Shell completion of a flag that takes one of `choices`."""
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def several(complete: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Shell completion of the last of several values that commas separate."""

    def completed(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + choice for choice in complete(last)]

    return completed


ModelFlag = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="A preset (gpt2cost models), a folder, a config.json, or a hub id.",
        autocompletion=model_names,
        show_default=False,
    ),
]


GpuFlag = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        "--hardware",
        help="A device (gpt2cost hardware list) or a YAML file.",
        autocompletion=device_names,
        show_default=False,
    ),
]


BatchFlag = Annotated[int, typer.Option("--batch", "--batch-size", help="Sequences in the batch.")]


SeqFlag = Annotated[int, typer.Option("--seq", "--seq-len", help="New tokens a sequence in this forward pass.")]


CacheFlag = Annotated[int, typer.Option("--cache", "--cache-len", help="Tokens a sequence already in the KV cache.")]


DtypeFlag = Annotated[
    str,
    typer.Option("--dtype", help="fp32, tf32, fp16 or bf16.", autocompletion=among("fp32", "tf32", "fp16", "bf16")),
]


AttnFlag = Annotated[
    str,
    typer.Option(
        "--attn", help="eager, sdpa or flash_attention_2.", autocompletion=among("eager", "sdpa", "flash_attention_2")
    ),
]


RuntimeFlag = Annotated[
    str,
    typer.Option(
        "--runtime", help="eager, compile or cuda-graph.", autocompletion=among("eager", "compile", "cuda-graph")
    ),
]


PhaseFlag = Annotated[
    str,
    typer.Option("--phase", help="prefill, decode or both.", autocompletion=among("prefill", "decode", "both")),
]


LogitsFlag = Annotated[
    str, typer.Option("--logits", help="lm_head on all positions or the last.", autocompletion=among("all", "last"))
]


NoCacheFlag = Annotated[bool, typer.Option("--no-use-cache", help="Run without a KV cache; --cache must be 0.")]


FormatFlag = Annotated[
    str,
    typer.Option(
        "--format",
        help="table, json, jsonl, csv or markdown.",
        autocompletion=among("table", "json", "jsonl", "csv", "markdown"),
    ),
]


OutputFlag = Annotated[
    Path | None, typer.Option("-o", "--output", help="Write to this file instead of stdout.", show_default=False)
]


ModelsFlag = Annotated[
    str | None,
    typer.Option(
        "--model", help="Models, separated by commas.", autocompletion=several(model_names), show_default=False
    ),
]


GpusFlag = Annotated[
    str | None,
    typer.Option(
        "--gpu",
        "--hardware",
        help="Devices, separated by commas.",
        autocompletion=several(device_names),
        show_default=False,
    ),
]


DtypesFlag = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Of fp32, tf32, fp16, bf16 one or more.",
        show_default="fp16",
        autocompletion=several(among("fp32", "tf32", "fp16", "bf16")),
    ),
]


AttnsFlag = Annotated[
    str | None,
    typer.Option(
        "--attn",
        help="Of eager, sdpa, flash_attention_2 one or more.",
        show_default="sdpa",
        autocompletion=several(among("eager", "sdpa", "flash_attention_2")),
    ),
]


RuntimesFlag = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        help="Of eager, compile, cuda-graph one or more.",
        show_default="eager",
        autocompletion=several(among("eager", "compile", "cuda-graph")),
    ),
]


SetFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="What if: config keys of the model, such as n_layer=24,n_embd=2048.", show_default=False
    ),
]


HwSetFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--hw-set",
        help="What if: a constant of the device, such as memory.bandwidth='2 TB/s'; may be repeated.",
        show_default=False,
    ),
]


def assignments(flag: str, given: list[str] | None, separator: str | None = None) -> dict[str, str]:
    """`key=value` texts as a mapping, each split at `separator` first. Raises `InputError` for anything else."""
    found: dict[str, str] = {}
    for part in (part for text in given or [] for part in (text.split(separator) if separator else [text])):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise InputError(f"{flag}: expected key=value, got {echo(part)}")
        if key in found:
            raise InputError(f"{flag}: {plain(key)} is set twice")
        found[key] = value
    return found


def chosen_model(name: str | None, changes: list[str] | None) -> Model:
    """The model of --model and --set."""
    return change_model(load_model(required("--model", name)), assignments("--set", changes, ","))


def chosen_device(name: str | None, changes: list[str] | None) -> Hardware:
    """The device of --gpu and --hw-set."""
    return change_hardware(load_hardware(required("--gpu", name)), assignments("--hw-set", changes))


def required(flag: str, value: str | None) -> str:
    """The value of a flag that must be given. Raises `InputError`, which lists what there is."""
    if value is not None:
        return value
    choices = preset_names() if flag == "--model" else hardware_names()
    raise InputError(f"{flag} is required: one of {', '.join(choices)}")
