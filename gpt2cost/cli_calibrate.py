"""`gpt2cost calibrate`: the machine at hand as a hardware file."""

from __future__ import annotations

import dataclasses
import sys
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from gpt2cost.errors import InputError
from gpt2cost.measurement_records import Measurement
from gpt2cost.options import FormatFlag, among, device_names
from gpt2cost.output import Sink, check_writable, print_warnings, write_text
from gpt2cost.settings import check_choice, check_size

MAX_THREADS = 4096
QUICK_SWEEPS, SWEEPS = 6, 10
"""How often each case is measured, with all others in between."""
BUSY_SHARE = 0.3
"""A load above this share of the processors disturbs."""
DEVICES = ("cpu", "cuda", "mps")


def calibrate(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The hardware file to write.", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option("--device", help="What to measure.", autocompletion=among(*DEVICES))] = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="About a minute, fewer sizes.")] = False,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="Dtypes of products: fp32,bf16.", show_default="fp32; on a GPU fp16,bf16,fp32"),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads of a CPU.", show_default="torch's")] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="Fit measurements in a folder or file of JSON lines.", show_default=False),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--like", help="The device that a GPU's fit starts from.", show_default=False, autocompletion=device_names
        ),
    ] = None,
    format: FormatFlag = "table",
) -> None:
    """Measure this machine's kernels and fit a hardware file to them. Stopped, it goes on where it was.

    Prints how well the file reproduces each kind of kernel. What was measured stays beside the file as JSON lines.
    """
    from gpt2cost.calibration import calibrate as fit
    from gpt2cost.fitting_records import residual_record
    from gpt2cost.hardware_file import hardware_yaml
    from gpt2cost.measurement_records import read_records
    from gpt2cost.render_accuracy import render_rows
    from gpt2cost.torch_extra import need_scipy

    sink = Sink(format, None)
    check_choice("device", device, DEVICES)
    if output is None:
        raise InputError("calibrate: -o FILE says where the hardware file goes, such as -o my-machine.yaml")
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"calibrate: -o: expected a name that ends in .yaml, got {output.name!r}")
    check_writable(output)
    need_scipy("calibrate")
    if from_ is None:
        records = _measured(output.with_suffix(".jsonl"), device, quick, dtype, threads)
    else:
        records = read_records(from_)
    found = fit(records, output.stem, date.today().isoformat(), like)
    write_text(hardware_yaml(found.hardware), output)
    print_warnings(found.warnings)
    rows = [residual_record(each) for each in found.residuals]
    sink.listing("residuals", rows, lambda page: render_rows(page, rows))


def _measured(path: Path, device: str, quick: bool, dtype: str | None, threads: int | None) -> list[Measurement]:
    """Measure, or go on measuring: what is measured is in the file at `path` at once."""
    from gpt2cost.torch_extra import need_torch

    need_torch("calibrate")
    check_writable(path)
    import torch

    from gpt2cost import microbench
    from gpt2cost.bench import Bench, Journal, busy_share, measure

    on_cpu = device == "cpu"
    chosen = (dtype or ("fp32" if on_cpu else "fp16,bf16,fp32")).split(",")
    dtypes = tuple(dict.fromkeys(["fp32", *chosen] if on_cpu else chosen))
    for each in dtypes:
        check_choice("dtype", each, tuple(microbench.DTYPES))
    if threads is not None:
        check_size("threads", threads, 1, MAX_THREADS)
    bench = Bench(device, threads)
    if busy_share() > BUSY_SHARE:
        print_warnings(
            [f"the machine is busy: its load is {busy_share():.0%} of its processors; a quiet one fits better"]
        )
    sizes, sweeps = microbench.chosen_sizes(on_cpu, quick), QUICK_SWEEPS if quick else SWEEPS
    machine = bench.machine() | {"dtypes": list(dtypes), "sizes": dataclasses.asdict(sizes) | {"copy_exponents": None}}
    journal = Journal(path, machine)
    if journal.set_aside is not None:
        _tell(f"{path} is of a run that was complete or other than this one: kept as {journal.set_aside}")
    if len(journal.records) > 1:
        _tell(f"goes on with {len(journal.records) - 1} measurements in {path}")
    try:
        with torch.no_grad():
            measure(bench, journal, lambda first: microbench.groups(sizes, dtypes, on_cpu, first), sweeps, _tell)
    except KeyboardInterrupt:
        _tell(f"stopped; the same command goes on from {path}")
        raise
    journal.add([{"kind": "end", "complete": True}])
    return [record for record in journal.records if "error" not in record]


def _tell(text: str) -> None:
    """Progress to stderr: on one line of a terminal, else a line each."""
    end = "\x1b[K\r" if sys.stderr.isatty() else "\n"
    print(text, end=end, file=sys.stderr, flush=True)
