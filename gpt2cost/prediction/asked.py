"""What `tree` and `explain_step` are asked about: one pass, or a micro-step of training, on a device or on none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt2cost.device.catalog import load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.one_pass import symbol_values
from gpt2cost.prediction.predict import check_runs, passes_of
from gpt2cost.prediction.settings import (
    TRAIN,
    How,
    Number,
    Sizes,
    beyond_positions,
    check_cache,
    check_cached,
    check_how,
    check_implementation,
    check_single_sizes,
)
from gpt2cost.prediction.train_settings import TrainHow, check_train_how, check_training, check_trains, with_dropout
from gpt2cost.table.config import Model, load_model

USUAL = {"dtype": None, "cache": 0, "logits": "all", "use_cache": True, "cache_type": "dynamic"}
"""What of a pass training does not have -> what it is where it is not given."""
TRAINED = ("precision", "checkpointing", "dropout")
"""What only training has."""


@dataclass(frozen=True, eq=False)
class Asked:
    """One pass, named `phase`; of training (`train`) a micro-step. `symbols`: the values of the formulas."""

    model: Model
    hardware: Hardware | None
    how: How
    train: TrainHow | None
    phase: str
    sizes: Sizes
    symbols: Mapping[str, Number]
    warnings: tuple[str, ...]


def asked_for(model: object, gpu: str | Hardware | None, phase: str, *, batch: Any, seq: Any, **given: Any) -> Asked:
    """What the arguments of `tree` and `explain_step` ask for. Raises `InputError` for the first that is wrong."""
    loaded, hardware = load_model(model), None if gpu is None else load_hardware(gpu)
    trained = {name: given.pop(name) for name in TRAINED}
    if phase != TRAIN:
        for name, value in trained.items():
            if value is not None:
                raise InputError(f"{name}: goes with phase train alone")
        sizes = check_single_sizes(batch, seq, given.pop("cache"), given["use_cache"])
        return _of_pass(loaded, hardware, check_how(**given), sizes, phase)
    for name, value in USUAL.items():
        if given.pop(name) != value:
            raise InputError(f"{name}: not of training, which has precision, checkpointing and dropout")
    dropped = with_dropout(loaded, trained.pop("dropout"), given["impl"])
    train = check_train_how(**given, **{name: value for name, value in trained.items() if value is not None})
    return _of_step(dropped, hardware, train, check_single_sizes(batch, seq, 0))


def _of_pass(model: Model, hardware: Hardware | None, how: How, sizes: Sizes, phase: str) -> Asked:
    how = how.on(model)
    check_cached(model, how, sizes)
    if hardware is None:
        check_implementation(how, model.head_dim)
        check_cache(how)
    else:
        check_runs(model, hardware, how, sizes, phase)
    ((name, own),) = passes_of(sizes, phase, how.use_cache)
    warnings = (*model.notes, *beyond_positions(model, f"{name}: kv_len", own.kv_len))
    return Asked(model, hardware, how, None, name, own, symbol_values(model, how.dtype, own), warnings)


def _of_step(model: Model, hardware: Hardware | None, train: TrainHow, sizes: Sizes) -> Asked:
    train = train.on(model)
    check_trains(model)
    if hardware is None:
        check_implementation(train.how, model.head_dim)
    else:
        check_training(hardware, train, model)
    values = symbol_values(model, train.precision, sizes)
    warnings = (*model.notes, *beyond_positions(model, "seq:", sizes.seq_len))
    return Asked(model, hardware, train.how, train, TRAIN, sizes, values, warnings)
