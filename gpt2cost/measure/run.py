"""A campaign of passes on the machine at hand: which sizes by default, and the records of all. Needs torch."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence

from gpt2cost.checks import check_size
from gpt2cost.errors import InputError
from gpt2cost.measure.bench import Bench
from gpt2cost.measure.passes import PassCase, Tell, measure_passes, pass_cases, profile_passes
from gpt2cost.measure.plan import MAX_THREADS, MOST_ROUNDS
from gpt2cost.measure.records import Measurement
from gpt2cost.prediction.grid import Grid
from gpt2cost.table.config import load_model

USUAL_SIZES = (
    (1, 1, 64), (1, 1, 512), (8, 1, 512), (1, 16, 0), (1, 128, 0), (1, 512, 0), (4, 128, 0), (2, 64, 448),
)  # fmt: skip
"""(batch, seq, cache) where none is asked for: decode steps, prompts, and a prompt's next part."""


def cases_of(grid: Grid, sizes: Sequence[tuple[int, int, int]] | None, device: str) -> list[PassCase]:
    """Every choice of a grid's model, dtype, attention and runtime at each of `sizes` (batch, seq, cache).

    None: at those of `USUAL_SIZES` that all the models can run. Raises `InputError` for what cannot run.
    """
    return pass_cases(grid, _usual_sizes(grid) if sizes is None else sizes, device)


def _usual_sizes(grid: Grid) -> list[tuple[int, int, int]]:
    models = [load_model(model) for model in grid.model]
    cached = grid.use_cache and all(model.use_cache for model in models)
    longest = min(model.n_positions for model in models)
    sizes = [size for size in USUAL_SIZES if size[1] + size[2] <= longest and (cached or not size[2])]
    if not sizes:
        raise InputError(f"--case: required, because no usual size fits into {longest} positions")
    return sizes


def measure_cases(
    cases: Sequence[PassCase],
    device: str,
    threads: int | None,
    rounds: int,
    profiled: bool,
    tell: Tell,
    warn: Callable[[Iterable[str]], None],
) -> list[Measurement]:
    """Measure: the record of the machine, then the passes, then, where they are `profiled`, the profiles.

    `tell` is called with progress (empty at the end), `warn` with what failed. Raises `InputError` where no pass could
    be run.
    """
    if threads is not None:
        check_size("threads", threads, 1, MAX_THREADS)
    check_size("rounds", rounds, 1, MOST_ROUNDS)
    if profiled and device == "mps":
        raise InputError("--kernels: torch.profiler sees no kernels on mps, only the host's ops")
    bench = Bench(device, threads)
    records: list[Measurement] = [{**bench.machine(), "date": datetime.date.today().isoformat()}]
    records += measure_passes(bench, cases, rounds, tell=tell)
    if profiled:
        records += profile_passes(bench, cases, tell=tell)
    tell("")
    failed = [record for record in records if "error" in record]
    warn(
        f"{record['model']} {record['dtype']} {record['attn']} {record['runtime']}"
        f" {record['batch']},{record['seq']},{record['cache']}: {record['error']}"
        for record in failed
    )
    if not any(record["kind"] == "pass" and "error" not in record for record in records):
        raise InputError(f"measure: no pass could be run: {failed[0]['error']}")
    return records
