"""`gpt2cost validate`: predictions beside what is measured here and now, was measured, or was traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.exits import RangeExitFlags
from gpt2cost.cli.flags import DeviceFlags, OutputFlags, takes
from gpt2cost.cli.given import refuse
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
from gpt2cost.cli.train_many import ONLY_TRAINING, MeasureStepFlags
from gpt2cost.device.driver_names import device_called
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, plain
from gpt2cost.measure.evidence import is_asked_for
from gpt2cost.measure.records import Measurement, read_records
from gpt2cost.measure.score import Validation
from gpt2cost.measure.score import validate as score
from gpt2cost.measure.torch_trace import Trace, load_trace
from gpt2cost.measure.trace_says import device_of
from gpt2cost.measure.trace_validation import validate_trace
from gpt2cost.measure.train_records import asked_for, measured_steps
from gpt2cost.measure.train_validation import TrainValidation, validate_steps
from gpt2cost.output.messages import print_warnings
from gpt2cost.output.trace_found import FOUND, found_in
from gpt2cost.output.train_validation import TRAIN_VALIDATION
from gpt2cost.output.validation import validation_view
from gpt2cost.prediction.grid import make_grid
from gpt2cost.prediction.settings import LEAST, TRAIN, check_device
from gpt2cost.table.config import load_model

VENDORS = {"cpu": "cpu", "cuda": "nvidia", "mps": "apple"}
"""What is measured -> the vendor of the devices that predict it."""
OF_A_PREDICTION = (*LEAST, "case", "dtype", "attn", "runtime", "no_use_cache")
"""Flags that say with what a trace is compared, beside the model and the device."""
TRACE_HELP = (
    "Measure nothing: score the kernels in this trace (- is stdin) of torch.profiler, or of gpt2cost trace; without"
    " --model say what is in it."
)


@takes
def validate(
    *,
    flags: MeasureFlags,
    phase: PhaseFlag = "pass",
    on: DeviceFlags,
    kernels: Annotated[bool, typer.Option("--kernels", help="Score every kernel of a profiled pass too.")] = False,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="Measure nothing: score the measurements in this file (- is stdin) or folder."),
    ] = None,
    trace: Annotated[Path | None, typer.Option("--trace", help=TRACE_HELP)] = None,
    training: MeasureStepFlags,
    exits: RangeExitFlags,
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
    if trace is not None:
        refuse({"fail_on": exits.fail_on}, "kernels of a trace have no ranges")
    sink = out.sink()
    if trace is not None:
        read = load_trace(trace)
        if flags.model is None:
            refuse(
                {name: getattr(flags, name) for name in OF_A_PREDICTION},
                "goes with --model, to compare a trace with it",
            )
            on.load_any()
            print_warnings(f"{plain(str(trace))}: {note}" for note in (read.note,) if note)
            sink.show(FOUND, found_in(read))
        else:
            sink.show(validation_view(kernels=True), _traced(on, read, trace, flags))
        return
    hw = on.load_device()
    if phase == TRAIN:
        steps = _validated_steps(hw, from_, flags, training)
        sink.show(TRAIN_VALIDATION, steps)
        exits.leave(range=all(step.inside for step in steps.steps))
        return
    if from_ is not None:
        validation = score(hw, _recorded(from_, flags, kernels))
    else:
        validation = score(hw, _measured(hw, flags, kernels))
    if sink.format not in ("table", "json"):
        print_warnings(f"skipped {count} records: {reason}" for reason, count in validation.skipped.items())
    sink.show(validation_view(kernels), validation)
    exits.leave(range=all(scored.inside for scored in validation.passes))


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


def _traced(on: DeviceFlags, trace: Trace, path: Path, flags: MeasureFlags) -> Validation:
    """A trace, scored. Its sizes are the one given, else those that it recorded."""
    missing = [name for name in LEAST if getattr(flags, name) is None]
    if not flags.case and 0 < len(missing) < len(LEAST):
        raise InputError("--batch, --seq, --cache: expected all three for a trace, or none for those that it recorded")
    if on.gpu is None and (name := device_of(trace)):
        device = device_called(name)
        hint = f": --gpu {device.name}" if device else ""
        raise InputError(f"--gpu is required; {plain(str(path))} was recorded on {plain(name)}{hint}")
    hw, model = on.load_device(), load_model(flags.model)
    validation, warnings = validate_trace(
        trace, path, hw, model, flags.sizes(),
        dtype=flags.dtype, attn=flags.attn, runtime=flags.runtime, use_cache=not flags.no_use_cache,
    )  # fmt: skip
    print_warnings(warnings)
    return validation
