"""What GPT2Model's hidden states go through: the heads of its classes, and the whole model with each.

Read it beside the end of `modeling_gpt2.py`. `GPT2Model` itself has none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from gpt2cost.table.builders import copy, fill, output, pointwise, reduction, tensor, weight
from gpt2cost.table.citations import cite
from gpt2cost.table.dropout import native_dropout
from gpt2cost.table.formula import ALWAYS, Formula, formula
from gpt2cost.table.kernel import Free, Gemm, Kernel, Module, Tensor
from gpt2cost.table.loss import causal_lm_loss, classification_loss
from gpt2cost.table.options import Head, TableOptions
from gpt2cost.table.quantization import projection
from gpt2cost.table.symbols import B, D, N, T, V, b8, i32, i64

Steps: TypeAlias = tuple[Module | Kernel | Free, ...]

CLASSES: dict[Head, str] = {
    "lm": "GPT2LMHeadModel",
    "sequence-classification": "GPT2ForSequenceClassification",
    "token-classification": "GPT2ForTokenClassification",
    "double-heads": "GPT2DoubleHeadsModel",
    "none": "GPT2Model",
}
"""Each head -> the class of the model that has it."""
WITH_LM: tuple[Head, ...] = ("lm", "double-heads")
"""The heads with which a model writes text."""
CLASSIFIES: tuple[Head, ...] = ("sequence-classification", "token-classification")
"""The heads that have `num_labels` outputs."""
HEAD_MODULES = ("lm_head", "score", "classifier", "multiple_choice_head")
"""The modules beside the GPT2Model."""
POOLED = "pooled"
"""The fusion group of what chooses rows: it goes row by row of what it gives, and no search for them is part of it."""


def headed(body: Module, x: Tensor, options: TableOptions) -> Module:
    """The model of the head that is asked for. `x`: what `body`, a GPT2Model, returns."""
    ids = tensor("input_ids", B, T, element=i64)
    if options.head == "none":  # the body is the model: its modules have no `transformer.` before their names
        first, *rest = body.children
        assert isinstance(first, Free)
        return Module("", body.cls, (replace(first, name="model"), *rest))
    steps, logits = _STEPS[options.head](x, options)
    call = Free("model", "call", inputs=(ids,), outputs=(logits,))
    return Module("", CLASSES[options.head], (call, body, *steps))


def head_parameters(head: Head, tied: bool) -> Formula:
    """The parameters that a head adds. A tied lm_head's weight is the token embedding's."""
    lm = formula(0) if tied else V * D
    return {
        "lm": lm,
        "double-heads": lm + D + 1,
        "sequence-classification": N * D,
        "token-classification": N * D + N,
        "none": formula(0),
    }[head]


def _lm(x: Tensor, options: TableOptions) -> tuple[Steps, Tensor]:
    """GPT2LMHeadModel; in train mode with its loss."""
    rows: tuple[Formula | int, ...] = (B, 1) if options.logits == "last" else (B, T)
    kept = tensor(x.name, *rows, D, view_of="ln_1")  # which a compiler lets the last block make: see fusion.py
    head = _lm_head(kept, rows, CLASSES["lm"])
    logits = output(head)
    loss = causal_lm_loss(logits) if options.train else ()
    return (Free("slice", "view", 1, inputs=(x,), outputs=(kept,)), head, *loss), logits


def _lm_head(x: Tensor, rows: tuple[Formula | int, ...], cls: str) -> Module:
    m = B if rows == (B, 1) else B * T
    kernel = Kernel(
        name="",
        op="mm",
        kind="gemm",
        inputs=(x, weight("lm_head.weight", V, D)),
        outputs=(tensor("logits", *rows, V),),
        flops=2 * m * V * D,
        source=cite(f"{cls}.forward", "self.lm_head(hidden_states"),
        shape=Gemm(formula(1), m, V, D, "NT"),
        in_module=True,
    )
    return Module("lm_head", "Linear", (kernel,))


def _double_heads(x: Tensor, options: TableOptions) -> tuple[Steps, Tensor]:
    """GPT2DoubleHeadsModel: a score for the whole sequence too, of its last token (summary_type `cls_index`)."""
    src = "GPT2SequenceSummary.forward"
    hidden = tensor(x.name, B, T, D, view_of="ln_1")
    lm_head = _lm_head(hidden, (B, T), CLASSES["double-heads"])
    index = tensor("cls_index", B, 1, D, element=i64)
    gathered, summed = tensor("last_token", B, 1, D), tensor("last_token", B, D)
    look_up = Kernel(
        "last_token", "gather", "gather", (index, gathered), (gathered,), formula(0),
        cite(src, "hidden_states.gather(-2, cls_index)"), fusion_group=POOLED,
    )  # fmt: skip
    project = cite(src, "output = self.summary(output)")
    summary = projection(
        summed, formula(1), D, "multiple_choice_head.summary", project, options, cls="Linear", rows=(B,),
        out="mc_logits",
    )  # fmt: skip
    scores = output(summary)
    children: Steps = (
        Free("multiple_choice_head", "call", inputs=(hidden,), outputs=(scores,)),
        Free("first_token", "view", 1),
        fill("cls_index", "full_like", index, cite(src, "cls_index = torch.full_like("), fusion_group=POOLED),
        look_up,
        Free("squeeze", "view", 1, inputs=(gathered,), outputs=(summed,)),
        _identity("first_dropout", summed, "Dropout"),
        summary,
        _identity("activation", scores),
        _identity("last_dropout", scores),
    )
    head = Module("multiple_choice_head", "GPT2SequenceSummary", children)
    return (lm_head, head, Free("squeeze", "view", 1)), output(lm_head)


def _identity(name: str, x: Tensor, cls: str = "Identity") -> Module:
    """A module that gives what it takes."""
    return Module(name, cls, (Free(name, "call", inputs=(x,), outputs=(x,)),), passes=x)


def _token_classification(x: Tensor, options: TableOptions) -> tuple[Steps, Tensor]:
    """GPT2ForTokenClassification: a Linear with a bias on every position."""
    hidden = tensor(x.name, B, T, D, view_of="ln_1")
    src = "GPT2ForTokenClassification.forward"
    drop, dropped = _identity("dropout", hidden, "Dropout"), hidden
    if options.train:  # by a probability of its own, 0.1, which no GPT2Config has
        dropped = tensor("classifier.dropout", B, T, D)
        drop = Module("dropout", "Dropout", (native_dropout("", hidden, dropped, cite(src, "self.dropout(")),))
    source = cite(src, "logits = self.classifier(hidden_states)")
    classifier = projection(dropped, N, D, "classifier", source, options, cls="Linear", out="logits")
    logits, labels = output(classifier), tensor("labels", B, T, element=i64)
    compare = cite(src, "loss = loss_fct(logits.view(-1, self.num_labels), labels.view(-1))")
    loss = classification_loss(logits, labels, compare, options.autocast) if options.train else ()
    return (drop, classifier, *loss), logits


def _sequence_classification(x: Tensor, options: TableOptions) -> tuple[Steps, Tensor]:
    """GPT2ForSequenceClassification: scores of every position, of which each sequence's last is kept.

    The last is looked for among the ids where the config has a pad token; without one, a batch of one takes the last,
    and transformers refuses a larger one.
    """
    src = "GPT2ForSequenceClassification.forward"
    hidden = tensor(x.name, B, T, D, view_of="ln_1")
    scored = cite(src, "logits = self.score(hidden_states)")
    score = projection(hidden, N, D, "score", scored, options, cls="Linear", bias=False)
    logits, pooled = output(score), tensor("logits", B, N)  # what the model returns bears that name
    source, numbers = cite(src, "pooled_logits = logits["), tensor("batch_indices", B, element=i64)
    numbered = fill("batch_indices", "arange", numbers, source, fusion_group=POOLED)
    compare = cite(src, "loss = loss_fct(pooled_logits.view(-1, self.num_labels), labels.view(-1))")
    labels = tensor("labels", B, element=i64)
    loss = classification_loss(pooled, labels, compare, options.autocast) if options.train else ()
    if not options.has_pad_token:
        last = tensor("last_logits", B, N, view_of=logits.name)
        steps: Steps = (
            numbered,
            Free("select", "view", 1, ALWAYS, inputs=(logits,), outputs=(last,)),
            _grouped(copy("pooled_logits", "index", (last, numbers), pooled, source), POOLED),
            *loss,
        )
        return (score, *steps), pooled
    find = cite(src, "non_pad_mask = (input_ids != self.config.pad_token_id)")
    count = cite(src, "token_indices = torch.arange(input_ids.shape[-1]")
    most = cite(src, "last_non_pad_token = (token_indices * non_pad_mask).argmax(-1)")
    ids, differs = tensor("input_ids", B, T, element=i64), tensor("is_no_pad", B, T, element=b8)
    mask, tokens = tensor("non_pad_mask", B, T, element=i32), tensor("token_indices", T, element=i32)
    product, places = tensor("places", B, T, element=i32), tensor("last_non_pad_token", B, element=i64)
    steps = (
        *(
            _grouped(kernel, "last_token")
            for kernel in (
                pointwise("is_no_pad", "ne", (ids,), differs, find),
                copy("non_pad_mask", "_to_copy", differs, mask, find),
                fill("token_indices", "arange", tokens, count),
                pointwise("places", "mul", (tokens, mask), product, most),
                reduction("last_non_pad_token", "argmax", product, places, B * T, most),
            )
        ),
        numbered,
        _grouped(copy("pooled_logits", "index", (logits, numbers, places), pooled, source), POOLED),
        *loss,
    )
    return (score, *steps), pooled


def _grouped(kernel: Kernel, group: str) -> Kernel:
    """The kernel, which a compiler merges with its neighbours of the group."""
    return replace(kernel, fusion_group=group)


_STEPS = {
    "lm": _lm,
    "double-heads": _double_heads,
    "token-classification": _token_classification,
    "sequence-classification": _sequence_classification,
}
