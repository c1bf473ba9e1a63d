"""What `tree` returns: a pass, or a training step's micro-step, as trees of the model's modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpt2cost.checks import check_choice
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
from gpt2cost.prediction.train_settings import TrainHow, check_train_how, check_training, with_dropout
from gpt2cost.prediction.tree import Node, training_trees, tree_of
from gpt2cost.result import Result
from gpt2cost.table.config import Model, load_model

TREE_PHASES = ("prefill", "decode", TRAIN)


@dataclass(frozen=True, eq=False)
class PassTree:
    """One pass as a tree. `phase`: prefill, decode, forward or backward. `symbols`: the values of the formulas."""

    phase: str
    sizes: Sizes
    symbols: Mapping[str, Number]
    root: Node

    @property
    def is_training(self) -> bool:
        return self.phase in ("forward", "backward")


@dataclass(frozen=True, eq=False, repr=False)
class Tree(Result):
    """What `tree` returns: one pass, or forward and backward of a micro-step. `train`: how, where it is trained."""

    shown_by = "tree"

    model: Model
    hardware: Hardware | None
    how: How
    train: TrainHow | None
    passes: tuple[PassTree, ...]
    warnings: tuple[str, ...]

    @property
    def root(self) -> Node:
        """The model itself in the pass, or in the forward pass."""
        return self.passes[0].root


def tree(
    model: object,
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
    precision: str | None = None,
    checkpointing: str | None = None,
    dropout: float | None = None,
) -> Tree:
    """A GPT-2 model as a tree of its modules, in the order in which they run: parameters, outputs, FLOPs and bytes.

    Arguments as in `predict`; with a `gpu` there is latency too. `phase` may also be `train`: forward and backward of
    one micro-step of `batch` sequences, with `train`'s `precision`, `checkpointing` and `dropout`.

    Raises `InputError` for anything unknown or impossible, with what would be right.
    """
    check_choice("phase", phase, TREE_PHASES)
    loaded, device = load_model(model), None if gpu is None else load_hardware(gpu)
    of_training = {"precision": precision, "checkpointing": checkpointing, "dropout": dropout}
    if phase != TRAIN:
        for name, value in of_training.items():
            if value is not None:
                raise InputError(f"{name}: goes with phase train alone")
        how = check_how(dtype, attn, runtime, logits, use_cache, cache_type, impl)
        sizes = check_single_sizes(batch, seq, cache, use_cache)
        return _of_pass(loaded, device, how, sizes, phase)
    usual = (("dtype", dtype, None), ("cache", cache, 0), ("logits", logits, "all"), ("use_cache", use_cache, True))
    for name, value, default in (*usual, ("cache_type", cache_type, "dynamic")):
        if value != default:
            raise InputError(f"{name}: not of training, which has precision, checkpointing and dropout")
    asked: dict[str, Any] = {name: value for name, value in of_training.items() if value is not None}
    asked.pop("dropout", None)
    train = check_train_how(attn=attn, runtime=runtime, impl=impl, **asked)
    return _of_step(with_dropout(loaded, dropout, impl), device, train, check_single_sizes(batch, seq, 0))


def _of_pass(model: Model, hardware: Hardware | None, how: How, sizes: Sizes, phase: str) -> Tree:
    how = how.on(model)
    check_cached(model, how, sizes)
    if hardware is None:
        check_implementation(how)
        check_cache(how)
    else:
        check_runs(model, hardware, how, sizes, phase)
    ((name, own),) = passes_of(sizes, phase, how.use_cache)
    pass_ = PassTree(name, own, symbol_values(model, how.dtype, own), tree_of(model, how, own, hardware))
    warnings = (*model.notes, *beyond_positions(model, f"{name}: kv_len", own.kv_len))
    return Tree(model, hardware, how, None, (pass_,), warnings)


def _of_step(model: Model, hardware: Hardware | None, train: TrainHow, sizes: Sizes) -> Tree:
    train = train.on(model)
    if hardware is None:
        check_implementation(train.how)
    else:
        check_training(hardware, train, model)
    values = symbol_values(model, train.precision, sizes)
    trees = training_trees(model, train, sizes, hardware)
    passes = (PassTree(phase, sizes, values, root) for phase, root in zip(("forward", "backward"), trees, strict=True))
    warnings = (*model.notes, *beyond_positions(model, "seq:", sizes.seq_len))
    return Tree(model, hardware, train.how, train, tuple(passes), warnings)
