"""`gpt2cost validate`: predictions beside what is measured here and now, was measured, or was traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.flags import DeviceFlags, OutputFlags, required, takes
from gpt2cost.cli.measure import (
    NOT_OF_STEPS,
    MeasureFlags,
    PhaseFlag,
    measured,
    planned,
    planned_steps,
    some_of,
    step_axes,
    timed_steps,
)
from gpt2cost.cli.train_many import ONLY_TRAINING, MeasureStepFlags, refuse
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, plain
from gpt2cost.measure.evidence import is_asked_for
from gpt2cost.measure.plan import usual_dtype
from gpt2cost.measure.records import Measurement, read_records
from gpt2cost.measure.score import Validation, score_trace
from gpt2cost.measure.score import validate as score
from gpt2cost.measure.torch_trace import read_sized_trace, size_of_trace
from gpt2cost.measure.train_records import asked_for, measured_steps
from gpt2cost.measure.train_validation import TrainValidation, validate_steps
from gpt2cost.output.messages import print_warnings
from gpt2cost.output.train_validation import TRAIN_VALIDATION
from gpt2cost.output.validation import validation_view
from gpt2cost.prediction.grid import make_grid
from gpt2cost.prediction.settings import LEAST, TRAIN, check_device, check_how
from gpt2cost.table.config import load_model

VENDORS = {"cpu": "cpu", "cuda": "nvidia", "mps": "apple"}
"""What is measured -> the vendor of the devices that predict it."""


@takes
def validate(
    *,
    flags: MeasureFlags,
    phase: PhaseFlag = "pass",
    on: DeviceFlags,
    kernels: Annotated[bool, typer.Option("--kernels", help="Score every kernel of a profiled pass too.")] = False,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Measure nothing: score the measurements in this file or folder.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="Measure nothing: score the kernels in this trace of torch.profiler.")
    ] = None,
    training: MeasureStepFlags,
    out: OutputFlags,
) -> None:
    """Put predictions beside measurements of this machine: pass by pass and kernel by kernel, or training steps."""
    check_choice("phase", phase, ("pass", TRAIN))
    if phase == TRAIN:
        refuse({"kernels": kernels, "trace": trace}, NOT_OF_STEPS)
    else:
        refuse(vars(training), ONLY_TRAINING)
    if trace is not None and flags.shard is not None:
        raise InputError("--shard: a trace is scored as a whole")
    if from_ is not None and trace is not None:
        raise InputError("--from and --trace: expected one of them")
    sink, hw = out.sink(), on.load_device()
    if phase == TRAIN:
        sink.show(TRAIN_VALIDATION, _validated_steps(hw, from_, flags, training))
        return
    if trace is not None:
        validation = _traced(hw, trace, flags)
    elif from_ is not None:
        validation = score(hw, _recorded(from_, flags, kernels))
    else:
        validation = score(hw, _measured(hw, flags, kernels))
    if sink.format not in ("table", "json"):
        print_warnings(f"skipped {count} records: {reason}" for reason, count in validation.skipped.items())
    sink.show(validation_view(kernels or trace is not None), validation)


def _measured(hw: Hardware, flags: MeasureFlags, kernels: bool) -> Iterable[Measurement]:
    """Measurements of this machine, without those that failed."""
    cases = planned(flags, "validate")
    for case in cases:
        check_device(hw, case.how)
    flags = _as_calibrated(hw, flags)
    return [record for record in measured(flags, cases, kernels, "validate") if "error" not in record]


def _as_calibrated(hw: Hardware, flags: MeasureFlags) -> MeasureFlags:
    """The flags with the threads of the calibration, unless others are asked for. Warns of a device of another kind."""
    if hw.vendor != VENDORS[flags.device]:
        print_warnings([f"--device {flags.device} is measured, but {hw.name} is of vendor {hw.vendor}"])
    if flags.threads is None and hw.vendor == flags.device == "cpu" and hw.calibration is not None and not hw.changes:
        return dataclasses.replace(flags, threads=hw.compute.units)
    return flags


def _validated_steps(
    hw: Hardware, path: Path | None, flags: MeasureFlags, training: MeasureStepFlags
) -> TrainValidation:
    """Training steps that are measured now, or that were and are asked for."""
    if path is None:
        cases = planned_steps(flags, training)
        for case in cases:
            case.predicted(hw)  # what the device cannot run is said before the work
        return validate_steps(hw, measured_steps(timed_steps(_as_calibrated(hw, flags), cases, None, "validate")))
    steps = asked_for(measured_steps(read_records(path)), step_axes(flags, training))
    if not steps:
        raise InputError(f"{plain(str(path))}: no measured training step is what the flags ask for")
    return validate_steps(hw, some_of(flags, steps, "steps"))


def _recorded(path: Path, flags: MeasureFlags, kernels: bool) -> Iterable[Measurement]:
    """The recorded passes that the flags ask for; profiles where kernels are asked for or there is nothing else."""
    given = {name: text for name, text in flags.axes().items() if text is not None}
    grid = make_grid(**{"model": "gpt2", "gpu": "none", **given})
    print_warnings(grid.notes)
    axes = {name: frozenset(getattr(grid, name)) for name in given}
    if "model" in axes:
        axes["model"] = frozenset(load_model(name).name for name in grid.model)
    cases = dataclasses.replace(flags, batch=None, seq=None, cache=None).sizes() or ()
    records = [record for record in read_records(path) if is_asked_for(record, cases, axes, flags.no_use_cache)]
    if not records:
        raise InputError(f"{plain(str(path))}: no measured pass is what the flags ask for")
    only_profiles = all(record["kind"] == "profile" for record in records)
    scored = [record for record in records if kernels or only_profiles or record["kind"] != "profile"]
    return some_of(flags, scored, "records")


def _traced(hw: Hardware, path: Path, flags: MeasureFlags) -> Validation:
    """A trace, scored. Its size is the one given, else the one that it recorded."""
    sizes, (observed, recorded) = flags.sizes(), read_sized_trace(path)
    missing = [name for name in LEAST if getattr(flags, name) is None]
    if not flags.case and 0 < len(missing) < len(LEAST):
        raise InputError("--batch, --seq, --cache: expected all three for a trace, or none for those that it recorded")
    size = size_of_trace(path, recorded, sizes)
    if hw.vendor != "cpu" and not any(op.kernels for op in observed):
        print_warnings([f"{plain(str(path))}: no kernels of a device in it: its ops' times are the host's"])
    model = load_model(required("--model", flags.model))
    dtype = flags.dtype or usual_dtype(hw.vendor == "cpu")
    how = check_how(dtype, flags.attn, flags.runtime or "eager", use_cache=not flags.no_use_cache).on(model)
    check_device(hw, how, model.head_dim)
    return Validation(hw, (), (score_trace(hw, model, how, size, observed),), {})
