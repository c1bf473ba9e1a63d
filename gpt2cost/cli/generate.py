"""`gpt2cost generate`: a whole text, token by token."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from gpt2cost.cli.exits import ExitFlags
from gpt2cost.cli.flags import (
    BatchFlag,
    CacheTypeFlag,
    DeviceFlags,
    ModelFlags,
    OutputFlags,
    SettingFlags,
    StrictFlag,
    heed,
    takes,
)
from gpt2cost.prediction.generate import generate as predict_generate


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
    no_use_cache: Annotated[
        bool, typer.Option("--no-use-cache", help="Without a KV cache: every step takes the whole text.")
    ] = False,
    padded: Annotated[bool, typer.Option("--padded", help="Prompts padded on the left: every step is masked.")] = False,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", help="Of the device: adds the cost.")
    ] = None,
    strict: StrictFlag = False,
    exits: ExitFlags,
    out: OutputFlags,
) -> None:
    """Predict the model's generate: time to first token, time per token, throughput, memory and cost."""
    sink = out.sink()
    run = predict_generate(
        model.load_model(), device.load_device(), prompt_tokens=prompt, new_tokens=new_tokens, batch=batch,
        **dataclasses.asdict(setting), sample=sample, use_cache=not no_use_cache, cache_type=cache_type, padded=padded,
        price_per_hour=price_per_hour,
    )  # fmt: skip
    heed(run.warnings, strict)
    sink.show(run.view, run)
    exits.leave(run.fits)
