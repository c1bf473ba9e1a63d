"""`gpt2cost predict`: one run."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.exits import ExitFlags
from gpt2cost.cli.flags import AllFlag, OutputFlags, PhaseFlag, RunFlags, StrictFlag, choice, either, heed, takes
from gpt2cost.output.kernel_rows import EXPLAINED, GROUPS
from gpt2cost.output.prediction import prediction_view
from gpt2cost.prediction.predict import predict_run


@takes
def predict(
    *,
    run: RunFlags,
    phase: PhaseFlag = "both",
    group: Annotated[str, choice("--group", GROUPS, f"A row per {either(GROUPS)}.")] = "kernel",
    explain: Annotated[
        bool, typer.Option("--explain", help="Add what bounds the slowest kernels, and what would help the pass.")
    ] = False,
    all_: AllFlag = False,
    strict: StrictFlag = False,
    exits: ExitFlags,
    out: OutputFlags,
) -> None:
    """Predict one run: per-kernel FLOPs, bytes and latency of a prefill, and of the decode step after it."""
    check_choice("group", group, GROUPS)
    sink = out.sink()
    if explain:
        sink.only_in("--explain", *EXPLAINED)
    if all_:
        sink.only_in("--all", "table")
    prediction = predict_run(run.load_model(), run.load_device(), run.how(), run.sizes(), phase)
    heed(prediction.warnings, strict)
    sink.show(prediction_view(group, explain, all_), prediction)
    exits.leave(bool(prediction.memory.fits))
