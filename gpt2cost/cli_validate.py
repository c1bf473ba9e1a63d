"""`gpt2cost validate`: predictions beside what is measured here and now, was measured, or was traced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from gpt2cost import grid as grids
from gpt2cost.cli_measure import (
    ROUNDS,
    BatchesFlag,
    CachesFlag,
    CasesFlag,
    DeviceFlag,
    MeasuredDtypesFlag,
    RoundsFlag,
    SeqsFlag,
    ThreadsFlag,
    UncachedFlag,
    chosen_sizes,
    planned,
    run_cases,
)
from gpt2cost.errors import InputError, plain
from gpt2cost.hardware import Hardware
from gpt2cost.measurement_records import Measurement, read_records
from gpt2cost.model import load_model
from gpt2cost.options import (
    AttnsFlag,
    FormatFlag,
    GpuFlag,
    HwSetFlag,
    ModelsFlag,
    OutputFlag,
    RuntimesFlag,
    chosen_device,
    required,
)
from gpt2cost.output import Sink, print_warnings
from gpt2cost.profiler_trace import read_trace, trace_sizes
from gpt2cost.render_validation import render_validation
from gpt2cost.settings import check_device, check_settings
from gpt2cost.torch_extra import need_torch
from gpt2cost.validation import Validation, score, score_trace, settings_of
from gpt2cost.validation_records import kernel_rows, pass_rows, validation_record

VENDORS = {"cpu": "cpu", "cuda": "nvidia", "mps": "apple"}


def validate(
    model: ModelsFlag = None,
    gpu: GpuFlag = None,
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
    kernels: Annotated[bool, typer.Option("--kernels", help="Score every kernel of a profiled pass too.")] = False,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", help="Measure nothing: score the measurements in this file or folder.", show_default=False
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", help="Measure nothing: score the kernels in this trace of torch.profiler.", show_default=False
        ),
    ] = None,
    hw_set: HwSetFlag = None,
    format: FormatFlag = "table",
    output: OutputFlag = None,
) -> None:
    """Put predictions beside measurements of this machine, pass by pass and kernel by kernel."""
    if from_ is not None and trace is not None:
        raise InputError("--from and --trace: expected one of them")
    if from_ is None and trace is None:
        need_torch("validate")
    sink, hw = Sink(format, output), chosen_device(gpu, hw_set)
    sizes = chosen_sizes(batch, seq, cache, case)
    choices = {"model": model, "dtype": dtype, "attn": attn, "runtime": runtime}
    if trace is not None:
        axes = [flag is not None for flag in (batch, seq, cache)]
        found = _traced(hw, trace, sizes, case is not None or all(axes), any(axes), choices, not no_use_cache)
    elif from_ is not None:
        kinds = ("profile",) if kernels else ()
        found = score(hw, _asked(read_records(from_), kinds, choices, sizes))
    else:
        found = score(hw, _measured(hw, sizes, device, choices, no_use_cache, threads, rounds, kernels))

    if format in ("table", "json"):
        document = validation_record(found)
        sink.document(document, lambda page: render_validation(page, document, kernels or trace is not None))
    else:
        print_warnings(f"skipped {count} records: {reason}" for reason, count in found.skipped.items())
        sink.rows(kernel_rows(found.profiles) if kernels or trace is not None else pass_rows(found.passes))


def _measured(
    hw: Hardware,
    sizes: list[tuple[int, int, int]] | None,
    device: str,
    choices: dict[str, str | None],
    no_use_cache: bool,
    threads: int | None,
    rounds: int,
    kernels: bool,
) -> list[Measurement]:
    """Measurements of this machine, without those that failed."""
    cases = planned(sizes, device, {**choices, "model": required("--model", choices["model"])}, no_use_cache)
    for one in cases:
        check_device(hw, one.dtype, one.attn, one.runtime)
    if hw.vendor != VENDORS[device]:
        print_warnings([f"--device {device} is measured, but {hw.name} is of vendor {hw.vendor}"])
    return [record for record in run_cases(cases, device, threads, rounds, kernels) if "error" not in record]


def _asked(
    records: Iterable[Measurement],
    kinds: tuple[str, ...],
    choices: dict[str, str | None],
    sizes: Sequence[tuple[int, int, int]] | None,
) -> list[Measurement]:
    """The recorded passes, and records of `kinds`, that the flags let through."""
    wanted = {name: set(grids.split_list(name, text)) for name, text in choices.items() if text is not None}
    found = []
    for record in records:
        if record["kind"].startswith("pass") or record["kind"] in kinds:
            settings = settings_of(record)
            values = {"model": record["model"], **{n: getattr(settings, n) for n in ("dtype", "attn", "runtime")}}
            size = (settings.batch_size, settings.seq_len, settings.cache_len)
            if all(values[name] in allowed for name, allowed in wanted.items()) and size in (sizes or [size]):
                found.append(record)
    return found


def _traced(
    hw: Hardware,
    path: Path,
    sizes: list[tuple[int, int, int]] | None,
    complete: bool,
    some: bool,
    choices: dict[str, str | None],
    use_cache: bool,
) -> Validation:
    """A trace, scored. Its sizes are those given, else those that it recorded."""
    where = plain(str(path))
    observed = read_trace(path)
    if some and not complete:
        raise InputError("--batch, --seq, --cache: expected all three for a trace, or none for those that it recorded")
    if sizes is None and (recorded := trace_sizes(path)) is not None:
        sizes = [recorded]
    if sizes is None:
        raise InputError(f"{where}: no shapes were recorded; give --batch, --seq and --cache")
    if len(sizes) != 1:
        raise InputError(f"{where}: expected one size for a trace, got {len(sizes)}")
    usual_dtype = "fp32" if hw.vendor == "cpu" else "fp16"
    usual = {"model": "", "dtype": usual_dtype, "attn": "sdpa", "runtime": "eager"}
    names = {name: choices[name] or text for name, text in usual.items()}
    model = load_model(required("--model", choices["model"]))
    settings = check_settings(
        *sizes[0], names["dtype"], names["attn"], names["runtime"], "prefill", "all", use_cache and model.use_cache
    )
    check_device(hw, settings.dtype, settings.attn, settings.runtime)
    return Validation(hw, (), (score_trace(hw, model, settings, observed),), {})
