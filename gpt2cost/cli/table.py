"""`gpt2cost table`: the cost table itself."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from gpt2cost.checks import check_choice
from gpt2cost.cli.choices import choice
from gpt2cost.cli.flags import ModelFlags, OutputFlags, WorkFlags, takes
from gpt2cost.cli.given import refuse, refuse_changed
from gpt2cost.cli.train_many import NOT_OF_TRAINING, ONLY_TRAINING, TrainRowFlags
from gpt2cost.errors import InputError
from gpt2cost.output.field import attributes, record_of
from gpt2cost.output.shared import HOW, SIZES
from gpt2cost.output.table import CostTable
from gpt2cost.output.table_text import TABLE
from gpt2cost.prediction.one_pass import symbol_values, table_options, table_rows
from gpt2cost.prediction.predict import passes_of
from gpt2cost.prediction.settings import TRAIN, Sizes, check_cache, check_cached, check_implementation
from gpt2cost.prediction.train_settings import check_train_how, one_dropout, with_dropout
from gpt2cost.prediction.train_step import train_options, train_rows
from gpt2cost.table.config import Model
from gpt2cost.table.narrowed import of_phase

PASSES = ("pass", "prefill", "decode", TRAIN)
PHASE_HELP = (
    "pass: all that may run; prefill (on an empty cache), decode (one token on a cache), with what is never launched"
    " left out; or train: forward and backward."
)


@takes
def table(
    *,
    model: ModelFlags,
    work: WorkFlags,
    phase: Annotated[str, choice("--phase", PASSES, PHASE_HELP)] = "pass",
    per_launch: Annotated[
        bool, typer.Option("--per-launch", help="Formulas of one launch, products as 2*m*n*k, and sums of modules.")
    ] = False,
    free: Annotated[bool, typer.Option("--free", help="Add the steps that launch no kernel, such as views.")] = False,
    training: TrainRowFlags,
    out: OutputFlags,
) -> None:
    """Print the cost table symbolically: each kernel's formulas and the source line they stand for.

    With --model, its kernels with their numbers at the sizes given. Of training, --batch is the micro-batch.
    """
    sink = out.sink()
    check_choice("phase", phase, PASSES)
    found = _trained(model, work, training) if phase == TRAIN else _passed(model, work, training, phase)
    if model.model is None:
        why = "goes with --model: without one the table has symbols"
        refuse_changed(work, why, "batch", "seq", "cache", "dtype")
        refuse({"set": model.set_ or None}, why)
    sink.show(TABLE, dataclasses.replace(found, per_launch=per_launch, free=free))


def _passed(model: ModelFlags, work: WorkFlags, training: TrainRowFlags, phase: str) -> CostTable:
    refuse(vars(training), ONLY_TRAINING)
    how, sizes = work.how(), work.sizes()
    loaded = model.load_model(default="gpt2")
    how = how.on(loaded)
    check_implementation(how, loaded.head_dim)
    check_cache(how)
    check_cached(loaded, how, sizes)
    options = table_options(loaded, how)
    rows = table_rows(options, how.runtime)
    if phase != "pass":
        if phase == "prefill" and sizes.cache_len:
            raise InputError(
                "--cache: expected 0 with --phase prefill, which is on an empty cache; --phase pass takes it"
            )
        rows = of_phase(rows, phase, options)
        ((_, sizes),) = passes_of(sizes, phase, how.use_cache)
    symbols = None if model.model is None else symbol_values(loaded, how.dtype, sizes)
    dtype = {} if model.model is not None else {"dtype": None}
    asked = {**_numbers(model, loaded, sizes), **record_of(attributes(*HOW, "impl"), how), **dtype}
    return CostTable(how.attn, how.impl or loaded.impl, {"": rows}, symbols, asked)


def _numbers(model: ModelFlags, loaded: Model, sizes: Sizes) -> dict[str, Any]:
    """What has values where a model is named; without one the symbols stand for them."""
    given = {"model": loaded.name, **record_of(attributes(*SIZES), sizes)}
    return given if model.model is not None else dict.fromkeys(given)


def _trained(model: ModelFlags, work: WorkFlags, training: TrainRowFlags) -> CostTable:
    """Of one micro-step of --batch sequences."""
    refuse_changed(work, NOT_OF_TRAINING, "dtype", "cache", "logits", "cache_type", "no_use_cache")
    asked = {name: value for name, value in vars(training).items() if value is not None}
    dropout = asked.pop("dropout", None)
    how = check_train_how(attn=work.attn, runtime=work.runtime, impl=work.impl, **asked)
    sizes = work.sizes()
    loaded = with_dropout(model.load_model(default="gpt2"), dropout, work.impl)
    how = how.on(loaded)
    check_implementation(how.how, loaded.head_dim)
    rows = train_rows(train_options(loaded, how), how.checkpointing, how.how.runtime, how.numbers.a_bytes)
    symbols = None if model.model is None else symbol_values(loaded, how.precision, sizes)
    phases = {"forward": rows.forward, "backward": rows.backward}
    own = {**record_of(attributes("attn", "runtime", "impl"), how.how), "checkpointing": how.checkpointing}
    asked_for = {**_numbers(model, loaded, sizes), "precision": how.precision, **own, "dropout": one_dropout(loaded)}
    return CostTable(how.how.attn, how.how.impl or loaded.impl, phases, symbols, asked_for)
