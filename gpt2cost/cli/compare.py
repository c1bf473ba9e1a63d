"""`gpt2cost compare`: the same work on several candidates."""

from __future__ import annotations

from gpt2cost.cli.flags import (
    AttnsFlag,
    BatchFlag,
    CacheFlag,
    DtypesFlag,
    FormatFlag,
    GpusFlag,
    HwSetFlag,
    LogitsFlag,
    ModelsFlag,
    NoCacheFlag,
    OutputFlag,
    PhaseFlag,
    RuntimesFlag,
    SeqFlag,
    SetFlag,
    assignments,
    required,
)
from gpt2cost.errors import InputError
from gpt2cost.output.sink import Sink, print_warnings

MOST = 20
"""The most candidates that can be put side by side."""


def compare(
    model: ModelsFlag = None,
    gpu: GpusFlag = None,
    batch: BatchFlag = 1,
    seq: SeqFlag = 128,
    cache: CacheFlag = 0,
    dtype: DtypesFlag = None,
    attn: AttnsFlag = None,
    runtime: RuntimesFlag = None,
    phase: PhaseFlag = "both",
    logits: LogitsFlag = "all",
    no_use_cache: NoCacheFlag = False,
    set_: SetFlag = None,
    hw_set: HwSetFlag = None,
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Compare models, devices, dtypes, attention implementations or runtimes, each against the first.

    Shows the ratios, the difference by kernel kind, and the batch and sequence length where the ranking changes.
    """
    from gpt2cost.output.compare import comparison_record, comparison_rows, render_comparison
    from gpt2cost.prediction.compare import Work, compare_choices
    from gpt2cost.prediction.grid import make_grid
    from gpt2cost.prediction.sweep import plan

    sink = Sink(format, output)
    chosen = make_grid(
        model=required("--model", model), gpu=required("--gpu", gpu), dtype=dtype, attn=attn, runtime=runtime,
        batch=batch, seq=seq, cache=cache, phase=phase, logits=logits, use_cache=not no_use_cache,
    )  # fmt: skip
    choices, warnings = plan(chosen, assignments("--set", set_, ","), assignments("--hw-set", hw_set))
    print_warnings(warnings)
    if not 2 <= len(choices) <= MOST:
        what = "only one runs" if len(choices) == 1 else f"these are {len(choices)}"
        raise InputError(f"compare: expected 2 to {MOST} candidates, such as --gpu a100,h100; {what}")
    comparison = compare_choices(choices, Work(batch, seq, cache, phase, logits, not no_use_cache))
    print_warnings(
        f"{each.label}: {warning}"
        for each in comparison.candidates
        for warning in each.prediction.warnings
        if warning not in each.choice.model.notes
    )
    if format in ("table", "json"):
        document = comparison_record(comparison)
        sink.document(document, lambda page: render_comparison(page, document))
    else:
        sink.rows(list(comparison_rows(comparison)))
