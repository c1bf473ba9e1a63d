"""A recorded trace laid beside the cost table: which row each op or kernel is, and what is left over on either side."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from gpt2cost.measure.torch_trace import ATTENTION, Observed
from gpt2cost.table.kernel import Kernel, Row
from gpt2cost.timing.queue_steps import unrolled

ANCHOR = "native_layer_norm"
"""The op whose number tells how many passes a trace holds."""

TABLE_CELLS = 25_000_000
"""Most cells of an alignment's table, unless one pass needs more: 2 bytes each."""
AROUND = 1000
"""So many kernels more than a pass has may lie before its first layer norm, or behind its last."""
KERNEL_LABELS = {
    r"flash|(?i:fmha)|attention|attn_fwd|sdpa": "attention",
    r"CatArrayBatchedCopy|fused_cat": "cat",
    r"layer_?norm|LayerNorm|RowwiseMoments": ANCHOR,
    r"(?i:softmax)": "_softmax",
    r"(?i:gemm|cutlass|nvjet|wgmma|gemv|split_?k)|triton_tem|Cijk_": "product",
    r"indexSelect|index_select|gather|embedding": "embedding",
    r"arange|elementwise_kernel_with_index": "arange",
    r"FillFunctor|fill_kernel": "fill",
    r"copy_kernel|Memcpy DtoD|CopyFunctor|CopyDeviceToDevice|rocclr_copyBuffer": "copy",
    r"where_kernel": "where",
    r"tanh": "tanh",
    r"pow_": "pow",
    r"gelu|Gelu|GELU": "gelu",
    r"Functor\w*_add\b|AddFunctor": "add",
    r"MulFunctor": "mul",
    r"DivFunctor|div_true": "div",
    r"elementwise|triton_poi": "elementwise",
    r"reduce_kernel|triton_(per|red)": "reduction",
}
"""Pattern -> what a kernel's name that holds it says, the first that fits: an op, a kind of kernel, or `product` for
any of matrices. `Cijk_`, `rocclr` and `attn_fwd` are names of AMD's libraries."""

SECOND_KERNEL = re.compile(
    r"(?i:splitk_?reduce|memset|splitkv_?combine)|LayerNormForwardCUDAKernel|rocclr_fillBuffer|PostGSU"
)
"""Kernels that end or prepare the work of a neighbour: one op with the kernel before."""

OP_LABELS = {
    "clamp_min": "elementwise", "copy_": "copy", "fill_": "fill", "zero_": "fill", "index_select": "embedding",
    ATTENTION: "attention", "linear": "product",
}  # fmt: skip
"""Ops that the table has under another name: those that a device profile names by the inner op (`relu` clamps;
`clone`, `_to_copy` and `cat` copy; `zeros` and `scalar_tensor` fill), and attention, by the function that runs it."""


WHOLE = 0.8
"""The share of its products and attention that a pass must have to be one, unless it has all its layer norms."""


@dataclass(frozen=True)
class MatchedRow:
    """A row of the table in the trace: its launches in all passes, how many there should be, and its mean seconds
    per pass."""

    row: Row
    seen: int
    expected: int
    seconds: float


@dataclass(frozen=True)
class Match:
    """A trace of `passes` passes. `rows` are those that are launched at these sizes, in the table's order.

    `whole`: how many of the passes were recorded from end to end; if any was, the rest do not count in `passes` and
    `rows`. `mapped_share` is of the traced seconds. `in_order`: every pass is the kernels of the table, one after the
    other.
    """

    passes: int
    whole: int
    rows: tuple[MatchedRow, ...]
    unmapped: tuple[Observed, ...]
    mapped_share: float
    in_order: bool

    @property
    def missing(self) -> tuple[Row, ...]:
        """Rows that were seen less often than expected."""
        return tuple(row.row for row in self.rows if row.seen < row.expected)


