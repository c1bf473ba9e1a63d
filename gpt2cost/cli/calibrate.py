"""`gpt2cost calibrate`: the machine at hand as a hardware file."""

from __future__ import annotations

import dataclasses
from collections import Counter
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpt2cost.checks import check_choice, check_size
from gpt2cost.cli.flags import DEVICES, MAX_THREADS, FormatFlag, among, device_names
from gpt2cost.errors import InputError
from gpt2cost.files import check_writable, write_text
from gpt2cost.output.sink import Sink, print_warnings, tell
from gpt2cost.prediction.grid import split_list

if TYPE_CHECKING:
    from gpt2cost.measure.journal import Journal


QUICK_SWEEPS, SWEEPS = 6, 10
"""How often each case is measured, with all others in between."""


QUICK_S, FULL_S = 90.0, 270.0
"""Seconds after which only what has no time yet is measured."""


BUSY_SHARE = 0.3
"""A load above this share of the processors disturbs."""


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
    from gpt2cost.calibration.calibrate import calibrate as fit
    from gpt2cost.device.to_yaml import hardware_yaml
    from gpt2cost.extras import need_scipy
    from gpt2cost.measure.records import read_records
    from gpt2cost.output.accuracy import render_rows, residual_record

    sink = Sink(format, None)
    check_choice("device", device, DEVICES)
    if output is None:
        raise InputError("calibrate: -o FILE says where the hardware file goes, such as -o my-machine.yaml")
    if output.suffix not in (".yaml", ".yml"):
        raise InputError(f"calibrate: -o: expected a name that ends in .yaml, got {output.name!r}")
    check_writable(output)
    need_scipy("calibrate")
    journal = _measured(output.with_suffix(".jsonl"), device, quick, dtype, threads) if from_ is None else None
    found = fit(read_records(from_ or output.with_suffix(".jsonl")), output.stem, like)
    write_text(hardware_yaml(found.hardware), output)
    if journal is not None:
        journal.add([{"kind": "end", "complete": True}])
    print_warnings(found.warnings)
    rows = [residual_record(each) for each in found.residuals]
    sink.listing("residuals", rows, lambda page: render_rows(page, rows))


def _measured(path: Path, device: str, quick: bool, dtype: str | None, threads: int | None) -> Journal:
    """Measure, or go on measuring: what is measured is in the file at `path` at once."""
    from gpt2cost.extras import need_torch

    need_torch("calibrate")
    check_writable(path)
    import torch

    from gpt2cost.measure import kernels as microbench
    from gpt2cost.measure.bench import Bench, busy_share, measure
    from gpt2cost.measure.journal import Journal
    from gpt2cost.measure.pool import DTYPES

    on_cpu = device == "cpu"
    chosen = split_list("dtype", dtype or ("fp32" if on_cpu else "fp16,bf16,fp32"))
    dtypes = tuple(dict.fromkeys(["fp32", *chosen] if on_cpu else chosen))
    for each in dtypes:
        check_choice("dtype", each, tuple(DTYPES))
    if threads is not None:
        check_size("threads", threads, 1, MAX_THREADS)
    bench = Bench(device, threads)
    if busy_share() > BUSY_SHARE:
        print_warnings(
            [f"the machine is busy: its load is {busy_share():.0%} of its processors; a quiet one fits better"]
        )
    sizes = microbench.chosen_sizes(on_cpu, quick)
    sweeps, limit_s = (QUICK_SWEEPS, QUICK_S) if quick else (SWEEPS, FULL_S)
    chosen_run = {"dtypes": list(dtypes), "sizes": dataclasses.asdict(sizes) | {"copy_exponents": None}}
    machine = bench.machine() | chosen_run | {"date": date.today().isoformat()}
    journal = Journal(path, machine)
    if journal.set_aside is not None:
        tell(f"{path} is of a run that was complete or other than this one: kept as {journal.set_aside}")
    if len(journal.records) > 1:
        tell(f"goes on with {len(journal.records) - 1} measurements in {path}")
    try:
        with torch.no_grad():
            if not any(record["kind"] == "measured" for record in journal.records):
                groups = partial(microbench.groups, sizes, dtypes, on_cpu)
                measure(bench, journal, groups, sweeps, limit_s, tell)
                journal.add([{"kind": "measured"}])  # stopped from here on, the same command only fits anew
    except KeyboardInterrupt:
        tell()
        print_warnings([f"stopped; the same command goes on from {path}"])
        raise
    tell()
    lost = (r for r in journal.records if "error" in r and r["sweep"] == 0)
    failed = Counter((r["kind"], r.get("dtype", ""), r["error"]) for r in lost)
    print_warnings(f"{kind} {dtype}: {count} could not run: {error}" for (kind, dtype, error), count in failed.items())
    return journal
