"""`gpt2cost measure`: the real model, timed on the machine at hand."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpt2cost.checks import check_choice, check_size
from gpt2cost.cli.extras import need_torch
from gpt2cost.cli.flags import (
    DEVICES,
    MAX_THREADS,
    AttnsFlag,
    FormatFlag,
    ModelsFlag,
    OutputFlag,
    RuntimesFlag,
    among,
    required,
    several,
)
from gpt2cost.errors import InputError, echo
from gpt2cost.files import check_writable, write_text
from gpt2cost.measure.records import Measurement, of_kind
from gpt2cost.measure.score import evidence_yaml, source_of
from gpt2cost.output.record import envelope
from gpt2cost.output.sink import Sink, print_warnings, tell
from gpt2cost.output.validation import measured_op_rows, measured_rows, render_measured
from gpt2cost.prediction import grid as grids

if TYPE_CHECKING:
    from gpt2cost.measure.passes import PassCase


ROUNDS, MOST_ROUNDS = 8, 1000


USUAL_SIZES = (
    (1, 1, 64), (1, 1, 512), (8, 1, 512), (1, 16, 0), (1, 128, 0), (1, 512, 0), (4, 128, 0), (2, 64, 448),
)  # fmt: skip
"""(batch, seq, cache) where none is asked for: decode steps, prompts, and a prompt's next part."""


BatchesFlag = Annotated[
    str | None, typer.Option("--batch", "--batch-size", help="Sequences: 1,2,8, 1-64*2.", show_default=False)
]


SeqsFlag = Annotated[
    str | None, typer.Option("--seq", "--seq-len", help="New tokens: 64, 128-1024+128.", show_default=False)
]


CachesFlag = Annotated[
    str | None, typer.Option("--cache", "--cache-len", help="Tokens in the KV cache: 0,512.", show_default=False)
]


CasesFlag = Annotated[
    list[str] | None,
    typer.Option("--case", help="BATCH,SEQ,CACHE: one size instead of a grid; may be repeated.", show_default=False),
]


DeviceFlag = Annotated[
    str, typer.Option("--device", help="What to measure: cpu, cuda or mps.", autocompletion=among(*DEVICES))
]


MeasuredDtypesFlag = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Of fp32, fp16, bf16 one or more.",
        show_default="fp32 on a CPU, else fp16",
        autocompletion=several(among("fp32", "fp16", "bf16")),
    ),
]


ThreadsFlag = Annotated[
    int | None, typer.Option("--threads", help="Threads of a CPU.", show_default="as torch chooses")
]


RoundsFlag = Annotated[
    int, typer.Option("--rounds", help="How often all cases are measured; more where the machine is noisy.")
]


UncachedFlag = Annotated[bool, typer.Option("--no-use-cache", help="Without a KV cache; --cache is 0.")]


