"""`gpt2cost validate`: predictions beside what is measured here and now, was measured, or was traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from gpt2cost.cli.extras import need_torch
from gpt2cost.cli.flags import (
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
from gpt2cost.cli.measure import (
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
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, plain
from gpt2cost.measure.records import Measurement, read_records
from gpt2cost.measure.score import PASSES, Validation, score, score_trace, settings_of
from gpt2cost.measure.torch_trace import read_trace, trace_sizes
from gpt2cost.output.sink import Sink, print_warnings
from gpt2cost.output.validation import kernel_rows, pass_rows, render_validation, validation_record
from gpt2cost.prediction import grid as grids
from gpt2cost.prediction.settings import check_device, check_settings
from gpt2cost.table.config import load_model

SIZES = ("batch", "seq", "cache")


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
    sizes = chosen_sizes(batch, seq, cache, case) if from_ is None else None
    choices = {"model": model, "dtype": dtype, "attn": attn, "runtime": runtime}
    if trace is not None:
        axes = [flag is not None for flag in (batch, seq, cache)]
        found = _traced(hw, trace, sizes, case is not None or all(axes), any(axes), choices, not no_use_cache)
    elif from_ is not None:
        record_filter = _RecordFilter.of(case, {**choices, "batch": batch, "seq": seq, "cache": cache}, no_use_cache)
        records = [record for record in read_records(from_) if record_filter.accepts(record)]
        if not records:
            raise InputError(f"{plain(str(from_))}: no measured pass is what the flags ask for")
        only_profiles = all(record["kind"] == "profile" for record in records)
        found = score(hw, [r for r in records if kernels or only_profiles or r["kind"] != "profile"])
    else:
        if threads is None and hw.vendor == device == "cpu" and hw.calibration is not None and not hw.changes:
            threads = hw.compute.units  # as calibrated
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


@dataclass(frozen=True)
class _RecordFilter:
    """Which recorded passes the flags ask for. `axes` holds the values of those that were given."""

    cases: tuple[tuple[int, int, int], ...]
    axes: Mapping[str, frozenset[object]]
    uncached: bool

    @classmethod
    def of(cls, cases: Sequence[str] | None, given: Mapping[str, str | None], uncached: bool) -> _RecordFilter:
        """Raises `InputError` for a flag's value that is wrong."""
        grid = grids.make_grid(**{**given, "model": given["model"] or "gpt2", "gpu": "none"})
        print_warnings(grid.notes)
        axes = {name: frozenset(getattr(grid, name)) for name, text in given.items() if text is not None}
        if "model" in axes:
            axes["model"] = frozenset(load_model(name).name for name in grid.model)
        return cls(tuple(chosen_sizes(None, None, None, cases) or ()), axes, uncached)

    def accepts(self, record: Measurement) -> bool:
        """Whether a record is of a pass, or the profile of one, that is asked for."""
        if record["kind"] not in (*PASSES, "profile"):
            return False
        settings = settings_of(record)
        size = settings.batch_size, settings.seq_len, settings.cache_len
        values: dict[str, object] = dict(zip(SIZES, size, strict=True))
        values |= {name: getattr(settings, name) for name in ("dtype", "attn", "runtime")}
        if "model" in self.axes:
            values["model"] = _name_of(record["model"])
        chosen = all(values[name] in allowed for name, allowed in self.axes.items() if name not in SIZES)
        given = [values[name] in self.axes[name] for name in SIZES if name in self.axes]
        fits = size in self.cases or (all(given) if given else not self.cases)
        return chosen and fits and not (self.uncached and settings.use_cache)


def _name_of(model: str) -> str:
    """A model's name; of one that is not at hand, what the record calls it."""
    try:
        return load_model(model).name
    except InputError:
        return model


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
    recorded = trace_sizes(path)
    if sizes is None and recorded is not None:
        sizes = [recorded]
    if sizes is None:
        raise InputError(f"{where}: no shapes were recorded; give --batch, --seq and --cache")
    if len(sizes) != 1:
        raise InputError(f"{where}: expected one size for a trace, got {len(sizes)}")
    known = 3 if recorded and recorded[2] else 2  # a static cache leaves no trace of how full it is
    if recorded is not None and recorded[:known] != sizes[0][:known]:
        what = ", ".join(SIZES[:known])
        raise InputError(f"{where}: its {what} are {recorded[:known]}, got {sizes[0][:known]}")
    if hw.vendor != "cpu" and not any(one.kernels for one in observed):
        print_warnings([f"{where}: no kernels of a device in it: its ops' times are the host's"])
    usual_dtype = "fp32" if hw.vendor == "cpu" else "fp16"
    usual = {"model": "", "dtype": usual_dtype, "attn": "sdpa", "runtime": "eager"}
    names = {name: choices[name] or text for name, text in usual.items()}
    model = load_model(required("--model", choices["model"]))
    settings = check_settings(
        *sizes[0], names["dtype"], names["attn"], names["runtime"], "prefill", "all", use_cache and model.use_cache
    )
    check_device(hw, settings.dtype, settings.attn, settings.runtime)
    return Validation(hw, (), (score_trace(hw, model, settings, observed),), {})
