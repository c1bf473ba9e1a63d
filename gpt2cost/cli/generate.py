"""`gpt2cost generate`: a whole text, token by token."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2cost.checks import check_point
from gpt2cost.cli.exits import ExitFlags
from gpt2cost.cli.flags import BatchFlag, CacheTypeFlag, ModelFlags, OutputFlags, SettingFlags, StrictFlag, takes
from gpt2cost.cli.given import heed
from gpt2cost.cli.many import PricedDevicesFlags, ReplicasFlag, show_each, with_energy
from gpt2cost.prediction.generate import check_generate, generate_run
from gpt2cost.prediction.several import ask_each


@takes
def generate(
    *,
    model: ModelFlags,
    devices: PricedDevicesFlags,
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
    gpus: ReplicasFlag = 1,
    strict: StrictFlag = False,
    exits: ExitFlags,
    out: OutputFlags,
) -> None:
    """Predict the model's generate: time to first token, time per token, throughput, memory and cost."""
    sink = out.sink()
    loaded, chosen = model.load_model(), devices.load_devices()
    settings = check_generate(
        loaded, batch, prompt, new_tokens, setting.dtype, setting.attn, setting.runtime, sample, not no_use_cache,
        cache_type, setting.impl, padded,
    )  # fmt: skip
    replicas = check_point("gpus", gpus, 1)
    found = ask_each(
        chosen, devices.prices(), lambda device, price: generate_run(loaded, device, settings, price, replicas)
    )
    heed(found.warnings, strict)
    if len(chosen) == 1:
        sink.show(with_energy(found.results[0].view, devices.energy), found.results[0])
    else:
        show_each(sink, found, found.results[0].view, len(chosen), devices.energy)
    exits.leave(oom=all(run.fits for run in found.results), positions=all(run.valid for run in found.results))
