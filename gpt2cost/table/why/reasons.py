"""Why a step runs: what it does in this model and why it is there, and what would remove it.

A text belongs to what a step is: the key is its path without `transformer.` and `h.`, and where one path means several
things also its op, its dtype or `nanogpt` in brackets. The kernels of an activation function are keyed by the function
and their names. Texts of a backward pass are made by the rule of the op, those of a kernel that a compiler merges of
the kernels that it is made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpt2cost.table.checkpointing import AGAIN
from gpt2cost.table.citations import BITSANDBYTES_FILES, NANOGPT
from gpt2cost.table.kernel import Kernel, Row, short_path
from gpt2cost.table.why import activations as why_activations
from gpt2cost.table.why import crossattention as why_crossattention
from gpt2cost.table.why import generate as why_generate
from gpt2cost.table.why import heads as why_heads
from gpt2cost.table.why import masks as why_masks
from gpt2cost.table.why import model as why_model
from gpt2cost.table.why import quantized as why_quantized
from gpt2cost.table.why import training as why_training

RULES = {f"backward {key}": text for key, text in why_training.RULES.items()}
DOES = {
    **why_model.DOES, **why_activations.DOES, **why_masks.DOES, **why_generate.DOES, **why_heads.DOES,
    **why_crossattention.DOES, **why_training.DOES, **why_quantized.DOES,
}  # fmt: skip
REMOVED_BY = {
    **why_model.REMOVED_BY, **why_activations.REMOVED_BY, **why_masks.REMOVED_BY, **why_generate.REMOVED_BY,
    **why_training.REMOVED_BY, **why_heads.REMOVED_BY, **why_crossattention.REMOVED_BY, **why_quantized.REMOVED_BY,
}  # fmt: skip

_BACKWARD = re.compile(r"(?P<forward>.*?)\.?(?P<role>(?:grad|backward)(?:_.*|\..*)?)")
"""A backward kernel's name: that of the forward's kernel, and what it is of its node's."""

_CAST = re.compile(r"(?:^|\.)cast_\w+$")
"""The end of a step's name by which it is a cast of one of its operands, under autocast."""
_ALONE = "backward sum"
"""The rule whose kernel stays one of its own where the forward's is merged."""
_SENTENCE = re.compile(r"(?<=\.) (?=[A-Z0-9])")
"""The blank between two sentences."""


@dataclass(frozen=True)
class Why:
    """What a step does in this model and why it is there; what would remove it, "" where nothing would."""

    does: str
    removed_by: str = ""


def why(row: Row) -> Why:
    """The reason of a kernel or a free step of any table. Raises `KeyError` for a step that has no text."""
    step = row.step
    if isinstance(step, Kernel) and step.parts:
        return _merged(step.parts)
    key = key_of(row)
    does = (DOES.get(key) or RULES[key]).format(step=_step(row), operand=_operand(row))
    if step.op == "addmm":
        does += " The bias is added by the product's own kernel, and counts no FLOPs."
    if step.name.rpartition(".")[2] == AGAIN:
        does += " Run again in the backward pass, since checkpointing has kept the block's input alone."
        return Why(does, "--checkpointing none, which keeps what the first run has made")
    if key in RULES and key != _ALONE:
        forward = _forward(row) if step.op == "_to_copy" else re.sub(_CAST, "", _forward(row))
        return Why(does, next((REMOVED_BY[of] for of in _keys(row, forward) if of in REMOVED_BY), ""))
    return Why(does, REMOVED_BY.get(key, ""))


def key_of(row: Row) -> str:
    """The key of a step's text in `DOES` or `RULES`. Raises `KeyError` for a step that has none.

    A kernel that a compiler has merged has no key; its `parts` have.
    """
    for key in _keys(row, row.step.name):
        if key in DOES:
            return key
    for key in (f"backward {rule}" for rule in _rules(row)):
        if key in RULES:
            return key
    raise KeyError(f"no text for {row.path}, {row.step.op}")


def _keys(row: Row, name: str) -> Iterator[str]:
    """The keys that a step of the forward pass, of a loop or of an optimiser may have, the most special first."""
    step = row.step
    name = name.removesuffix(AGAIN).removesuffix(".")
    is_call = step.op == "call" and name == row.module.rpartition(".")[2]  # of the module itself
    path = row.module if is_call else ".".join(filter(None, (row.module, name)))
    marks = [step.op]
    if isinstance(step, Kernel):
        if step.source.file == NANOGPT:
            marks.insert(0, "nanogpt")
        if step.source.file == "torch/grad_scaler.py":
            path = f"scaler.{name}"
        if row.module.endswith(".act"):
            function = step.source.qualname.removesuffix(".forward")
            path = f"{why_activations.SAME.get(function, function)} {name}"
        if step.outputs:
            marks.append(str(step.outputs[0].element))
    path = short_path(path).removeprefix("h.")
    path = re.sub(r"^generate\.(?=(causal_mask|padding)\.)|(?<=^optimizer\.)(matrices|vectors)\.", "", path)
    last = name.rpartition(".")[2]
    own = step.source.file in BITSANDBYTES_FILES if isinstance(step, Kernel) else name in why_quantized.ALONE
    if own:
        path = f"weights {name}"
    elif row.module == "ddp":
        path = "ddp"
    elif last.startswith("cast_"):
        path = last
    elif name.startswith("accumulate_"):
        path = "accumulate"
    yield from (f"{path} [{mark}]" for mark in marks)
    yield path
    if path.startswith("crossattention."):
        path = path.replace("crossattention", "attn")
        yield from (f"{path} [{mark}]" for mark in marks)
        yield path


def _rules(row: Row) -> Iterator[str]:
    """The keys that a step of the backward pass may have, the most special first."""
    found = _BACKWARD.fullmatch(row.step.name)
    if found is None:
        return
    role, op = found["role"], row.step.op
    forward = found["forward"].rpartition(".")[2]
    yield f"{forward}.{role}"
    yield f"{op} {role}"
    yield f"{op} {role.rpartition('.')[2]}"
    yield op


def _forward(row: Row) -> str:
    """The name of the forward's kernel of which a backward kernel is a gradient."""
    found = _BACKWARD.fullmatch(row.step.name)
    return found["forward"] if found else row.step.name


def _step(row: Row) -> str:
    """The path of the forward's step that a step belongs to, in short."""
    name = re.sub(_CAST, "", _forward(row).removesuffix(AGAIN).removesuffix("."))
    return short_path(".".join(filter(None, (row.module, name)))) or row.path


def _operand(row: Row) -> str:
    """What a gradient is of, as its kernel's name has it."""
    name = row.step.name
    if row.module == "ddp":
        return short_path(name)
    if name.startswith("accumulate_"):
        return name.removeprefix("accumulate_")
    found = re.search(r"grad_(\w+)", name)
    return found[1] if found else "the output"


def _merged(parts: tuple[Row, ...]) -> Why:
    """Of a kernel of a compiler: the first sentences of what it was merged of."""
    texts = " ".join(dict.fromkeys(map(_in_short, parts)))
    return Why(
        f"One kernel that the compiler makes of {len(parts)}: what passes between them stays in registers. {texts}"
    )


def _in_short(part: Row) -> str:
    """What a merged kernel says of one that it is made of; of all kernels of an activation function the same."""
    path = short_path(part.path).removeprefix("h.")
    if formula := why_activations.formula_of(key_of(part)):
        return f"mlp.act: the activation {formula}."
    return f"{path}: {re.split(_SENTENCE, why(part).does, maxsplit=1)[0]}"
