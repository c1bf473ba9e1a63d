"""The command line's flags: one definition each, with its help and shell completion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from gpt2cost.data import data_dir
from gpt2cost.errors import InputError
from gpt2cost.hardware import hardware_names
from gpt2cost.model import preset_names


def model_names(incomplete: str) -> list[str]:
    """Shell completion of presets."""
    return sorted(path.stem for path in data_dir("configs").glob(f"{incomplete}*.json"))


def device_names(incomplete: str) -> list[str]:
    """Shell completion of devices."""
    return [name for name in hardware_names() if name.startswith(incomplete)]


def among(*choices: str) -> Callable[[str], list[str]]:
    """Shell completion of a flag that takes one of `choices`."""
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


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


def required(flag: str, value: str | None) -> str:
    """The value of a flag that must be given. Raises `InputError`, which lists what there is."""
    if value is not None:
        return value
    choices = preset_names() if flag == "--model" else hardware_names()
    raise InputError(f"{flag} is required: one of {', '.join(choices)}")
