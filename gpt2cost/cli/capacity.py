"""`gpt2cost fit`: what a device can hold, and how fast it can go."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.flags import (
    AttnFlag,
    BatchFlag,
    CacheFlag,
    DtypeFlag,
    FormatFlag,
    GpuFlag,
    HwSetFlag,
    LogitsFlag,
    ModelFlag,
    NoCacheFlag,
    OutputFlag,
    PhaseFlag,
    RuntimeFlag,
    SeqFlag,
    SetFlag,
    chosen_device,
    chosen_model,
)
from gpt2cost.errors import InputError
from gpt2cost.output.sink import Sink, print_warnings
from gpt2cost.prediction.settings import PHASES
from gpt2cost.units import parse_quantity


def fit(
    model: ModelFlag = None,
    gpu: GpuFlag = None,
    batch: BatchFlag = 1,
    seq: SeqFlag = 128,
    cache: CacheFlag = 0,
    dtype: DtypeFlag = "fp16",
    attn: AttnFlag = "sdpa",
    runtime: RuntimeFlag = "eager",
    phase: PhaseFlag = "both",
    max_latency: Annotated[
        str | None, typer.Option("--max-latency", help="Of one pass, such as 50ms.", show_default=False)
    ] = None,
    logits: LogitsFlag = "all",
    no_use_cache: NoCacheFlag = False,
    set_: SetFlag = None,
    hw_set: HwSetFlag = None,
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Find the largest batch at --seq and --cache, the largest context at --batch, and the best throughput."""
    from gpt2cost.output.capacity import capacity_record, capacity_row, render_capacity
    from gpt2cost.prediction.capacity import capacities
    from gpt2cost.prediction.compare import Work, context_axis
    from gpt2cost.prediction.sweep import Combination

    sink = Sink(format, output)
    check_choice("phase", phase, PHASES)
    choice = Combination(chosen_model(model, set_), chosen_device(gpu, hw_set), dtype, attn, runtime)
    try:
        limit_s = None if max_latency is None else parse_quantity(max_latency, "s")
    except InputError as error:
        raise InputError(f"--max-latency: {error}") from None
    single = context_axis(Work(batch, seq, cache)) == "cache"  # the pass is a decode step itself
    phases = ["decode"] if single else ["prefill", "decode"] if phase == "both" else [phase]
    works = [Work(batch, seq, cache, each, logits, not no_use_cache) for each in phases]
    answers = [answer for work in works for answer in capacities(choice, work, limit_s)]
    warnings = (warning for answer in answers if answer.prediction for warning in answer.prediction.warnings)
    print_warnings(dict.fromkeys(warnings))
    rows = [capacity_row(choice, answer) for answer in answers]
    if format in ("table", "json"):
        document = capacity_record(choice, Work(batch, seq, cache, phase, logits, not no_use_cache), limit_s, rows)
        sink.document(document, lambda page: render_capacity(page, document))
    else:
        sink.rows(rows)
