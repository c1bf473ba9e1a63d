"""`gpt2cost measure`: the real model, timed on the machine at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpt2cost.checks import check_choice, check_point
from gpt2cost.cli.extras import load
from gpt2cost.cli.flags import NoCacheFlag, OutputFlags, choice, choices, either, required, takes
from gpt2cost.cli.many import AttnsFlag, ModelsFlag, RuntimesFlag, size_list
from gpt2cost.errors import InputError, echo
from gpt2cost.files import check_writable, write_text
from gpt2cost.measure.evidence import evidence_yaml, source_of
from gpt2cost.measure.plan import DEVICES, MEASURED_DTYPES, ROUNDS, usual_dtype
from gpt2cost.measure.records import Measurement
from gpt2cost.output.messages import print_warnings, tell
from gpt2cost.output.validation import MEASURED, MEASURED_OPS
from gpt2cost.prediction.grid import Grid, make_grid
from gpt2cost.prediction.settings import LEAST

if TYPE_CHECKING:
    from gpt2cost.measure.passes import PassCase

DeviceFlag = Annotated[str, choice("--device", DEVICES, f"What to measure: {either(DEVICES)}.")]
ThreadsFlag = Annotated[
    int | None, typer.Option("--threads", help="Threads of a CPU.", show_default="as torch chooses")
]

Size = tuple[int, int, int]
"""(batch, seq, cache)."""


@dataclass(eq=False, repr=False)
class MeasureFlags:
    """Which passes are measured, or of those that were measured are meant."""

    model: ModelsFlag = None
    batch: Annotated[str | None, size_list("batch", None)] = None
    seq: Annotated[str | None, size_list("seq", None)] = None
    cache: Annotated[str | None, size_list("cache", None)] = None
    case: Annotated[
        list[str] | None, typer.Option("--case", help="BATCH,SEQ,CACHE: one size instead of a grid; may be repeated.")
    ] = None
    device: DeviceFlag = "cpu"
    dtype: Annotated[str | None, choices("--dtype", MEASURED_DTYPES, "fp32 on a CPU, else fp16")] = None
    attn: AttnsFlag = None
    runtime: RuntimesFlag = None
    no_use_cache: NoCacheFlag = False
    threads: ThreadsFlag = None
    rounds: Annotated[
        int, typer.Option("--rounds", help="How often all cases are measured; more where the machine is noisy.")
    ] = ROUNDS

    def axes(self) -> dict[str, str | None]:
        """What is given for sizes and names, as `make_grid` takes it."""
        return {name: getattr(self, name) for name in (*LEAST, "model", "dtype", "attn", "runtime")}

    def sizes(self) -> list[Size] | None:
        """The sizes of --case and of the grid of the other flags; None where no flag is given."""
        sizes = [_size(text) for text in self.case or []]
        given = {name: getattr(self, name) for name in LEAST}
        if any(text is not None for text in given.values()):
            grid = make_grid(model="gpt2", gpu="none", **given)
            print_warnings(grid.notes)
            sizes += [(int(b), int(s), int(c)) for b in grid.batch for s in grid.seq for c in grid.cache]
        return list(dict.fromkeys(sizes)) or None

    def grid(self) -> Grid:
        """What is run at each size. Raises `InputError` for a value that is wrong."""
        model = required("--model", self.model)
        check_choice("device", self.device, DEVICES)
        dtype = self.dtype or usual_dtype(self.device == "cpu")
        names = {"model": model, "dtype": dtype, "attn": self.attn, "runtime": self.runtime}
        grid = make_grid(gpu=self.device, use_cache=not self.no_use_cache, **names)
        print_warnings(grid.notes)
        return grid


def _size(text: str) -> Size:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isascii() and part.strip().isdecimal() for part in parts):
        raise InputError(f"--case: expected BATCH,SEQ,CACHE such as 8,1,512, got {echo(text)}")
    batch, seq, cache = (
        check_point(name, int(part) if len(part) < 20 else 10**20, least)
        for (name, least), part in zip(LEAST.items(), parts, strict=True)
    )
    return batch, seq, cache


def planned(flags: MeasureFlags, command: str) -> list[PassCase]:
    """The passes that the flags ask for. Raises `InputError` for what cannot run, and without torch."""
    sizes, grid = flags.sizes(), flags.grid()
    cases: list[PassCase] = load("gpt2cost.measure.passes", command).pass_cases(grid, sizes, flags.device)
    return cases


def measured(flags: MeasureFlags, cases: Sequence[PassCase], kernels: bool, command: str) -> list[Measurement]:
    """The records of the machine, of the passes, and with `kernels` of their profiles."""
    run = load("gpt2cost.measure.run", command)
    records: list[Measurement] = run.measure_cases(
        cases, flags.device, flags.threads, flags.rounds, kernels, tell, print_warnings
    )
    return records


@takes
def measure(
    *,
    flags: MeasureFlags,
    kernels: Annotated[bool, typer.Option("--kernels", help="Profile one pass of each too.")] = False,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="Write the passes to this YAML as a device's evidence.")
    ] = None,
    out: OutputFlags,
) -> None:
    """Time passes of HuggingFace's GPT-2 with random weights on this machine: as jsonl, for validate and calibrate."""
    sink = out.sink()
    if evidence is not None:
        check_writable(evidence)
    records = measured(flags, planned(flags, "measure"), kernels, "measure")
    complete = [record for record in records if "error" not in record]
    if evidence is not None:
        write_text(evidence_yaml(complete, source_of(records[0])), evidence)
    if sink.format == "jsonl":
        sink.rows([dict(record) for record in records])
    else:
        sink.show(MEASURED_OPS if kernels else MEASURED, complete)
