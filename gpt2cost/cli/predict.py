"""`gpt2cost predict`: one run."""

from __future__ import annotations

from typing import Annotated

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.choices import choice, either
from gpt2cost.cli.exits import ExitFlags
from gpt2cost.cli.flags import AllFlag, ModelFlags, OutputFlags, PhaseFlag, StrictFlag, WorkFlags, takes
from gpt2cost.cli.given import heed
from gpt2cost.cli.many import PricedDevicesFlags, show_each
from gpt2cost.errors import InputError
from gpt2cost.output.formats import EVERY_FORMAT
from gpt2cost.output.kernel_rows import EXPLAINED, GROUPS
from gpt2cost.output.prediction import prediction_view
from gpt2cost.output.sink import Sink
from gpt2cost.prediction.predict import predict_run
from gpt2cost.prediction.several import ask_each


@takes
def predict(
    *,
    model: ModelFlags,
    devices: PricedDevicesFlags,
    work: WorkFlags,
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
    """Predict one run: per-kernel FLOPs, bytes and latency of a prefill, and of the decode step after it.

    With several devices: their latencies and costs side by side.
    """
    check_choice("group", group, GROUPS)
    sink = out.sink()
    if explain:
        sink.only_in("--explain", *EXPLAINED)
    if all_:
        sink.only_in("--all", "table")
    loaded, chosen, how, sizes = model.load_model(), devices.load_devices(), work.how(), work.sizes()
    if len(chosen) > 1:
        _refuse_of_one(sink, group, explain, all_)
    found = ask_each(chosen, devices.prices(), lambda device, _: predict_run(loaded, device, how, sizes, phase))
    heed(found.warnings, strict)
    show_each(sink, found, prediction_view(group, explain, all_), len(chosen), devices.energy)
    exits.leave(
        oom=all(bool(prediction.memory.fits) for prediction in found.results),
        positions=all(prediction.valid for prediction in found.results),
    )


def _refuse_of_one(sink: Sink, group: str, explain: bool, all_: bool) -> None:
    """Raise `InputError` for flags that would change nothing where several devices stand side by side."""
    if group != "kernel":
        sink.only_in("--group of several devices", *(name for name in EVERY_FORMAT if name != "table"))
    if explain:
        sink.only_in("--explain of several devices", "json")
    if all_:
        raise InputError("--all: names kernels, which the table of several devices has not")
