"""`gpt2cost trace`: a predicted run for a trace viewer."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2cost.cli.flags import (
    AttnFlag,
    BatchFlag,
    CacheFlag,
    DtypeFlag,
    GpuFlag,
    HwSetFlag,
    LogitsFlag,
    ModelFlag,
    NoCacheFlag,
    OutputFlag,
    RuntimeFlag,
    SeqFlag,
    SetFlag,
    among,
    chosen_device,
    chosen_model,
)
from gpt2cost.output.sink import Sink, print_warnings


def trace(
    model: ModelFlag = None,
    gpu: GpuFlag = None,
    batch: BatchFlag = 1,
    seq: SeqFlag = 128,
    cache: CacheFlag = 0,
    dtype: DtypeFlag = "fp16",
    attn: AttnFlag = "sdpa",
    runtime: RuntimeFlag = "eager",
    phase: Annotated[
        str,
        typer.Option(
            "--phase",
            help="prefill (the pass of --seq tokens), decode (the next token) or both, one after the other.",
            autocompletion=among("prefill", "decode", "both"),
        ),
    ] = "both",
    logits: LogitsFlag = "all",
    no_use_cache: NoCacheFlag = False,
    set_: SetFlag = None,
    hw_set: HwSetFlag = None,
    output: OutputFlag = None,
) -> None:
    """Write a predicted run as Chrome trace events: open it in Perfetto, or beside a torch.profiler export."""
    from gpt2cost import predict
    from gpt2cost.output.chrome_trace import chrome_trace

    sink = Sink("json", output)
    prediction = predict(
        chosen_model(model, set_), chosen_device(gpu, hw_set), batch, seq, cache, dtype, attn, runtime, phase, logits,
        use_cache=not no_use_cache,
    )  # fmt: skip
    print_warnings(prediction.warnings)
    sink.document(chrome_trace(prediction), lambda page: None)
