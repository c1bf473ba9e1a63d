"""`gpt2cost measure`: the real model, timed on the machine at hand, in passes or in training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gpt2cost.checks import check_choice, check_point
from gpt2cost.cli.choices import choice, choices, either
from gpt2cost.cli.extras import load
from gpt2cost.cli.flags import NoCacheFlag, OutputFlags, takes
from gpt2cost.cli.given import refuse, required
from gpt2cost.cli.many import AttnsFlag, ModelsFlag, RuntimesFlag, ShardFlag, size_list
from gpt2cost.cli.train_many import NOT_OF_TRAINING, ONLY_TRAINING, MeasureStepFlags
from gpt2cost.errors import InputError, echo
from gpt2cost.files import check_writable, write_text
from gpt2cost.measure.evidence import evidence_yaml, source_of
from gpt2cost.measure.plan import DEVICES, MEASURED_DTYPES, ROUNDS, usual_dtype
from gpt2cost.measure.records import Measurement
from gpt2cost.measure.train_records import StepCase, step_cases
from gpt2cost.output.messages import print_warnings, tell
from gpt2cost.output.sink import Sink
from gpt2cost.output.train_validation import MEASURED_STEPS
from gpt2cost.output.validation import MEASURED, MEASURED_OPS
from gpt2cost.prediction.grid import Grid, make_grid
from gpt2cost.prediction.settings import LEAST, TRAIN
from gpt2cost.prediction.shard import WHOLE, Shard, parse_shard

if TYPE_CHECKING:
    from gpt2cost.measure.passes import PassCase

DeviceFlag = Annotated[str, choice("--device", DEVICES, f"What to measure: {either(DEVICES)}.")]
ThreadsFlag = Annotated[
    int | None, typer.Option("--threads", help="Threads of a CPU.", show_default="as torch chooses")
]

PhaseFlag = Annotated[
    str, choice("--phase", ("pass", TRAIN), "pass, or train: whole training steps, and their parts apart.")
]

T = TypeVar("T")
Size = tuple[int, int, int]
"""(batch, seq, cache)."""


NOT_OF_STEPS = "is of passes, and does not go with --phase train"


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
    shard: ShardFlag = None

    def part(self) -> Shard:
        """Which part of the passes or steps is meant."""
        return WHOLE if self.shard is None else parse_shard(self.shard)

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
    return some_of(flags, cases, "passes")


def some_of(flags: MeasureFlags, items: Sequence[T], what: str) -> list[T]:
    """The part of some passes or steps that is meant. Raises `InputError` where it has none of them."""
    part = flags.part().of(items)
    if items and not part:
        raise InputError(f"--shard: of {len(items)} {what}, part {flags.shard} has none")
    return list(part)


def measured(flags: MeasureFlags, cases: Sequence[PassCase], kernels: bool, command: str) -> list[Measurement]:
    """The records of the machine, of the passes, and with `kernels` of their profiles."""
    run = load("gpt2cost.measure.run", command)
    records: list[Measurement] = run.measure_cases(
        cases, flags.device, flags.threads, flags.rounds, kernels, tell, print_warnings
    )
    return records


# ---------------------------------------------------------------------------------------------- training steps


def step_axes(flags: MeasureFlags, training: MeasureStepFlags) -> dict[str, Any]:
    """What is given for steps, as `make_train_grid` takes it. Raises `InputError` for a flag of passes."""
    refuse({name: getattr(flags, name) for name in ("batch", "cache", "dtype", "no_use_cache")}, NOT_OF_TRAINING)
    refuse({"case": flags.case or None}, NOT_OF_TRAINING)
    given = {name: getattr(flags, name) for name in ("model", "attn", "runtime", "seq")}
    return {**{name: text for name, text in given.items() if text is not None}, **training.given()}


def planned_steps(flags: MeasureFlags, training: MeasureStepFlags) -> list[StepCase]:
    """The steps that the flags ask for. Raises `InputError` for what is wrong or cannot run."""
    axes = step_axes(flags, training)
    required("--model", flags.model)
    check_choice("device", flags.device, DEVICES)
    cases, notes = step_cases(flags.device, axes)
    print_warnings(notes)
    return some_of(flags, cases, "steps")


def timed_steps(flags: MeasureFlags, cases: Sequence[StepCase], path: Path | None, command: str) -> list[Measurement]:
    """The records of the machine and of the steps, which go to the file at `path` one by one, if there is one."""
    run = load("gpt2cost.measure.train_steps", command)
    try:
        records: list[Measurement] = run.measure_steps(
            cases, flags.device, flags.threads, flags.rounds, path, tell, print_warnings
        )
    except KeyboardInterrupt:
        if path is not None:
            tell()
            print_warnings([f"stopped; the same command goes on from {path}"])
        raise
    return records


def _measure_steps(flags: MeasureFlags, training: MeasureStepFlags, sink: Sink) -> None:
    lines = sink.format == "jsonl"
    if lines and sink.output is not None and sink.output.suffix.lower() == ".gz":
        raise InputError("-o: steps are written one by one, so that the file cannot be compressed: leave out .gz")
    records = timed_steps(flags, planned_steps(flags, training), sink.output if lines else None, "measure")
    if not lines:
        sink.show(MEASURED_STEPS, records)
    elif sink.output is None:
        sink.rows([dict(record) for record in records])


# ---------------------------------------------------------------------------------------------- the command


@takes
def measure(
    *,
    flags: MeasureFlags,
    phase: PhaseFlag = "pass",
    kernels: Annotated[bool, typer.Option("--kernels", help="Profile one pass of each too.")] = False,
    evidence: Annotated[
        Path | None, typer.Option("--evidence", help="Write the passes to this YAML as a device's evidence.")
    ] = None,
    training: MeasureStepFlags,
    out: OutputFlags,
) -> None:
    """Time GPT-2 with random weights on this machine, in passes or in training steps: as jsonl, for validate and
    calibrate.

    With --phase train and --format jsonl each step is in the file of -o once it is measured: stopped, it goes on.
    """
    sink = out.sink()
    check_choice("phase", phase, ("pass", TRAIN))
    if phase == TRAIN:
        refuse({"kernels": kernels, "evidence": evidence}, NOT_OF_STEPS)
        _measure_steps(flags, training, sink)
        return
    refuse(vars(training), ONLY_TRAINING)
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
