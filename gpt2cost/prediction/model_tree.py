"""What `tree` returns: a pass, or a training step's micro-step, as trees of the model's modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpt2cost.checks import check_choice
from gpt2cost.device.hardware import Hardware
from gpt2cost.prediction.asked import asked_for
from gpt2cost.prediction.settings import TRAIN, How, Number, Sizes
from gpt2cost.prediction.train_settings import TrainHow
from gpt2cost.prediction.tree import Node, training_trees, tree_of
from gpt2cost.result import Result
from gpt2cost.table.config import Model

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
    asked = asked_for(
        model, gpu, phase, batch=batch, seq=seq, cache=cache, dtype=dtype, attn=attn, runtime=runtime, logits=logits,
        use_cache=use_cache, cache_type=cache_type, impl=impl, precision=precision, checkpointing=checkpointing,
        dropout=dropout,
    )  # fmt: skip
    if asked.train is None:
        roots = {asked.phase: tree_of(asked.model, asked.how, asked.sizes, asked.hardware)}
    else:
        trees = training_trees(asked.model, asked.train, asked.sizes, asked.hardware)
        roots = dict(zip(("forward", "backward"), trees, strict=True))
    passes = tuple(PassTree(name, asked.sizes, asked.symbols, root) for name, root in roots.items())
    return Tree(asked.model, asked.hardware, asked.how, asked.train, passes, asked.warnings)
