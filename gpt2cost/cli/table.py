"""`gpt2cost table`: the cost table itself."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from gpt2cost.checks import check_choice
from gpt2cost.cli.flags import ModelFlags, OutputFlags, WorkFlags, choice, takes
from gpt2cost.cli.train_many import NOT_OF_TRAINING, ONLY_TRAINING, TrainRowFlags, refuse
from gpt2cost.output.table import TABLE, CostTable
from gpt2cost.prediction.one_pass import symbol_values, table_options, table_rows
from gpt2cost.prediction.settings import TRAIN, check_cached, check_implementation
from gpt2cost.prediction.train_settings import check_train_how, with_dropout
from gpt2cost.prediction.train_step import train_options, train_rows

PASSES = ("pass", TRAIN)


@takes
def table(
    *,
    model: ModelFlags,
    work: WorkFlags,
    phase: Annotated[str, choice("--phase", PASSES, "pass, or train: forward and backward, with gradients.")] = "pass",
    training: TrainRowFlags,
    out: OutputFlags,
) -> None:
    """Print the cost table symbolically: each kernel's formulas and the source line they stand for.

    With --model, its kernels with their numbers at the sizes given. Of training, --batch is the micro-batch.
    """
    sink = out.sink()
    check_choice("phase", phase, PASSES)
    sink.show(TABLE, _trained(model, work, training) if phase == TRAIN else _passed(model, work, training))


def _passed(model: ModelFlags, work: WorkFlags, training: TrainRowFlags) -> CostTable:
    refuse(vars(training), ONLY_TRAINING)
    how, sizes = work.how(), work.sizes()
    loaded = model.load_model(default="gpt2")
    how = how.on(loaded)
    check_implementation(how)
    check_cached(loaded, how, sizes)
    rows = table_rows(table_options(loaded, how), how.runtime)
    symbols = None if model.model is None else symbol_values(loaded, how.dtype, sizes)
    return CostTable(how.attn, how.impl or loaded.impl, {"": rows}, symbols)


def _trained(model: ModelFlags, work: WorkFlags, training: TrainRowFlags) -> CostTable:
    """Of one micro-step of --batch sequences."""
    usual = {field.name: field.default for field in dataclasses.fields(WorkFlags)}
    of_passes = ("dtype", "cache", "logits", "cache_type", "no_use_cache")
    refuse({name: getattr(work, name) for name in of_passes if getattr(work, name) != usual[name]}, NOT_OF_TRAINING)
    asked = {name: value for name, value in vars(training).items() if value is not None}
    dropout = asked.pop("dropout", None)
    how = check_train_how(attn=work.attn, runtime=work.runtime, impl=work.impl, **asked)
    sizes = work.sizes()
    loaded = with_dropout(model.load_model(default="gpt2"), dropout, work.impl)
    how = how.on(loaded)
    check_implementation(how.how)
    rows = train_rows(train_options(loaded, how), how.checkpointing, how.how.runtime, how.numbers.a_bytes)
    symbols = None if model.model is None else symbol_values(loaded, how.precision, sizes)
    phases = {"forward": rows.forward, "backward": rows.backward}
    return CostTable(how.how.attn, how.how.impl or loaded.impl, phases, symbols)
