"""The kernels of a profiled pass beside their predictions. Needs no torch."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.measure.observed import Observed
from gpt2cost.measure.records import grouped
from gpt2cost.measure.trace_match import Match, match
from gpt2cost.prediction.one_pass import run_pass, table_options, table_rows
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.table import generate_loop
from gpt2cost.table.config import Model
from gpt2cost.table.kernel import Row, numbered

OF_GENERATE = frozenset({"isin", "rsub"})
"""Ops that `generate` runs after each pass, and a pass does not: is the token an end, and what of it is kept."""
LEAST_MAPPED = 0.6
"""The share of a trace's time that must be the table's, for it to be a trace of the model."""


@dataclass(frozen=True)
class KernelScore:
    """Kernels of one pass: a row of the table, or all rows of a kind.

    `expected`: how many launches there are in a pass; `count`: how many were seen, on average over the passes. Seconds
    are totals over those that were seen.
    """

    name: str
    op: str
    kind: str
    count: float
    expected: int
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float | None:
        """Predicted over measured, less one; None for what was not seen."""
        return self.predicted_s / self.measured_s - 1.0 if self.measured_s else None


@dataclass(frozen=True)
class ProfileScore:
    """The kernels of a profiled pass beside their predictions.

    `passes`: how many were recorded from end to end. `kernels` has the table's rows in order, with the median over the
    recordings. `unmapped`: name -> seconds per pass of what is not the table's. `missing`: names of rows that were seen
    too rarely.
    """

    model: Model
    how: How
    sizes: Sizes
    passes: int
    kernels: tuple[KernelScore, ...]
    unmapped: Mapping[str, float]
    missing: tuple[str, ...]
    mapped_share: float
    in_order: bool

    @property
    def kinds(self) -> list[KernelScore]:
        """Those that were seen, summed up by kind of kernel; the kind that took longest first."""
        kinds = grouped(self._seen, lambda kernel: kernel.kind)
        sums = [_summed(kind, kind, kernels) for kind, kernels in kinds.items()]
        return sorted(sums, key=lambda kind: -kind.measured_s)

    @property
    def total(self) -> KernelScore:
        """All kernels that were seen."""
        return _summed("all", "", self._seen)

    @property
    def _seen(self) -> list[KernelScore]:
        return [kernel for kernel in self.kernels if kernel.count]


def _summed(name: str, kind: str, kernels: Sequence[KernelScore]) -> KernelScore:
    """Several kernels as one."""
    sums = (math.fsum(getattr(kernel, what) for kernel in kernels) for what in ("measured_s", "predicted_s"))
    counts = (sum(getattr(kernel, what) for kernel in kernels) for what in ("count", "expected"))
    return KernelScore(name, "", kind, *counts, *sums)


def score_trace(hw: Hardware, model: Model, how: How, sizes: Sizes, *observed: Sequence[Observed]) -> ProfileScore:
    """The kernels of `observed` beside their predictions: one recording or more, each of one pass or more.

    A kernel's recorded time has no launch in it, and is compared with its prediction without the floor of a stream.
    Raises `InputError` where a recording has no such pass, or is mostly something else.
    """
    kernels_alone = any(op.kernels and not op.in_stream for recording in observed for op in recording)
    device = _without_stream(hw) if kernels_alone else hw
    ops = {op.op for recording in observed for op in recording}
    turn = _rows_of_generate(model, hw, how, sizes, ops) if ops >= OF_GENERATE else None
    pass_ = run_pass(model, device, how, sizes, turn)
    matches = [match(recording, pass_.rows, pass_.symbols) for recording in observed]
    _check_matches(matches, f"{model.name} with {how.attn} attention, {how.runtime}, {sizes.text}")
    kernels = []
    for cost in pass_.kernels:
        rows = [(row, matched) for matched in matches for row in matched.rows if row.row.index == cost.row.index]
        measured_s = statistics.median(row.seconds for row, _ in rows)
        count = statistics.median(row.seen / matched.passes for row, matched in rows)
        share = count / int(cost.count)
        shown = cost.row.path, cost.kernel.op, cost.kernel.kind, count
        kernels.append(KernelScore(*shown, int(cost.count), measured_s, share * float(cost.device_s)))
    passes = sum(matched.passes for matched in matches)
    unmapped: Counter[str] = Counter()
    for left in (left for matched in matches for left in matched.unmapped):
        unmapped[left.op or ", ".join(left.kernels)] += left.seconds / passes  # type: ignore[assignment]
    return ProfileScore(
        model=model,
        how=how,
        sizes=sizes,
        passes=passes,
        kernels=tuple(kernels),
        unmapped=dict(unmapped.most_common()),
        missing=tuple(dict.fromkeys(row.path for matched in matches for row in matched.missing)),
        mapped_share=statistics.median(matched.mapped_share for matched in matches),
        in_order=all(matched.in_order for matched in matches),
    )


def _rows_of_generate(model: Model, hw: Hardware, how: How, sizes: Sizes, ops: Collection[str]) -> tuple[Row, ...]:
    """The table's rows of a turn of `generate`: what it prepares, the pass, and the choice of the token."""
    options = replace(table_options(model, how, hw), in_generate=True)
    several, prompted = sizes.batch_size > 1, sizes.seq_len > 1
    prepared = generate_loop.setup(options, several, prompted) if sizes.cache_len == 0 else ()
    chosen = generate_loop.after(options, sample="topk" in ops)
    return numbered((*prepared, *generate_loop.before(options), *table_rows(options, how.runtime), *chosen))


def _without_stream(hw: Hardware) -> Hardware:
    """The device with no floor but that of a CUDA graph's node, which is about the shortest that a kernel runs, and
    without gaps between kernels."""
    floor_s = min(hw.launch.stream_floor_s, hw.launch.graph_floor_s)
    return replace(hw, launch=replace(hw.launch, stream_floor_s=floor_s, gap_s=0.0))


def _check_matches(matches: Sequence[Match], what: str) -> None:
    if not matches or not all(matched.passes for matched in matches):
        raise InputError(f"trace: found no pass of {what} in it: no op or kernel of a layer norm")
    if not all(matched.whole for matched in matches):
        raise InputError(f"trace: found no whole pass of {what} in it: it was cut off, or is another model's")
    if (share := min(matched.mapped_share for matched in matches)) < LEAST_MAPPED:
        raise InputError(
            f"trace: {share:.0%} of its time is of kernels that a pass of {what} has, and {LEAST_MAPPED:.0%} are needed"
        )
