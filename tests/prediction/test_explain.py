"""What `--explain` says: nothing beats the speed of light, and better hardware never makes a pass slower."""

from __future__ import annotations

import pytest

from gpt2cost import predict
from gpt2cost.prediction.explain import explain


@pytest.mark.parametrize("gpu", ["a100", "h100", "rtx4090", "t4", "m1-max"])
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_no_kernel_beats_the_speed_of_light(gpu: str, dtype: str, attn: str) -> None:
    for batch, seq, cache in ((1, 1024, 0), (4, 1024, 0), (8, 1, 512), (8, 128, 512)):
        prediction = predict("gpt2", gpu, batch=batch, seq=seq, cache=cache, dtype=dtype, attn=attn)
        for phase in prediction.phases:
            slowest = explain(prediction, phase, top=100).slowest
            assert len(slowest) > 10
            for kernel in slowest:
                assert kernel.gap >= 0.5 if "attention" in kernel.name else kernel.gap >= 0.999, kernel


def test_better_hardware_is_never_slower() -> None:
    for gpu in ("a100", "rtx3090", "m2"):
        prediction = predict("gpt2", gpu, batch=4, seq=256)
        for phase in prediction.phases:
            changes = {change.change: change for change in explain(prediction, phase).sensitivity}
            hardware = {name for name, change in changes.items() if change.kind == "hardware"}
            assert hardware == {"2x DRAM and L2 bandwidth", "2x FLOP/s", "no launch cost, no host time"}
            for change in changes.values():
                assert 0 < change.latency_s <= phase.totals.latency_s * (1 + 1e-9)
                assert change.speedup == pytest.approx(phase.totals.latency_s / change.latency_s)


def test_without_launches_a_decode_step_is_its_kernels() -> None:
    """What is left of a host-bound step is device time, well below the step's busy time of short kernels."""
    prediction = predict("gpt2", "a100", batch=1, seq=1, cache=64)
    (phase,) = prediction.phases
    free = explain(prediction, phase).sensitivity[-1]
    assert free.latency_s < phase.totals.device_s < phase.totals.latency_s


def test_the_slowest_come_first_and_sum_their_launches() -> None:
    prediction = predict("gpt2", "h100", batch=8, seq=512)
    phase = prediction.phases[0]
    slowest = explain(prediction, phase, top=3).slowest
    seconds = sorted((float(cost.device_s) for cost in phase.kernels), reverse=True)[:3]
    assert [kernel.device_s for kernel in slowest] == pytest.approx(seconds)
