"""How a model is trained: the flags of a step, the arithmetic of its batch, and the checks of what the user gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpt2cost.checks import Size, check_choice, check_flag, check_point, check_positive
from gpt2cost.device.dtypes import PRECISIONS, Precision
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, echo
from gpt2cost.prediction.settings import How, Sizes, check_device
from gpt2cost.table.config import Model
from gpt2cost.table.config_file import PDROPS
from gpt2cost.table.heads import CLASSES, CLASSIFIES
from gpt2cost.table.optimizer import OPTIMIZERS, Optimizer
from gpt2cost.table.options import ATTENTION_IMPLEMENTATIONS, CHECKPOINTING, IMPLEMENTATIONS, Checkpointing
from gpt2cost.units import EXPECTED_COUNT, parse_count

TRAIN_RUNTIMES = ("eager", "compile")
ZERO_STAGES = ("0", "1", "2", "3", "fsdp")
"""What each GPU keeps a part of: nothing; moments; gradients too; parameters too, as FSDP does."""
BATCH_FIELDS = ("micro_batch", "grad_accum", "global_batch", "global_tokens")
"""Of these, any that determine the rest."""


@dataclass(frozen=True)
class Batch:
    """What one optimiser step takes: integers, or integer-valued arrays that broadcast together.

    A micro-step is one forward and backward pass of `micro_batch` sequences on each GPU; `gpus` are all of them, on
    `nodes` machines.
    """

    micro_batch: Size
    seq_len: Size
    grad_accum: Size = 1
    gpus: Size = 1
    nodes: Size = 1

    @property
    def global_batch(self) -> Size:
        """Sequences of a step, on all GPUs."""
        return self.micro_batch * self.grad_accum * self.gpus

    @property
    def global_tokens(self) -> Size:
        """Tokens of a step, on all GPUs."""
        return self.global_batch * self.seq_len

    @property
    def sizes(self) -> Sizes:
        """Of the passes of one micro-step on one GPU."""
        return Sizes(self.micro_batch, self.seq_len, 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the sizes broadcast to; of a single point it is empty."""
        sizes = (self.micro_batch, self.seq_len, self.grad_accum, self.gpus, self.nodes)
        return np.broadcast_shapes(*map(np.shape, sizes))


@dataclass(frozen=True)
class TrainHow:
    """How a step is run. `how`: its passes, with the dtype of their products.

    `compile_inside_ddp`: `DDP(torch.compile(model))`, whose gradients all appear at the end of the backward pass,
    where `torch.compile(DDP(model))` lets communication overlap it.
    """

    how: How
    precision: str = "bf16-mixed"
    optimizer: Optimizer = "adamw"
    clip_grad_norm: float | None = 1.0
    checkpointing: Checkpointing = "none"
    zero: int = 0
    compile_inside_ddp: bool = False

    def on(self, model: Model) -> TrainHow:
        """How `model` is trained: see `How.on`."""
        return replace(self, how=self.how.on(model))

    @property
    def numbers(self) -> Precision:
        """What weights, activations and products are stored in."""
        return PRECISIONS[self.precision]


@dataclass(frozen=True)
class RunLength:
    """How long a model is trained, and the validation passes in between; None where it was not asked for."""

    steps: int | None = None
    eval_every: int | None = None
    eval_batches: int = 20
    price_per_hour: float | None = None

    @property
    def evaluations(self) -> int:
        """How often the model is validated: at step 0, at every `eval_every`-th after it, and at the last one."""
        if self.steps is None or self.eval_every is None:
            return 0
        last = self.steps - 1
        return last // self.eval_every + 1 + (last % self.eval_every > 0)


# ---------------------------------------------------------------------------------------------- how a step is run


def check_train_how(
    precision: str = "bf16-mixed", attn: str | None = None, runtime: str = "eager", optimizer: str = "adamw",
    clip_grad_norm: float | None = 1.0, checkpointing: str = "none", zero: int | str = 0,
    compile_inside_ddp: bool = False, impl: str | None = None,
) -> TrainHow:  # fmt: skip
    """The settings, every one checked. Raises `InputError` for the first that is wrong."""
    check_choice("precision", precision, tuple(PRECISIONS))
    if attn is not None:
        check_choice("attn", attn, ATTENTION_IMPLEMENTATIONS)
    check_choice("runtime", runtime, TRAIN_RUNTIMES)
    check_choice("optimizer", optimizer, OPTIMIZERS)
    check_choice("checkpointing", checkpointing, CHECKPOINTING)
    if impl is not None:
        check_choice("impl", impl, IMPLEMENTATIONS)
    stage = stage_name(zero)
    check_choice("zero", stage, ZERO_STAGES)
    clip = None if clip_grad_norm is None else check_positive("clip_grad_norm", clip_grad_norm)
    if check_flag("compile_inside_ddp", compile_inside_ddp) and runtime != "compile":
        raise InputError(f"compile_inside_ddp: needs runtime compile, got {runtime}")
    return TrainHow(
        how=How(PRECISIONS[precision].dtype, attn or "", runtime, impl=impl),  # type: ignore[arg-type]
        precision=precision,
        optimizer=optimizer,  # type: ignore[arg-type]
        clip_grad_norm=clip,
        checkpointing=checkpointing,  # type: ignore[arg-type]
        zero=3 if stage == "fsdp" else int(stage),
        compile_inside_ddp=compile_inside_ddp,
    )


