"""A recorded trace laid beside the cost table: which row each op or kernel is, and what is left over on either side."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from gpt2cost.measure.observed import ANCHOR, SECOND_KERNEL, Observed, aligned, label_of, product_of
from gpt2cost.table.kernel import Kernel, Row
from gpt2cost.timing.queue_steps import unrolled

TABLE_CELLS = 25_000_000
"""Most cells of an alignment's table, unless one pass needs more: 2 bytes each."""
AROUND = 1000
"""So many kernels more than a pass has may lie before its first layer norm, or behind its last."""
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
    allowed = [_labels(row.step, values) for row in expected]
    labels = _labels_of(observed, frozenset().union(*allowed))
    anchors = [i for i, label in enumerate(labels) if ANCHOR in label.split("+")]
    in_a_pass = sum(ANCHOR in some for some in allowed)
    passes = max(1, round(len(anchors) / in_a_pass)) if anchors and in_a_pass else 0
    pairs = _pairs(labels, allowed, anchors, in_a_pass, passes)

    whole = _whole(pairs, expected, allowed)
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


def _whole(pairs: Sequence[tuple[int, int]], expected: Sequence[Row], allowed: Sequence[frozenset[str]]) -> set[int]:
    """The numbers of the passes that were recorded from end to end."""
    heavy = [_is_heavy(row.step) for row in expected]
    norms = [ANCHOR in some for some in allowed]
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


def _labels_of(observed: Sequence[Observed], known: frozenset[str]) -> list[str]:
    """The labels of what was observed: of a product its shape, if some have shapes that the table knows."""
    shapes = [_shape_text(*shape) if (shape := product_of(op)) else "" for op in observed]
    by_shape = not known.isdisjoint(shapes)
    return [shape if shape and by_shape else label_of(op) for op, shape in zip(observed, shapes, strict=True)]


def _labels(step: Any, values: Mapping[str, Any]) -> frozenset[str]:
    """What a kernel of the table may be called: its op, each that a fusion is made of, its kind, or a product, with
    or without its bias, of its shape if that is known."""
    labels = {step.op, step.op.removesuffix("_"), *step.op.split("+"), step.kind}
    if step.kind in ("gemm", "bmm"):
        sizes = (step.shape.batch, step.shape.m, step.shape.k, step.shape.n)
        batch, *matrix = (int(size.evaluate(values)) for size in sizes)
        labels |= {"product", _shape_text(*matrix) if step.kind == "gemm" else _shape_text(batch, *matrix)}
        labels |= {"addmm", "mm"} if step.kind == "gemm" else set()
    return frozenset(labels)


def _shape_text(*sizes: int) -> str:
    """A product's shape; as Inductor pads it, it is the same."""
    *outer, k, n = sizes
    return "x".join(map(str, (*outer, aligned(k), aligned(n))))


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
