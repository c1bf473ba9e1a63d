"""One step of a pass on its own: a kernel, or what launches none, with its numbers, its reason and its time.

A step is named by its path, by the end of it (`cat_key`, `h.attn.cat_key`) or by a module's, which stands for all that
it runs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpt2cost.checks import check_choice, check_flag
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, echo, nearest
from gpt2cost.prediction.asked import Asked, asked_for
from gpt2cost.prediction.explain import KernelExplanation, explained
from gpt2cost.prediction.one_pass import KernelCost, Pass, run_rows, table_options, table_rows
from gpt2cost.prediction.settings import (
    TRAIN,
    How,
    Number,
    Sizes,
    check_implementation,
    check_writes,
    logits_in_generate,
)
from gpt2cost.prediction.train_settings import Batch, TrainHow
from gpt2cost.prediction.train_step import rows_of_step, step_work, train_options
from gpt2cost.result import Result
from gpt2cost.table import generate_loop, nanogpt
from gpt2cost.table.config import Model, load_model
from gpt2cost.table.kernel import Free, Kernel, Row, inside_out, short_path
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS
from gpt2cost.table.why.reasons import Why, why

GENERATE = "generate"
STEP_PHASES = ("prefill", "decode", GENERATE, TRAIN)
_LAYER = re.compile(r"(?<=\bh)\.(\d+)(?=\.|$)")
"""The number of a block in a path."""
MANY = 3
"""A name that stands for more steps than these stands for a group, as that of a module does."""


@dataclass(frozen=True)
class StepTime:
    """What a step takes on a device. `share`: of its pass's kernel time."""

    explanation: KernelExplanation
    bound: str
    share: float
    attention_kernel: str | None


@dataclass(frozen=True, eq=False)
class Step:
    """A step of one pass. `launches`: how often it runs at these sizes; `time`: None without a device or launches."""

    phase: str
    row: Row
    symbols: Mapping[str, Number]
    launches: int
    why: Why
    time: StepTime | None

    @property
    def path(self) -> str:
        """Its address; of a module's own call the module's."""
        return _path(self.row)

    @property
    def kernel(self) -> Kernel | None:
        """None of a step that launches none."""
        return self.row.step if isinstance(self.row.step, Kernel) else None

    def figure(self, name: str) -> int:
        """One of `flops`, `reads` and `writes` over all launches."""
        return 0 if self.kernel is None else self.launches * int(getattr(self.kernel, name).evaluate(self.symbols))


@dataclass(frozen=True, eq=False, repr=False)
class StepExplanation(Result):
    """What `explain_step` returns. `group`: the path of the module that was asked for; "" of single steps."""

    shown_by = "explain"

    model: Model
    hardware: Hardware | None
    how: How
    train: TrainHow | None
    sizes: Sizes
    group: str
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Part:
    """One pass of what was asked for: its rows with the values of their symbols, and its times on a device."""

    phase: str
    rows: tuple[Row, ...]
    symbols: Mapping[str, Number]
    pass_: Pass | None = None

    def step(self, row: Row, hardware: Hardware | None, how: How) -> Step:
        costs = () if self.pass_ is None else self.pass_.kernels
        cost = next((cost for cost in costs if cost.row.index == row.index), None)
        time = None if cost is None or hardware is None else _time(self, cost, hardware, how)
        return Step(self.phase, row, self.symbols, row.times(self.symbols), why(row), time)


def _time(part: _Part, cost: KernelCost, hardware: Hardware, how: How) -> StepTime:
    assert part.pass_ is not None
    share = float(cost.device_s / part.pass_.device_s)
    explanation = explained(hardware, how, cost, part.symbols)
    return StepTime(explanation, str(cost.bound), share, cost.attention_kernel)


