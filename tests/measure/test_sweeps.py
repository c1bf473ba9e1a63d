"""What calibrate measures: sweeps over all kernels, in a journal that a stopped run goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2cost.measure.bench import Bench
from gpt2cost.measure.journal import Journal
from gpt2cost.measure.kernels import built, groups, host_cases
from gpt2cost.measure.plan import CPU_QUICK, Plan, plan_for
from gpt2cost.measure.pool import Pool
from gpt2cost.measure.records import Measurement, read_records
from gpt2cost.measure.sweeps import measure


def test_after_its_time_no_case_is_measured_a_second_time(tmp_path: Path) -> None:
    bench = Bench("cpu")
    journal = Journal(tmp_path / "a.jsonl", bench.machine())
    cases = [[case] for case in host_cases()[:3]]
    plan = Plan(CPU_QUICK, sweeps=4, limit_s=0.0, pool_elements=1000)
    measure(bench, journal, lambda first: cases, plan, lambda text: None)
    assert [(r["kind"], r["sweep"]) for r in journal.records[1:]] == 3 * [("host", 0), ("reference", 0)]


def test_a_small_kernel_is_sampled_with_a_neighbour_before_every_call() -> None:
    calls: list[str] = []
    times = Bench("cpu").sample_between(lambda: calls.append("kernel"), lambda: calls.append("neighbour"), 0.0)
    assert calls == ["kernel", *["neighbour", "kernel"] * times["runs"]]


def test_a_file_of_another_machine_is_kept_and_not_gone_on_with(tmp_path: Path) -> None:
    machine = {"kind": "machine", "torch": "2", "threads": 2}
    Journal(tmp_path / "a.jsonl", machine).add([{"kind": "gemm", "m": 1, "sweep": 0, "wall_us": 1.0}])
    assert len(Journal(tmp_path / "a.jsonl", machine).records) == 2
    other = Journal(tmp_path / "a.jsonl", {**machine, "threads": 4})
    assert len(other.records) == 1
    assert len(read_records(tmp_path / "a.jsonl.bak")) == 2


def test_every_file_that_was_set_aside_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for threads in (1, 2, 3, 4):
        set_aside = Journal(path, {"kind": "machine", "threads": threads}).set_aside
    assert set_aside == tmp_path / "a.jsonl.bak3"
    kept = [read_records(tmp_path / f"a.jsonl{end}")[0]["threads"] for end in (".bak", ".bak2", ".bak3", "")]
    assert kept == [1, 2, 3, 4]


def output_elements(case: Measurement) -> float:
    """How many elements a kernel writes, by the sizes in its record."""
    c = case
    match case["kind"]:
        case "gemm":
            return c["m"] * c["n"]
        case "bmm":
            return c["batch"] * c["m"] * c["n"]
        case "sdpa":
            return c["batch"] * c["heads"] * c["new_tokens"] * c["head_dim"]
        case "cat":
            return c["batch"] * c["heads"] * (c["cached_tokens"] + c["new_tokens"]) * c["head_dim"]
        case "copy":
            return c["elements"]
        case "fresh":
            return c["bytes"] / 4
        case _:
            return c["rows"] * c["columns"]


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("quick", [True, False])
def test_every_kernel_is_built_as_its_record_says(on_cpu: bool, quick: bool) -> None:
    """On torch's meta device, which has shapes and no memory; an operand that exceeds the pool raises."""
    plan = plan_for(on_cpu, quick)
    pool = Pool("meta", "fp32", plan.pool_elements)
    kinds = set()
    for group in groups(plan.sizes, ("fp32",), on_cpu, first=True):
        for case in group:
            if case["kind"] in ("host", "layers"):
                continue
            kinds.add(case["kind"])
            outputs = built(case, pool)()
            tensors = outputs if isinstance(outputs, list) else [outputs]
            assert len(tensors) == case.get("tensors", 1)
            assert tensors[0].numel() == pytest.approx(output_elements(case), rel=0.01), case
            if case["kind"] == "cat" or case.get("tensors", 1) > 1:
                assert tensors[0].shape[-1] == 64, "a cache's rows are those of one head"
    assert kinds >= {"gemm", "bmm", "sdpa", "cat", "copy", "elementwise", "softmax", "layer_norm", "gather", "where"}
    assert ("fresh" in kinds) == on_cpu
