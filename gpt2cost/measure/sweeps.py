"""The kernels of GPT-2, measured in several sweeps over all of them: what `gpt2cost calibrate` fits. Needs torch.

A slow minute of the machine touches every case and not one kind. What is measured is appended to a file of JSON lines
at once: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from gpt2cost.checks import check_choice
from gpt2cost.measure.bench import Bench, Tell, Warn, busy_share, reason
from gpt2cost.measure.journal import Journal
from gpt2cost.measure.kernels import SMALL, Case, built, groups, neighbour, weight_bytes
from gpt2cost.measure.plan import Plan
from gpt2cost.measure.pool import DTYPES, Pool
from gpt2cost.measure.records import Measurement

BUSY_SHARE = 0.3
"""A load above this share of the processors disturbs."""
GRAPH_MOST_US = 5000
"""Kernels that take longer are not captured in a CUDA graph: the host's part of their time is lost in the noise."""


def measure_kernels(
    path: Path, device: str, dtypes: Sequence[str], threads: int | None, plan: Plan, tell: Tell, warn: Warn
) -> Journal:
    """Measure the kernels of a plan, or go on measuring. The file at `path` holds what is measured, at once.

    `tell` is called with progress (empty at the end), `warn` with what disturbs or failed. Raises `InputError` for a
    dtype that is not measured and a device that torch cannot use.
    """
    for dtype in dtypes:
        check_choice("dtype", dtype, tuple(DTYPES))
    bench = Bench(device, threads)
    if (busy := busy_share()) > BUSY_SHARE:
        warn([f"the machine is busy: its load is {busy:.0%} of its processors; a quiet one fits better"])
    wanted = {"dtypes": list(dtypes), "sizes": dataclasses.asdict(plan.sizes)}
    journal = Journal(path, bench.machine() | wanted)
    if journal.set_aside is not None:
        tell(f"{path} is of a run that was complete or other than this one: kept as {journal.set_aside}")
    if len(journal.records) > 1:
        tell(f"goes on with {len(journal.records) - 1} measurements in {path}")
    if not any(record["kind"] == "measured" for record in journal.records):
        with torch.no_grad():
            measure(bench, journal, partial(groups, plan.sizes, tuple(dtypes), device == "cpu"), plan, tell)
        journal.add([{"kind": "measured"}])  # stopped from here on, the same command only fits anew
    tell("")
    warn(_failures(journal.records))
    return journal


def measure(
    bench: Bench, journal: Journal, groups_of: Callable[[bool], Iterable[list[Case]]], plan: Plan, tell: Tell
) -> None:
    """Time all cases as `plan` says, but what the journal has.

    `groups_of` gives the groups of cases of the first sweep, or those of a later one; each ends with the reference.
    """
    end = time.perf_counter() + plan.limit_s
    pools: dict[str, Pool] = {}

    def pool(dtype: str) -> Pool:
        if dtype not in pools:
            if bench.device == "cpu" and len(pools) > 1:
                pools.clear()
            pools[dtype] = Pool(bench.device, dtype, plan.pool_elements)
        return pools[dtype]

    turns = [
        (sweep, number, group) for sweep in range(plan.sweeps) for number, group in enumerate(groups_of(sweep == 0))
    ]
    for done, (sweep, number, group) in enumerate(turns, 1):
        left = [record for case in group if not journal.has(record := {**case, "sweep": sweep})]
        if not left or (sweep > 0 and time.perf_counter() > end):
            continue
        words = (left[0].get(name, "") for name in ("kind", "op", "dtype"))
        tell(f"{done}/{len(turns)} {' '.join(filter(None, words))}")
        journal.add(_timed(bench, left, pool))
        journal.add([{"kind": "reference", "sweep": sweep, "group": number} | bench.reference()])


def _timed(bench: Bench, cases: Sequence[Case], pool: Callable[[str], Pool]) -> Iterator[Case]:
    for case in cases:
        try:
            operands = pool(case.get("dtype", "fp32"))
            run = built(case, operands)
            small = bench.device == "cpu" and case["kind"] in SMALL
            times = bench.sample_between(run, neighbour(operands)) if small else bench.sample(run)
            if bench.device == "cuda" and case["kind"] != "host" and times["wall_us"] < GRAPH_MOST_US:
                graph_us = bench.graph_us(run, weight_bytes(case))
                times |= {} if graph_us is None else {"graph_us": graph_us}
            yield case | times
        except RuntimeError as error:  # what this device cannot run is a finding
            yield case | {"error": reason(error)}


def _failures(records: Iterable[Measurement]) -> list[str]:
    """What could not run, a line for each kind, dtype and reason."""
    failed = [record for record in records if "error" in record and record["sweep"] == 0]
    counts = Counter((record["kind"], record.get("dtype", ""), record["error"]) for record in failed)
    return [f"{kind} {dtype}: {count} could not run: {error}" for (kind, dtype, error), count in counts.items()]
