"""`gpt2cost accuracy`: predictions beside the measurements that were published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpt2cost.cli.exits import RangeExitFlags
from gpt2cost.cli.flags import OutputFlags, takes
from gpt2cost.cli.many import GpusFlag
from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.measure.kernel_files import score_measurements
from gpt2cost.measure.residuals import leave_one_out
from gpt2cost.measure.score import score_evidence
from gpt2cost.measure.trust_table import trust_table
from gpt2cost.output.accuracy import EVIDENCE, KERNELS, TRANSFER
from gpt2cost.output.messages import print_warnings
from gpt2cost.output.trust import TRUST
from gpt2cost.prediction.grid import distinct, split_list


@takes
def accuracy(
    *,
    measurements: Annotated[
        Path | None,
        typer.Option(
            "--measurements",
            help="A CSV file of measured kernels (- is stdin), or a folder of them and of training steps.",
        ),
    ] = None,
    fit_constant: Annotated[
        bool,
        typer.Option(
            "--fit-constant", help="With --measurements: first fit what a call costs, for each device and operation."
        ),
    ] = False,
    transfer: Annotated[
        bool, typer.Option("--leave-one-out", help="Predict each device with every other device's constants.")
    ] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="What is known of A100, H100, RTX 4090 and the M series, or of --gpu, in a word."),
    ] = False,
    gpu: GpusFlag = None,
    exits: RangeExitFlags,
    out: OutputFlags,
) -> None:
    """Put predictions beside measurements: the passes in the hardware files, or kernels and steps in CSV files.

    Each pass carries one of four words. measured: passes of this regime were measured on the device. calibrated:
    kernels were, but no such pass. borrowed: the constants are those of the device that is named. changed: a what-if.
    """
    sink = out.sink()
    asked = {"--measurements": measurements is not None, "--leave-one-out": transfer, "--trust": trust}
    together = [flag for flag, given in asked.items() if given]
    if len(together) > 1:
        raise InputError(f"accuracy: {' and '.join(together)}: expected one of them")
    if fit_constant and measurements is None:
        raise InputError("accuracy: --fit-constant goes with --measurements")
    if gpu is not None and measurements is not None:
        raise InputError("accuracy: --gpu does not go with --measurements: the files name their devices")
    if exits.fail_on is not None and together:
        raise InputError(f"accuracy: --fail-on does not go with {together[0]}, which has no ranges")
    devices = None if gpu is None else _devices(gpu)
    if measurements is not None:
        sink.show(KERNELS, score_measurements(measurements, fit_constant))
    elif transfer:
        sink.show(TRANSFER, leave_one_out(devices))
    elif trust:
        sink.show(TRUST, trust_table(devices))
    else:
        scored = score_evidence(devices)
        sink.show(EVIDENCE, scored)
        exits.leave(range=all(case.inside for case in scored))


def _devices(gpu: str) -> list[Hardware]:
    """The devices of --gpu, each once. Raises `InputError` for one that is unknown."""
    notes: list[str] = []
    named = map(load_hardware, split_list("gpu", gpu))
    devices = distinct(named, notes, lambda hw: f"gpu: {hw.name} is given twice and counts once")
    print_warnings(notes)
    return devices
