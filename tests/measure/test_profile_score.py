"""Recorded kernels beside their predictions. The oracle of their durations is what real traces of an H100 hold."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from helpers import ROOT

from gpt2cost import load_hardware, load_model, predict
from gpt2cost.errors import InputError
from gpt2cost.measure.observed import Observed
from gpt2cost.measure.profile_score import ProfileScore, score_trace
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.table.kernel import Kernel
from gpt2cost.timing.queue_steps import unrolled

KERNELS = ROOT.parent / "shared" / "field-cases" / "kernels" / "other-kernels-h100-bf16.csv"
SIZES = Sizes(1, 5, 0)  # 5 x 768 = 3840 elements


def observed(seconds: float = 1e-6, in_stream: bool = False) -> list[Observed]:
    """A pass of gpt2 as a device would have run it, every kernel in the same time."""
    (phase,) = predict("gpt2", "h100", dtype="bf16", batch=1, seq=5, phase="prefill").phases
    steps = [row.step for row, _ in unrolled(phase.pass_.rows, phase.pass_.symbols)]
    ops = [step.op for step in steps if isinstance(step, Kernel)]
    return [Observed(op, ("k",), seconds, i * seconds, in_stream=in_stream) for i, op in enumerate(ops)]


def scored(ops: list[Observed]) -> ProfileScore:
    return score_trace(load_hardware("h100"), load_model("gpt2"), How("bf16"), SIZES, ops)


def predicted_s(profile: ProfileScore, name: str) -> float:
    """Of one launch."""
    (row,) = [kernel for kernel in profile.kernels if kernel.name == name]
    return row.predicted_s / row.count


def test_a_recorded_kernel_has_no_launch_in_its_time() -> None:
    """Catches a stream's floor, 2.4 us on an H100, in what is held against a kernel's own microsecond."""
    launch = load_hardware("h100").launch
    own, in_stream = (scored(observed(in_stream=stream)) for stream in (False, True))
    for name in ("transformer.add", "transformer.h.attn_residual"):
        assert predicted_s(in_stream, name) >= launch.stream_floor_s
        assert launch.graph_floor_s <= predicted_s(own, name) < launch.stream_floor_s
    assert own.total.predicted_s < in_stream.total.predicted_s


@pytest.mark.skipif(not KERNELS.exists(), reason="needs the field cases")
def test_small_kernels_of_real_traces() -> None:
    rows = list(csv.DictReader(KERNELS.open(encoding="utf-8")))
    measured_s = {(row["kernel"], row["shape"]): 1e-6 * float(row["measured_us"]) for row in rows}
    profile = scored(observed())
    added = measured_s["add", "elements 3840"]
    assert predicted_s(profile, "transformer.h.attn_residual") == pytest.approx(added, rel=0.15)
    norm = measured_s["layer_norm", "rows 5, columns 768"]
    assert predicted_s(profile, "transformer.h.ln_1") == pytest.approx(norm, rel=0.15)


def test_part_of_a_row_is_scored_against_that_part() -> None:
    whole = scored(observed())
    ops = observed()
    places = [i for i, op in enumerate(ops) if op.op == "cat"][:6]
    part = scored([op for i, op in enumerate(ops) if i not in places])
    key, value = ([k for k in one.kernels if k.op == "cat"] for one in (whole, part))
    assert sum(kernel.count for kernel in key) - sum(kernel.count for kernel in value) == 6
    for before, after in zip(key, value, strict=True):
        assert after.expected == before.count == 12
        assert after.predicted_s == pytest.approx(before.predicted_s * after.count / 12)
    assert set(part.missing) == {kernel.name for kernel in value if kernel.count < 12}


def test_a_pass_that_is_not_whole_is_no_pass() -> None:
    ops = observed()
    with pytest.raises(InputError, match="found no whole pass of gpt2"):
        scored(ops[: len(ops) // 2])
    two = scored([*ops, *ops[: len(ops) // 2]])
    assert (two.passes, two.missing, two.total.count) == (1, (), len(ops))


def test_what_is_mostly_something_else_is_no_trace_of_the_model() -> None:
    ops = observed()
    other = replace(ops[0], op="svd", seconds=1e-6 * len(ops))
    with pytest.raises(InputError, match="50% of its time"):
        scored([*ops, other])
    assert scored([*ops, replace(other, seconds=other.seconds / 2)]).mapped_share == pytest.approx(2 / 3)