def stage_name(zero: Any) -> Any:
    """A stage of ZeRO as `ZERO_STAGES` names it: a number as text, anything else as it is."""
    return str(zero) if isinstance(zero, int | np.integer) and not isinstance(zero, bool) else zero


def clip_norm(text: str) -> float | None:
    """The norm that --clip-grad-norm says. Raises `InputError` for what is neither a number nor none."""
    if text == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"clip_grad_norm: expected a number or none, got {echo(text)}") from None


def with_dropout(model: Model, dropout: float | None, impl: str | None = None) -> Model:
    """`model` with all three probabilities of dropout set; as its config says where `dropout` is None.

    nanoGPT's code has one probability for all, which is 0 unless someone says otherwise: those of a HuggingFace config
    are not its own, but for what was set. Raises `InputError` for what is no probability, and where some of them were
    set already.
    """
    own = {key: value for key, value in model.changes if key in PDROPS}
    if dropout is None:
        none: dict[str, Any] = {name: 0.0 for name in PDROPS if name not in own}
        return replace(model, **none) if impl == "nanogpt" and model.impl != "nanogpt" else model
    number = isinstance(dropout, int | float | np.number) and not isinstance(dropout, bool)
    if not number or not 0.0 <= dropout < 1.0:
        raise InputError(f"dropout: expected a probability from 0 to below 1, got {echo(dropout)}")
    for key, value in own.items():
        raise InputError(f"dropout: {dropout:g} is for all three, but set gives {key}={value}; give one of the two")
    every = float(dropout)
    return replace(model, embd_pdrop=every, attn_pdrop=every, resid_pdrop=every)


def one_dropout(model: Model) -> float | None:
    """The probability of dropout where it is the same everywhere, else None."""
    every = {float(getattr(model, name)) for name in PDROPS}
    return every.pop() if len(every) == 1 else None


def check_trains(model: Model) -> None:
    """Raise `InputError` where the loss is not modelled, or some weights would get no gradients."""
    if model.add_cross_attention and not model.encoder_len:
        raise InputError(
            "encoder_len: without an encoder's states the weights of cross-attention get no gradients; --encoder-len"
            " says how many are passed"
        )
    if model.weights != "dtype":
        raise InputError(
            f"weights: training is modelled with all weights in the precision, not {model.weights}; --weights dtype"
        )
    if model.encoder_len and model.head != "lm":
        raise InputError(f"encoder_len: goes with --head lm; {CLASSES[model.head]} passes no encoder's states on")
    if model.head not in ("lm", *CLASSIFIES):
        raise InputError(
            f"head: training is modelled with the losses of lm and of classifiers, and {model.name} is a"
            f" {CLASSES[model.head]}; --head lm"
        )
    if model.head == "sequence-classification" and model.num_labels == 1:
        raise InputError("num_labels: with 1 the loss is that of a regression, which is not modelled; 2 or more are")


def check_training(hardware: Hardware, train: TrainHow, model: Model) -> None:
    """Raise `InputError` where the device cannot run the precision or the attention, or the head's loss is another."""
    check_trains(model)
    peaks = hardware.compute.peak_flop_per_s
    if train.numbers.dtype not in peaks:
        names = ", ".join(name for name, numbers in PRECISIONS.items() if numbers.dtype in peaks)
        raise InputError(f"precision: {hardware.name} has no {train.numbers.dtype}; it runs {names}")
    check_device(hardware, train.how, model.head_dim)


# ---------------------------------------------------------------------------------------------- the batch

Checks = list[tuple[Any, Callable[[], str]]]
"""What must hold (a truth value, or an array of them), and what to say where it does not."""


def check_batch(given: Mapping[str, object], seq: object, gpus: object, nodes: object) -> Batch:
    """The batch of a single point from those of `BATCH_FIELDS` that are `given` (not None).

    Raises `InputError` for what is no size, what contradicts, what does not divide and what stays open: one line that
    shows the arithmetic.
    """
    given = {name: size for name, size in given.items() if size is not None}
    if isinstance(tokens := given.get("global_tokens"), str | float):
        given["global_tokens"] = check_tokens("global_tokens", tokens)
    sizes = {name: check_point(name, size, 1) for name, size in given.items()}
    fixed = (check_point("seq", seq, 1), check_point("gpus", gpus, 1), check_point("nodes", nodes, 1))
    batch, checks = solve_batch(sizes, *fixed)
    for holds, say in checks:
        if not holds:
            raise InputError(say())
    return batch


