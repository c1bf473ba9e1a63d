"""What calibrate measures: sweeps over all kernels, in a journal that a stopped run goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpt2cost.measure.bench import Bench
from gpt2cost.measure.journal import Journal
from gpt2cost.measure.kernels import groups, host_cases
from gpt2cost.measure.plan import CPU_QUICK, Plan, plan_for
from gpt2cost.measure.records import read_records
from gpt2cost.measure.sweeps import measure


def test_after_its_time_no_case_is_measured_a_second_time(tmp_path: Path) -> None:
    bench = Bench("cpu")
    journal = Journal(tmp_path / "a.jsonl", bench.machine())
    cases = [[case] for case in host_cases()[:3]]
    plan = Plan(CPU_QUICK, sweeps=4, limit_s=0.0, pool_elements=1000)
    measure(bench, journal, lambda first: cases, plan, lambda text: None)
    assert [(r["kind"], r["sweep"]) for r in journal.records[1:]] == 3 * [("host", 0), ("reference", 0)]


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
        journal = Journal(path, {"kind": "machine", "threads": threads})
    assert journal.set_aside == tmp_path / "a.jsonl.bak3"
    kept = [read_records(tmp_path / f"a.jsonl{end}")[0]["threads"] for end in (".bak", ".bak2", ".bak3", "")]
    assert kept == [1, 2, 3, 4]


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("quick", [True, False])
def test_every_operand_fits_into_the_pool(on_cpu: bool, quick: bool) -> None:
    plan = plan_for(on_cpu, quick)
    count = 0
    for group in groups(plan.sizes, ("fp32",), on_cpu, first=False):
        for record in group:
            operands = {
                "gemm": lambda r: max(r["m"] * r["k"], r["k"] * r["n"]),
                "bmm": lambda r: r["batch"] * max(r["m"] * r["k"], r["k"] * r["n"]),
                "sdpa": lambda r: 2 * r["batch"] * r["heads"] * r["kv_len"] * r["head_dim"],
                "elementwise": lambda r: r["rows"] * r["columns"],
                "softmax": lambda r: r["rows"] * r["columns"],
                "copy": lambda r: r["elements"],
            }.get(record["kind"])
            count += operands is not None
            assert operands is None or operands(record) <= plan.pool_elements, record
    assert count > 100
