"""`gpt2cost explain`: one step of a pass on its own."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2cost.cli.choices import choice
from gpt2cost.cli.flags import DeviceFlags, ModelFlags, OutputFlags, StrictFlag, WorkFlags, takes
from gpt2cost.cli.given import heed
from gpt2cost.cli.train_many import TrainRowFlags
from gpt2cost.output.explain import EXPLAIN
from gpt2cost.prediction.one_step import STEP_PHASES, explain_step
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.kernel import short_path, walk

PHASE_HELP = (
    "prefill (the pass of --seq tokens), decode (the next token), generate (what runs around a pass too), or train: a"
    " micro-step of --batch sequences."
)


def _names(incomplete: str) -> list[str]:
    """Shell completion of the steps of a usual pass."""
    paths = dict.fromkeys(short_path(row.path) for row in walk(cost_table()))
    return [path for path in paths if path.startswith(incomplete)]


@takes
def explain(
    step: Annotated[
        str,
        typer.Argument(
            help="A path or the end of one: h.attn.cat_key, cat_key; of a module, all its steps: mlp.",
            autocompletion=_names,
        ),
    ],
    *,
    model: ModelFlags,
    device: DeviceFlags,
    work: WorkFlags,
    phase: Annotated[str, choice("--phase", STEP_PHASES, PHASE_HELP)] = "prefill",
    sample: Annotated[bool, typer.Option("--sample", help="With --phase generate: tokens are drawn.")] = False,
    training: TrainRowFlags,
    strict: StrictFlag = False,
    out: OutputFlags,
) -> None:
    """Explain one step: what it does and why, its tensors, its formulas with numbers put in, and the source line.

    With --gpu, also what it takes there and what bounds it. gpt2cost table lists all steps.
    """
    sink = out.sink()
    loaded, hardware = model.load_model(default="gpt2"), device.load_any()
    options = {**work.work(), **vars(training), "phase": phase, "sample": sample}
    explanation = explain_step(loaded, step, hardware, **options)
    heed(explanation.warnings, strict)
    sink.show(EXPLAIN, explanation)
