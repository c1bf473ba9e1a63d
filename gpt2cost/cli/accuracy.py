"""`gpt2cost accuracy`: predictions beside the measurements that were published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpt2cost.cli.flags import GpuFlag, OutputFlags, takes
from gpt2cost.device.catalog import load_hardware
from gpt2cost.measure.kernel_files import score_measurements
from gpt2cost.measure.residuals import leave_one_out
from gpt2cost.measure.score import score_evidence
from gpt2cost.output.accuracy import EVIDENCE, KERNELS, TRANSFER


@takes
def accuracy(
    *,
    measurements: Annotated[
        Path | None, typer.Option("--measurements", help="A folder of CSV files of kernel measurements.")
    ] = None,
    transfer: Annotated[
        bool, typer.Option("--leave-one-out", help="Predict each device with every other device's constants.")
    ] = False,
    gpu: GpuFlag = None,
    out: OutputFlags,
) -> None:
    """Put predictions beside measurements: the passes in the hardware files, or kernels in CSV files."""
    sink = out.sink()
    if measurements is not None:
        sink.show(KERNELS, score_measurements(measurements))
    elif transfer:
        sink.show(TRANSFER, leave_one_out())
    else:
        sink.show(EVIDENCE, score_evidence(None if gpu is None else [load_hardware(gpu)]))
