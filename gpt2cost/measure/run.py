"""Passes timed and profiled on the machine at hand. Needs torch and transformers.

All cases are measured in every round, so that a slow minute of the machine touches all alike; the rounds' halves, put
beside each other, say how well the machine repeats itself.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from gpt2cost.checks import check_size
from gpt2cost.errors import InputError
from gpt2cost.measure.bench import Bench, Tell, Warn, reason
from gpt2cost.measure.observed import Observed
from gpt2cost.measure.passes import Models, PassCase, pass_run
from gpt2cost.measure.plan import MOST_ROUNDS
from gpt2cost.measure.profile_records import profile_record
from gpt2cost.measure.records import Measurement, trimmed_mean
from gpt2cost.measure.torch_trace import read_trace

BUDGET_S = 0.1
"""A case is timed for this long in a round, and at least once. A machine's bad moments last for seconds, so that many
short rounds tell more than a few long ones."""
PROFILED = 5
"""Passes of which kernels are profiled."""


def measure_cases(
    cases: Sequence[PassCase], device: str, threads: int | None, rounds: int, profiled: bool, tell: Tell, warn: Warn
) -> list[Measurement]:
    """Measure: the record of the machine, then the passes, then, where they are `profiled`, the profiles.

    `tell` is called with progress (empty at the end), `warn` with what failed. Raises `InputError` where no pass could
    be run.
    """
    check_size("rounds", rounds, 1, MOST_ROUNDS)
    if profiled and device == "mps":
        raise InputError("--kernels: torch.profiler sees no kernels on mps, only the host's ops")
    bench = Bench(device, threads)
    records: list[Measurement] = [bench.machine()]
    records += measure_passes(bench, cases, rounds, tell=tell)
    if profiled:
        records += profile_passes(bench, cases, tell=tell)
    tell("")
    failed = [record for record in records if "error" in record]
    for r in failed:
        size = f"{r['batch']},{r['seq']},{r['cache']}"
        warn([f"{r['model']} {r['dtype']} {r['attn']} {r['runtime']} {size}: {r['error']}"])
    if not any(record["kind"] == "pass" and "error" not in record for record in records):
        raise InputError(f"measure: no pass could be run: {failed[0]['error']}")
    return records


# ------------------------------------------------------------------------------------------------ passes


def measure_passes(
    bench: Bench, cases: Sequence[PassCase], rounds: int, tell: Tell, budget_s: float = BUDGET_S
) -> list[Measurement]:
    """A record of kind `pass` per case, timed in `rounds` rounds over all cases; one that cannot run has `error`.

    `rounds_us` has each round's median, `reference_us` what the reference took after it, and `wall_us` is the
    `trimmed_mean` of the rounds. Raises `InputError` for an attention that is not installed.
    """
    models = Models(bench)
    times: dict[PassCase, list[dict[str, Any]]] = defaultdict(list)
    errors: dict[PassCase, str] = {}
    with torch.no_grad():
        for number in range(rounds):
            for index, case in enumerate(cases, 1):
                if case in errors:
                    continue
                tell(f"round {number + 1}/{rounds}, {index}/{len(cases)} {case.title}")
                try:
                    once = bench.sample(pass_run(models, case), budget_s, least=1)
                    times[case].append(once | {"reference_us": bench.reference()["wall_us"]})
                except RuntimeError as error:  # too large, say: a finding, not an end
                    errors[case] = reason(error)
                    models.clear()
    return [
        {"kind": "pass", **case.record()} | ({"error": errors[case]} if case in errors else _times(times[case]))
        for case in cases
    ]


def _times(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    medians = [times["wall_us"] for times in rounds]
    return {
        "wall_us": trimmed_mean(medians),
        "wall_min_us": min(times["wall_min_us"] for times in rounds),
        "runs": sum(times["runs"] for times in rounds),
        "rounds_us": medians,
        "reference_us": [times["reference_us"] for times in rounds],
    }


# ------------------------------------------------------------------------------------------------ profiles


def profile_pass(bench: Bench, models: Models, case: PassCase, passes: int = PROFILED) -> list[list[Observed]]:
    """The ops or kernels of one pass, recorded `passes` times, each after one that is not recorded."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else it reports every start and stop
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if bench.device == "cuda" else [])
    recordings: list[list[Observed]] = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "trace.json"

        def read(profiler: Any) -> None:
            profiler.export_chrome_trace(str(path))
            recordings.append(read_trace(path))

        run = pass_run(models, case)
        run()
        bench.sync()
        plan = schedule(wait=0, warmup=1, active=1, repeat=passes)
        with profile(activities=activities, schedule=plan, on_trace_ready=read, acc_events=True) as profiler:
            for _ in range(2 * passes):
                run()
                bench.sync()
                profiler.step()
    return recordings


def profile_passes(bench: Bench, cases: Sequence[PassCase], tell: Tell, passes: int = PROFILED) -> list[Measurement]:
    """A record of kind `profile` per case; one that cannot run has `error`."""
    models = Models(bench)
    records: list[Measurement] = []
    for index, case in enumerate(cases, 1):
        tell(f"profile {index}/{len(cases)} {case.title}")
        head = case.record()
        try:
            records.append(profile_record(head, profile_pass(bench, models, case, passes)))
        except RuntimeError as error:
            records.append({"kind": "profile", **head, "error": reason(error)})
            models.clear()
    return records