def solve_batch(given: Mapping[str, Any], seq: Any, gpus: Any, nodes: Any) -> tuple[Batch, Checks]:
    """The batch from those of `BATCH_FIELDS` that are `given`, and what must hold of it: integers, or integer arrays.

    Raises `InputError` where they leave micro-batch and accumulation open.
    """
    checks: Checks = [(gpus % nodes == 0, lambda: f"nodes: {many(gpus, 'GPU')} / {nodes} = {_number(gpus, nodes)} GPUs"
                       f" a node, which is no whole number")]  # fmt: skip
    micro, accum = given.get("micro_batch"), given.get("grad_accum")
    whole = next((name for name in ("global_tokens", "global_batch") if name in given), None)
    if whole is None:
        return Batch(1 if micro is None else micro, seq, 1 if accum is None else accum, gpus, nodes), checks
    size, tokens = given[whole], seq if whole == "global_tokens" else 1
    if "global_batch" in given and whole == "global_tokens":
        batch = given["global_batch"]
        checks.append((batch * seq == size, lambda: f"global_tokens: {size} / {many(seq, 'token')} ="
                       f" {_number(size, seq)} sequences, but global_batch is {batch}"))  # fmt: skip
    each = [many(seq, "token")] if whole == "global_tokens" else []

    def quotient(unit: Any, parts: list[str], what: str) -> str:
        return f"{whole}: {size} / ({' x '.join([many(gpus, 'GPU'), *parts, *each])}) = {_number(size, unit)} {what}"

    def divides(unit: Any, *texts: str) -> None:
        *parts, what = texts
        below = size // unit * unit
        checks.append((size % unit == 0, lambda: f"{quotient(unit, list(parts), what)}, which is no whole number;"
                       f" {' and '.join(str(near) for near in (below, below + unit) if near)} would do"))  # fmt: skip

    if micro is not None:
        unit = gpus * micro * tokens
        divides(unit, sequences := many(micro, "sequence"), "micro-steps")
        if accum is not None:
            checks.append((unit * accum == size, lambda: f"{quotient(unit, [sequences], 'micro-steps')}, but grad_accum"
                           f" is {accum}"))  # fmt: skip
        return Batch(micro, seq, size // unit, gpus, nodes), checks
    if accum is not None:
        unit = gpus * accum * tokens
        divides(unit, many(accum, "micro-step"), "sequences")
        return Batch(size // unit, seq, accum, gpus, nodes), checks
    raise InputError(f"{whole}: leaves micro_batch and grad_accum open; give one of them")


def many(count: Any, what: str) -> str:
    """A count in words: 1 node, 2 nodes."""
    return f"{count} {what}" if np.ndim(count) == 0 and count == 1 else f"{count} {what}s"


def _number(size: Any, unit: Any) -> str:
    return f"{size // unit}" if size % unit == 0 else f"{size / unit:.6g}"


# ---------------------------------------------------------------------------------------------- the run


def check_run(
    tokens_per_step: int, *, tokens: object = None, steps: object = None, eval_every: object = None,
    eval_batches: object = None, price_per_hour: float | None = None,
) -> RunLength:  # fmt: skip
    """The length of a run, from `tokens` (whole steps of them) or `steps`.

    Raises `InputError` for what contradicts, and for flags of a run whose length is not given.
    """
    own_steps = None if steps is None else check_point("steps", steps, 1)
    if tokens is not None:
        whole = check_tokens("tokens", tokens)
        fitting = whole // tokens_per_step
        if not fitting:
            raise InputError(f"tokens: {whole} are less than the {tokens_per_step} of one step")
        if own_steps not in (None, fitting):
            quotient = f"{whole} / {tokens_per_step} a step = {_number(whole, tokens_per_step)} steps"
            raise InputError(f"tokens: {quotient}, but steps is {own_steps}; give one of the two")
        own_steps = fitting
    every = None if eval_every is None else check_point("eval_every", eval_every, 1)
    if eval_batches is not None and every is None:
        raise InputError("eval_batches: needs eval_every, the steps from one validation to the next")
    batches = 20 if eval_batches is None else check_point("eval_batches", eval_batches, 1)
    price = None if price_per_hour is None else check_positive("price_per_hour", price_per_hour)
    if own_steps is None:
        for name, value in {"eval_every": every, "price_per_hour": price}.items():
            if value is not None:
                raise InputError(f"{name}: needs the length of the run, steps or tokens")
    return RunLength(own_steps, every, batches, price)


def check_tokens(name: str, tokens: object) -> int:
    """A whole number of tokens, which may be a float or text: 10e9, "10B". Raises `InputError` for anything else."""
    if isinstance(tokens, str):
        try:
            return parse_count(tokens)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    number = tokens if isinstance(tokens, int | float | np.number) and not isinstance(tokens, bool) else 0
    if 1 <= number <= 1e18 and int(number) == number:
        return int(number)
    raise InputError(f"{name}: {EXPECTED_COUNT}, got {echo(tokens)}")
