"""Losses: of a language model, cross-entropy of every token's logits and the token after it; of a classifier."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from gpt2cost.table.builders import copy, tensor
from gpt2cost.table.citations import Citation, cite
from gpt2cost.table.formula import formula
from gpt2cost.table.kernel import Free, Kernel, Tensor
from gpt2cost.table.symbols import B, T, a, f32, i64

FILE = "loss_utils.py"


def causal_lm_loss(logits: Tensor) -> tuple[Kernel | Free, ...]:
    """`ForCausalLMLoss`: the labels are shifted by a padded copy, the logits are not.

    A batch of one needs no second copy to be contiguous.
    """
    src = "ForCausalLMLoss"
    labels, padded = tensor("labels", B, T, element=i64), tensor("labels.padded", B, T + 1, element=i64)
    shifted = tensor("labels.shifted", B, T, element=i64, view_of="labels.padded")
    wide = replace(logits, name="logits.float", element=f32, view_of="logits")
    shift = copy("labels.contiguous", "clone", shifted, shifted, cite(src, "labels[..., 1:].contiguous()", FILE), B > 1)
    return (
        copy("float", "_to_copy", logits, wide, cite(src, "logits = logits.float()", FILE), a < f32),
        copy("labels.pad", "constant_pad_nd", labels, padded, cite(src, "nn.functional.pad(labels", FILE)),
        Free("labels.shift", "view", 1, inputs=(padded,), outputs=(shifted,)),
        shift,
        flat_for_loss(wide, shifted),
        *cross_entropy(wide, shifted, cite("fixed_cross_entropy", "nn.functional.cross_entropy(", FILE)),
    )


def classification_loss(logits: Tensor, labels: Tensor, source: Citation, autocast: bool) -> tuple[Kernel | Free, ...]:
    """The loss of a classifier, whose logits stay in their dtype."""
    return (flat_for_loss(logits, labels), *cross_entropy(logits, labels, source, autocast))


def flat_for_loss(logits: Tensor, labels: Tensor) -> Free:
    """The views of which the loss is taken: (rows, classes) and (rows,)."""
    rows = prod(labels.shape, start=formula(1))
    flat = replace(logits, shape=(rows, logits.shape[-1])), replace(labels, shape=(rows,))
    return Free("views", "view", 2, inputs=(logits, labels), outputs=flat)


def cross_entropy(logits: Tensor, labels: Tensor, source: Citation, autocast: bool = False) -> tuple[Kernel, ...]:
    """`F.cross_entropy` of logits (*labels, classes): their log-softmax, and the mean of the labels' own.

    It asks for the log-softmax in the dtype of the logits, which `autocast` leaves as it is; the mean is then taken in
    float32, of a cast of all.
    """
    classes, number = logits.shape[-1], logits.element
    rows = prod(labels.shape, start=formula(1))
    flat = (rows, classes)
    log_probabilities = Tensor("log_softmax", flat, number)
    casts: tuple[Kernel, ...] = ()
    whole = log_probabilities
    if autocast and number != f32:
        whole, number = Tensor("log_softmax.float", flat, f32), f32
        casts = (copy("nll_loss.cast", "_to_copy", log_probabilities, whole, source),)
    picked = tensor(f"{whole.name}[labels]", rows, element=number, view_of=whole.name)
    return (
        Kernel(
            "log_softmax", "_log_softmax", "reduction", (logits,), (log_probabilities,), 5 * logits.elements, source,
            columns=classes, fusion_group="loss",
        ),
        *casts,
        Kernel(
            "nll_loss", "nll_loss_forward", "reduction", (picked, labels),
            (tensor("loss", element=number), tensor("loss.weight", element=number)), rows, source,
        ),
    )  # fmt: skip