def match(observed: Sequence[Observed], rows: Sequence[Row], values: Mapping[str, Any]) -> Match:
    """Find the kernels of the table in a trace.

    `rows` as launched (`table_rows`), at `values` of their symbols, sizes among them. The trace may hold several
    passes of these sizes, and other work around them, which comes back as `unmapped`.
    """
    observed = _joined(observed)
    expected = [row for row, _ in unrolled(rows, values) if isinstance(row.step, Kernel)]
    labels = [label_of(op) for op in observed]
    anchors = [i for i, label in enumerate(labels) if ANCHOR in label.split("+")]
    in_a_pass = sum(ANCHOR in _labels(row.step) for row in expected)
    passes = max(1, round(len(anchors) / in_a_pass)) if anchors and in_a_pass else 0
    pairs = _pairs(labels, [_labels(row.step) for row in expected], anchors, in_a_pass, passes)

    whole = _whole(pairs, expected)
    seen: Counter[int] = Counter()
    seconds: dict[int, float] = defaultdict(float)
    for i, j in pairs:
        row = expected[j % len(expected)]
        if not whole or j // len(expected) in whole:
            seen[row.index] += 1
            seconds[row.index] += observed[i].seconds
    launches = Counter(row.index for row in expected)
    counted = len(whole) or passes
    count = max(counted, 1)
    matched = {i for i, _ in pairs}
    total_s = math.fsum(op.seconds for op in observed)
    return Match(
        passes=counted,
        whole=len(whole),
        rows=tuple(
            MatchedRow(row, seen[row.index], count * launches[row.index], seconds[row.index] / count)
            for row in rows
            if launches[row.index]
        ),
        unmapped=tuple(op for i, op in enumerate(observed) if i not in matched),
        mapped_share=math.fsum(observed[i].seconds for i in matched) / total_s if total_s else 0.0,
        in_order=0 < len(pairs) == passes * len(expected)
        and all(right[0] == left[0] + 1 or right[1] % len(expected) == 0 for left, right in pairwise(pairs)),
    )


def _whole(pairs: Sequence[tuple[int, int]], expected: Sequence[Row]) -> set[int]:
    """The numbers of the passes that were recorded from end to end."""
    heavy = [_is_heavy(row.step) for row in expected]
    norms = [ANCHOR in _labels(row.step) for row in expected]
    found: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for _, j in pairs:
        number, place = divmod(j, len(expected))
        found[number][0] += heavy[place]
        found[number][1] += norms[place]
    enough = WHOLE * sum(heavy)
    return {number for number, (products, all_norms) in found.items() if products >= enough or all_norms == sum(norms)}


def _is_heavy(step: Any) -> bool:
    return step.kind in ("gemm", "bmm", "attention")


def _joined(observed: Sequence[Observed]) -> list[Observed]:
    """Kernels without an op that belong to the one before are added to it."""
    joined: list[Observed] = []
    for op in observed:
        if joined and not op.op and all(SECOND_KERNEL.search(name) for name in op.kernels):
            before = joined[-1]
            joined[-1] = replace(before, kernels=before.kernels + op.kernels, seconds=before.seconds + op.seconds)
        else:
            joined.append(op)
    return joined


def label_of(observed: Observed) -> str:
    """One of the labels that the kernel of the table has, if the table has it."""
    if observed.op:
        return OP_LABELS.get(observed.op, observed.op)
    name = observed.kernels[0]
    return next((label for pattern, label in KERNEL_LABELS.items() if re.search(pattern, name)), name)


def _labels(step: Any) -> frozenset[str]:
    """What a kernel of the table may be called: its op, each that a fusion is made of, its kind, or a product."""
    product = {"product"} if step.kind in ("gemm", "bmm") else set()
    return frozenset({step.op, *step.op.split("+"), step.kind, *product})


def _pairs(
    labels: Sequence[str], expected: Sequence[frozenset[str]], anchors: Sequence[int], in_a_pass: int, passes: int
) -> list[tuple[int, int]]:
    """(index of an observed, index of an expected kernel over all passes), both increasing.

    As many passes are aligned at a time as the table's size allows. Such a group begins after the last kernel that
    was matched, and ends before the first anchor of the next group. What is far from any anchor is no part of a pass.
    """
    if not passes:
        return []
    at_once = max(1, math.isqrt(TABLE_CELLS) // len(expected))
    around = AROUND + len(expected)
    pairs: list[tuple[int, int]] = []
    for first in range(0, passes, at_once):
        last = min(first + at_once, passes)
        begin = pairs[-1][0] + 1 if pairs else 0
        end = anchors[last * in_a_pass] if last < passes else min(len(labels), anchors[-1] + around)
        begin = max(begin, anchors[min(first * in_a_pass, len(anchors) - 1)] - around)
        common = _longest_common(labels[begin:end], list(expected) * (last - first))
        pairs += [(begin + i, first * len(expected) + j) for i, j in common]
    return pairs


def _longest_common(labels: Sequence[str], expected: Sequence[frozenset[str]]) -> list[tuple[int, int]]:
    """The pairs of a longest common subsequence; of several the one that ends last."""
    fits = {label: np.array([label in allowed for allowed in expected]) for label in set(labels)}
    best = np.zeros((len(labels) + 1, len(expected) + 1), np.int16)  # [i, j]: of the first i and the first j
    for i, label in enumerate(labels):
        np.maximum(best[i, 1:], best[i, :-1] + fits[label], out=best[i + 1, 1:])
        np.maximum.accumulate(best[i + 1], out=best[i + 1])
    pairs: list[tuple[int, int]] = []
    i, j = len(labels), len(expected)
    while i and j:
        if fits[labels[i - 1]][j - 1] and best[i, j] == best[i - 1, j - 1] + 1:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]