def measure(
    model: ModelsFlag = None,
    batch: BatchesFlag = None,
    seq: SeqsFlag = None,
    cache: CachesFlag = None,
    case: CasesFlag = None,
    device: DeviceFlag = "cpu",
    dtype: MeasuredDtypesFlag = None,
    attn: AttnsFlag = None,
    runtime: RuntimesFlag = None,
    no_use_cache: UncachedFlag = False,
    threads: ThreadsFlag = None,
    rounds: RoundsFlag = ROUNDS,
    kernels: Annotated[bool, typer.Option("--kernels", help="Profile one pass of each too.")] = False,
    evidence: Annotated[
        Path | None,
        typer.Option("--evidence", help="Write the passes to this YAML as a device's evidence.", show_default=False),
    ] = None,
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Time passes of HuggingFace's GPT-2 with random weights on this machine: as jsonl, for validate and calibrate."""
    need_torch("measure")
    sink = Sink(format, output)
    if evidence is not None:
        check_writable(evidence)
    sizes = chosen_sizes(batch, seq, cache, case)
    choices = {"model": required("--model", model), "dtype": dtype, "attn": attn, "runtime": runtime}
    cases = planned(sizes, device, choices, no_use_cache)
    records = run_cases(cases, device, threads, rounds, kernels)

    machine, passes, profiles = records[0], *(_fine(records, kind) for kind in ("pass", "profile"))
    if evidence is not None:
        write_text(evidence_yaml(passes, source_of(machine)), evidence)
    rows, ops = measured_rows(passes), measured_op_rows(profiles)
    match format:
        case "jsonl":
            sink.rows([dict(record) for record in records])
        case "json" | "table":
            document = {**envelope(), "machine": dict(machine), "passes": rows, "ops": ops}
            sink.document(document, lambda page: render_measured(page, rows, ops))
        case _:
            sink.rows(ops if kernels else rows)


def _fine(records: Sequence[Measurement], kind: str) -> list[Measurement]:
    return [record for record in of_kind(records, kind) if "error" not in record]


def chosen_sizes(
    batch: str | None, seq: str | None, cache: str | None, cases: Sequence[str] | None
) -> list[tuple[int, int, int]] | None:
    """The sizes (batch, seq, cache) of --case and of the grid of the other flags; None where no flag is given."""
    sizes = [_case(text) for text in cases or []]
    if batch is not None or seq is not None or cache is not None:
        grid = grids.make_grid(model="gpt2", gpu="none", batch=batch, seq=seq, cache=cache)
        print_warnings(grid.notes)
        sizes += [(int(b), int(s), int(c)) for b in grid.batch for s in grid.seq for c in grid.cache]
    return list(dict.fromkeys(sizes)) or None


def _case(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isascii() and part.strip().isdecimal() for part in parts):
        raise InputError(f"--case: expected BATCH,SEQ,CACHE such as 8,1,512, got {echo(text)}")
    batch, seq, cache = (int(part) if len(part) < 20 else 10**20 for part in parts)
    return check_size("batch", batch, 1), check_size("seq", seq, 1), check_size("cache", cache, 0)


def planned(
    sizes: list[tuple[int, int, int]] | None, device: str, choices: dict[str, Any], no_use_cache: bool
) -> list[PassCase]:
    """What to measure. `choices`: the axes of a grid as text. The usual sizes are those that the models can run."""
    from gpt2cost.measure.passes import pass_cases
    from gpt2cost.table.config import load_model

    check_choice("device", device, DEVICES)
    usual_dtype = "fp32" if device == "cpu" else "fp16"
    grid = grids.make_grid(
        gpu=device, use_cache=not no_use_cache, **{**choices, "dtype": choices["dtype"] or usual_dtype}
    )
    print_warnings(grid.notes)
    if sizes is None:
        models = [load_model(model) for model in grid.model]
        cached = grid.use_cache and all(model.use_cache for model in models)
        longest = min(model.n_positions for model in models)
        sizes = [size for size in USUAL_SIZES if size[1] + size[2] <= longest and (cached or not size[2])]
        if not sizes:
            raise InputError(f"--case: required, because no usual size fits into {longest} positions")
    return pass_cases(grid, sizes, device)


def run_cases(
    cases: Sequence[PassCase], device: str, threads: int | None, rounds: int, kernels: bool
) -> list[Measurement]:
    """Measure: the record of the machine, then the passes, then with `kernels` the profiles. Progress is on stderr.

    Raises `InputError` where no pass could be run.
    """
    from gpt2cost.measure.bench import Bench
    from gpt2cost.measure.passes import measure_passes, profile_passes

    if threads is not None:
        check_size("threads", threads, 1, MAX_THREADS)
    check_size("rounds", rounds, 1, MOST_ROUNDS)
    if kernels and device == "mps":
        raise InputError("--kernels: torch.profiler sees no kernels on mps, only the host's ops")
    bench = Bench(device, threads)
    records: list[Measurement] = [{**bench.machine(), "date": datetime.date.today().isoformat()}]
    records += measure_passes(bench, cases, rounds, tell=tell)
    if kernels:
        records += profile_passes(bench, cases, tell=tell)
    tell()
    failed = [record for record in records if "error" in record]
    print_warnings(
        f"{r['model']} {r['dtype']} {r['attn']} {r['runtime']} {r['batch']},{r['seq']},{r['cache']}: {r['error']}"
        for r in failed
    )
    if not _fine(records, "pass"):
        raise InputError(f"measure: no pass could be run: {failed[0]['error']}")
    return records
