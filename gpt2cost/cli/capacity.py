"""`gpt2cost fit`: what a device can hold, and how fast it can go."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2cost.cli.exits import ExitFlags
from gpt2cost.cli.flags import OutputFlags, PhaseFlag, RunFlags, takes
from gpt2cost.errors import InputError
from gpt2cost.output.messages import print_warnings
from gpt2cost.prediction.capacity import capacity
from gpt2cost.units import parse_quantity


@takes
def fit(
    *,
    run: RunFlags,
    phase: PhaseFlag = "both",
    max_latency: Annotated[str | None, typer.Option("--max-latency", help="Of one pass, such as 50ms.")] = None,
    exits: ExitFlags,
    out: OutputFlags,
) -> None:
    """Find the largest batch at --seq and --cache, the largest context at --batch, and the best throughput."""
    sink = out.sink()
    try:
        limit_s = None if max_latency is None else parse_quantity(max_latency, "s")
    except InputError as error:
        raise InputError(f"--max-latency: {error}") from None
    answers = capacity(run.load_model(), run.load_device(), **run.work(), phase=phase, max_latency_s=limit_s)
    print_warnings(answers.warnings)
    sink.show(answers.view, answers)
    exits.leave(all(answer.prediction or answer.limited_by != "memory" for answer in answers.answers))
