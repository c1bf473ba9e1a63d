"""`gpt2cost compare`: the same work on several candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.choices import choice
from gpt2cost.cli.exits import ExitFlags
from gpt2cost.cli.flags import PHASE_HELP, LogitsFlags, OutputFlags, takes
from gpt2cost.cli.given import named_as_given, refuse, refuse_changed, required
from gpt2cost.cli.many import EnergyFlag, GivenSizeFlags, ManyFlags, with_energy
from gpt2cost.cli.train_many import NOT_OF_TRAINING, ONLY_TRAINING, TrainListFlags
from gpt2cost.errors import InputError
from gpt2cost.output.messages import print_warnings
from gpt2cost.output.phases import SIDE_BY_SIDE
from gpt2cost.output.sink import Sink
from gpt2cost.prediction.compare import compare_choices
from gpt2cost.prediction.energy import check_board_power
from gpt2cost.prediction.grid import make_grid
from gpt2cost.prediction.predict import predict_run
from gpt2cost.prediction.settings import PHASES, TRAIN, Sizes, check_sizes
from gpt2cost.prediction.sweep import Choice, plan
from gpt2cost.prediction.train_compare import candidates_of, compare_points
from gpt2cost.prediction.train_sweep import make_train_grid, plan_training

MOST = 20
"""The most candidates that can be put side by side."""


@takes
def compare(
    *,
    many: ManyFlags,
    sizes: GivenSizeFlags,
    phase: Annotated[str, choice("--phase", (*PHASES, TRAIN), f"{PHASE_HELP}; train: a step.")] = "both",
    phases: Annotated[
        bool, typer.Option("--phases", help="Of one candidate: prefill beside decode, a row per module.")
    ] = False,
    outputs: LogitsFlags,
    energy: EnergyFlag = False,
    training: TrainListFlags,
    exits: ExitFlags,
    out: OutputFlags,
) -> None:
    """Compare models, devices, dtypes, attention implementations, runtimes or --impl, each against the first.

    Shows the ratios, the difference by kernel kind, and the batch and sequence length where the ranking changes.
    """
    sink, axes = out.sink(), many.axes()
    for name in ("model", "gpu"):
        required(f"--{name}", axes[name])
    check_choice("phase", phase, (*PHASES, TRAIN))
    if phases and phase != "both":
        raise InputError(f"--phases: shows prefill and decode, so that it takes no --phase {phase}")
    if phase == TRAIN:
        _compare_training(many, sizes, outputs, training, energy, exits, sink)
        return
    refuse(vars(training), ONLY_TRAINING)
    given, use_cache = sizes.or_usual(), not outputs.no_use_cache
    fixed = {"phase": phase, "logits": outputs.logits, "use_cache": use_cache, "cache_type": outputs.cache_type}
    grid = make_grid(**axes, **given, **fixed)
    with named_as_given(encoder_len=many.encoder_len):
        choices, warnings = plan(grid, many.model_changes(), many.hw_changes())
    checked = check_sizes(**given, use_cache=use_cache)
    if energy:
        check_board_power(choice.hardware for choice in choices)
    if phases:
        _compare_phases(choices, checked, warnings, energy, exits, sink)
        return
    _check_count(len(choices), warnings)
    comparison = compare_choices(choices, checked, phase, warnings)
    print_warnings(comparison.warnings)
    sink.show(with_energy(comparison.view, energy), comparison)
    predictions = [candidate.prediction for candidate in comparison.candidates]
    exits.leave(oom=all(one.memory.fits for one in predictions), positions=all(one.valid for one in predictions))


def _compare_phases(
    choices: Sequence[Choice], sizes: Sizes, warnings: Sequence[str], energy: bool, exits: ExitFlags, sink: Sink
) -> None:
    """The two passes of one run side by side."""
    if len(choices) != 1:
        print_warnings(warnings)
        raise InputError(f"--phases: expected one model, device and setting, got {len(choices)} candidates")
    (choice,) = choices
    prediction = predict_run(choice.model, choice.hardware, choice.how, sizes)
    if len(prediction.phases) != 2:
        raise InputError("--phases: --seq 1 on a cache is a decode step, which has no prefill beside it")
    print_warnings((*warnings, *prediction.warnings))
    sink.show(with_energy(SIDE_BY_SIDE, energy), prediction)
    exits.leave(oom=bool(prediction.memory.fits), positions=prediction.valid)


def _compare_training(
    many: ManyFlags, sizes: GivenSizeFlags, outputs: LogitsFlags, training: TrainListFlags, energy: bool,
    exits: ExitFlags, sink: Sink,
) -> None:  # fmt: skip
    """Training steps side by side."""
    refuse({"batch": sizes.batch, "cache": sizes.cache, "dtype": many.dtype}, NOT_OF_TRAINING)
    refuse_changed(outputs, NOT_OF_TRAINING)
    axes = {name: value for name, value in many.axes().items() if name != "dtype"}
    grid = make_train_grid(**axes, seq=sizes.seq, **training.given())
    with named_as_given(encoder_len=many.encoder_len):
        choices, warnings = plan_training(grid, many.model_changes(), many.hw_changes())
    if energy:
        check_board_power(choice.hardware for choice in choices)
    points = candidates_of(grid, choices)
    _check_count(len(points), warnings)
    comparison = compare_points(points, warnings)
    print_warnings(comparison.warnings)
    sink.show(with_energy(comparison.view, energy), comparison)
    trained = [candidate.training for candidate in comparison.candidates]
    exits.leave(oom=all(one.memory.fits for one in trained), positions=all(one.valid for one in trained))


def _check_count(count: int, warnings: Sequence[str]) -> None:
    """Raise `InputError` for too few or too many candidates, after the warnings that may say why."""
    if not 2 <= count <= MOST:
        print_warnings(warnings)
        reason = "only one runs" if count == 1 else f"these are {count}"
        raise InputError(f"compare: expected 2 to {MOST} candidates, such as --gpu a100,h100; {reason}")