def explain_step(
    model: object,
    step: str,
    gpu: str | Hardware | None = None,
    *,
    batch: int = 1,
    seq: int = 128,
    cache: int = 0,
    dtype: str | None = None,
    attn: str | None = None,
    runtime: str = "eager",
    phase: str = "prefill",
    logits: str = "all",
    use_cache: bool = True,
    cache_type: str = "dynamic",
    impl: str | None = None,
    sample: bool = False,
    precision: str | None = None,
    checkpointing: str | None = None,
    dropout: float | None = None,
) -> StepExplanation:
    """Explain one step of a model, such as `h.attn.cat_key`: what it does and why, its tensors, formulas and numbers.

    `step` is a path, the end of one, or a module's, which stands for all its steps. Other arguments as in `predict`;
    with a `gpu` there is also what the step takes there. `phase` may also be `generate`, with what runs around the pass
    (`sample`: tokens are drawn), or `train`, with `train`'s `precision`, `checkpointing` and `dropout`.

    Raises `InputError` for anything unknown or impossible, with what would be right.
    """
    check_choice("phase", phase, STEP_PHASES)
    if check_flag("sample", sample) and phase != GENERATE:
        raise InputError("sample: goes with phase generate alone")
    if phase == GENERATE:
        model = load_model(model)
        check_writes(model)
        logits = logits_in_generate(model)
    asked = asked_for(
        model, gpu, "prefill" if phase == GENERATE else phase, batch=batch, seq=seq, cache=cache, dtype=dtype,
        attn=attn, runtime=runtime, logits=logits, use_cache=use_cache,
        cache_type=cache_type, impl=impl, precision=precision, checkpointing=checkpointing, dropout=dropout,
    )  # fmt: skip
    layer = _LAYER.search(step)
    if layer and int(layer[1]) >= asked.model.n_layer:
        last = asked.model.n_layer - 1
        raise InputError(f"step: {asked.model.name} has the layers h.0 to h.{last}, got {echo(layer[0][1:])}")
    train, hardware = asked.train, asked.hardware
    if train is not None:
        parts = list(_of_training(asked, train))
        hardware = None if hardware is None else hardware.under_load
    else:
        parts = list(_of_pass(asked, phase == GENERATE, sample))
    group, rows = _found(step, parts)
    if not rows:
        elsewhere = "" if train else _elsewhere(step, asked.model, asked.how)
        raise InputError(_unknown(step, parts, elsewhere))
    steps = tuple(part.step(row, hardware, asked.how) for part, row in rows)
    return StepExplanation(asked.model, hardware, asked.how, train, asked.sizes, group, steps, asked.warnings)


def _of_pass(asked: Asked, in_generate: bool, sample: bool) -> Iterator[_Part]:
    """A pass, and what `generate` runs around it."""
    how, hardware, values = asked.how, asked.hardware, asked.symbols
    options = dataclasses.replace(table_options(asked.model, how, hardware), in_generate=in_generate)
    rows = {asked.phase: (table_rows(options, how.runtime), how.runtime)}
    if in_generate and how.impl == "nanogpt":
        rows["before a pass"] = nanogpt.before(), "eager"
        rows["after a pass"] = nanogpt.after(sample), "eager"
    elif in_generate:
        eager = dataclasses.replace(options, traced=False)
        several, prompted = asked.sizes.batch_size > 1, asked.sizes.seq_len > 1
        rows["before all passes"] = generate_loop.setup(eager, several, prompted), "eager"
        rows["before a pass"] = generate_loop.before(eager), "eager"
        rows["after a pass"] = generate_loop.after(eager, sample), "eager"
    for name, (listed, runtime) in rows.items():
        pass_ = None if hardware is None else run_rows(listed, values, hardware, how.dtype, runtime)
        yield _Part(name, listed, values, pass_)


