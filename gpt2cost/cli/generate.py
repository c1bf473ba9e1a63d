"""`gpt2cost generate`: a whole text, token by token."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2cost.cli.flags import (
    AttnFlag,
    BatchFlag,
    DtypeFlag,
    FormatFlag,
    GpuFlag,
    HwSetFlag,
    ModelFlag,
    OutputFlag,
    RuntimeFlag,
    SetFlag,
    among,
    chosen_device,
    chosen_model,
)
from gpt2cost.errors import InputError
from gpt2cost.output.sink import Sink, print_warnings


def generate(
    model: ModelFlag = None,
    gpu: GpuFlag = None,
    prompt: Annotated[int, typer.Option("--prompt", help="Tokens of each prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option("--new-tokens", help="Tokens to generate for each.")] = 128,
    batch: BatchFlag = 1,
    dtype: DtypeFlag = "fp16",
    attn: AttnFlag = "sdpa",
    runtime: RuntimeFlag = "eager",
    sample: Annotated[bool, typer.Option("--sample", help="Draw from the 50 likeliest tokens; else greedy.")] = False,
    cache_type: Annotated[
        str,
        typer.Option(
            "--cache-type",
            help="dynamic (concatenated each step) or static (of the final length from the start).",
            autocompletion=among("dynamic", "static"),
        ),
    ] = "dynamic",
    no_use_cache: Annotated[
        bool, typer.Option("--no-use-cache", help="Without a KV cache: every step takes the whole text.")
    ] = False,
    padded: Annotated[bool, typer.Option("--padded", help="Prompts padded on the left: every step is masked.")] = False,
    price_per_hour: Annotated[
        float | None, typer.Option("--price-per-hour", help="Of the device: adds the cost.", show_default=False)
    ] = None,
    set_: SetFlag = None,
    hw_set: HwSetFlag = None,
    strict: Annotated[bool, typer.Option("--strict", help="Make a warning an error (exit 2).")] = False,
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Predict HuggingFace's generate: time to first token, time per token, throughput, memory and cost."""
    from gpt2cost.output import generate as rendering
    from gpt2cost.output import generate as results
    from gpt2cost.prediction.generate import generate as run_generate

    sink = Sink(format, output)
    run = run_generate(
        chosen_model(model, set_), chosen_device(gpu, hw_set), prompt, new_tokens, batch, dtype, attn, runtime,
        sample=sample, use_cache=not no_use_cache, cache_type=cache_type, padded=padded, price_per_hour=price_per_hour,
    )  # fmt: skip
    if strict and run.warnings:
        raise InputError("; ".join(run.warnings))
    print_warnings(run.warnings)
    if format in ("jsonl", "csv"):
        sink.rows(list(results.token_records(run)))
    else:
        document = results.generation_record(run)
        sink.document(document, lambda page: rendering.render_generation(page, document), rendering.generation_markdown)
