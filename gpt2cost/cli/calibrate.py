"""`gpt2cost calibrate`: the machine at hand as a hardware file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.choices import device_names
from gpt2cost.cli.extras import load
from gpt2cost.cli.flags import FormatFlag, sink_of, takes
from gpt2cost.cli.given import refuse
from gpt2cost.cli.measure import DeviceFlag, ThreadsFlag
from gpt2cost.device.to_yaml import hardware_yaml
from gpt2cost.errors import InputError
from gpt2cost.files import check_writable, write_text
from gpt2cost.measure.journal import Journal
from gpt2cost.measure.plan import DEVICES, plan_for
from gpt2cost.measure.records import read_records
from gpt2cost.output.messages import print_warnings, tell
from gpt2cost.prediction.grid import split_list


@takes
def calibrate(
    *,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The hardware file to write.")] = None,
    device: DeviceFlag = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="About a minute, fewer sizes.")] = False,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="Dtypes of products: fp32,bf16.", show_default="fp32; on a GPU fp16,bf16,fp32"),
    ] = None,
    threads: ThreadsFlag = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Fit measurements in a folder or file of JSON lines.")
    ] = None,
    like: Annotated[
        str | None, typer.Option("--like", help="The device that a GPU's fit starts from.", autocompletion=device_names)
    ] = None,
    format: FormatFlag = None,
) -> None:
    """Measure this machine's kernels and fit a hardware file to them. Stopped, it goes on where it was.

    Prints how well the file reproduces each kind of kernel. What was measured stays beside the file as JSON lines.
    """
    sink = sink_of(format, None)
    check_choice("device", device, DEVICES)
    if output is None:
        raise InputError("calibrate: -o FILE says where the hardware file goes, such as -o my-machine.yaml")
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"calibrate: -o: expected a name that ends in .yaml, got {output.name!r}")
    check_writable(output)
    if from_ is not None:
        measuring = {"quick": quick, "dtype": dtype, "threads": threads, "device": device if device != "cpu" else None}
        refuse(measuring, "is of a measurement, and does not go with --from")
    elif like is not None and device == "cpu":
        raise InputError("--like: only a GPU's fit starts from another device: --device cuda")
    fits = load("gpt2cost.calibration.calibrate", "calibrate")
    journal = _measured(output.with_suffix(".jsonl"), device, quick, dtype, threads) if from_ is None else None
    calibrated = fits.calibrate(read_records(from_ or output.with_suffix(".jsonl")), output.stem, like)
    write_text(hardware_yaml(calibrated.hardware), output)
    if journal is not None:
        journal.end()
    print_warnings(calibrated.warnings)
    sink.show(calibrated.view, calibrated)


def _measured(path: Path, device: str, quick: bool, dtype: str | None, threads: int | None) -> Journal:
    """Measure, or go on measuring: what is measured is in the file at `path` at once."""
    sweeps = load("gpt2cost.measure.sweeps", "calibrate")
    check_writable(path)
    on_cpu = device == "cpu"
    chosen = split_list("dtype", ("fp32" if on_cpu else "fp16,bf16,fp32") if dtype is None else dtype)
    dtypes = tuple(dict.fromkeys(["fp32", *chosen] if on_cpu else chosen))
    try:
        journal: Journal = sweeps.measure_kernels(
            path, device, dtypes, threads, plan_for(on_cpu, quick), tell, print_warnings
        )
    except KeyboardInterrupt:
        tell()
        print_warnings([f"stopped; the same command goes on from {path}"])
        raise
    return journal