def _of_training(asked: Asked, train: TrainHow) -> Iterator[_Part]:
    """The passes of a step, with those that only some steps have: several micro-steps, several GPUs."""
    model, sizes = asked.model, asked.sizes
    if asked.hardware is None:
        listed = rows_of_step(train_options(model, train), train, model.tie_word_embeddings)
        yield from (_Part(name, rows, asked.symbols) for name, rows in listed.items())
        return
    work = step_work(model, asked.hardware, train, Batch(sizes.batch_size, sizes.seq_len, grad_accum=2, gpus=2))
    for field in dataclasses.fields(work):
        own: Pass = getattr(work, field.name)
        yield _Part(field.name, own.rows, asked.symbols, own)


# ---------------------------------------------------------------------------------------------- names


def _path(row: Row) -> str:
    """A step's path; of a module's own call the module's."""
    module = row.module.rpartition(".")[2]
    return row.module if isinstance(row.step, Free) and row.step.name == module else row.path


def _ends(path: str, asked: str) -> bool:
    return path == asked or path.endswith(f".{asked}")


def _found(asked: str, parts: Sequence[_Part]) -> tuple[str, list[tuple[_Part, Row]]]:
    """The path of the group that a name stands for, and the rows. A layer's number is left out: `h.0.attn`.

    What is called so as a whole comes before what only ends so: `generate` is the module, not a step in it.
    """
    name = _LAYER.sub("", asked)
    rows = [(part, row) for part in parts for row in part.rows if row.does_something]
    alone = [(part, row) for part, row in rows if _ends(_path(row), name) and _path(row) == row.path]
    modules = {module for _, row in rows for module in inside_out(row.module)} - {row.path for _, row in rows}
    if alone and name not in modules:
        different = {(part.phase, row.path, row.step.op): (part, row) for part, row in alone}
        return "" if len(different) <= MANY else name, list(different.values())
    merged = [(part, row) for part, row in rows if any(_ends(own.path, name) for own in _parts(row))]
    if merged:  # a compiler has put it into another kernel
        return "", merged[:MANY]
    inside = [(part, row) for part, row in rows if _inside(row, name)]
    if not any(isinstance(row.step, Kernel) for _, row in inside):  # all are in others, such as those of a mask
        inside += [(part, row) for part, row in rows if any(_inside(own, name) for own in _parts(row))]
    return ("" if len(inside) == 1 else name), inside


def _inside(row: Row, name: str) -> bool:
    return any(_ends(path, name) for path in inside_out(row.path))


def _parts(row: Row) -> tuple[Row, ...]:
    """The rows that a compiler has merged in one."""
    return row.step.parts if isinstance(row.step, Kernel) else ()


def _unknown(asked: str, parts: Sequence[_Part], elsewhere: str) -> str:
    """The message about a name that nothing has."""
    paths = {short_path(_path(row)) for part in parts for row in part.rows}
    paths |= {short_path(module) for part in parts for row in part.rows for module in inside_out(row.module)}
    last = {path.rpartition(".")[2]: path for path in sorted(paths)}
    hint = elsewhere or nearest(asked, paths) or nearest(asked.rpartition(".")[2], last)
    if not hint and len(asked) > 1 and (inside := sorted(path for path in paths if asked in path)):
        hint = f"did you mean {', '.join(map(repr, inside[:MANY]))}?"
    return f"step: nothing in this pass is called {echo(asked)}" + (
        f": {hint}" if hint else "; gpt2cost table lists all"
    )


def _elsewhere(asked: str, model: Model, how: How) -> str:
    """Which other way of running the model has such a step, if one has."""
    ways: list[tuple[str, dict[str, Any]]] = [(f"--attn {attn}", {"attn": attn}) for attn in ATTENTION_IMPLEMENTATIONS]
    ways += [("--runtime eager", {"runtime": "eager"}), ("--cache-type static", {"cache_type": "static"})]
    ways += [("--cache-type dynamic", {"cache_type": "dynamic"})]
    for flag, change in ways:
        try:
            other = dataclasses.replace(how, **change)
            check_implementation(other, model.head_dim)
            rows = table_rows(table_options(model, other), other.runtime)
        except InputError:
            continue
        if _found(asked, [_Part("", rows, {})])[1]:
            return f"{flag} has it"
    return ""
