"""The energy bound: board power of the hardware file x upper end of the range x number of GPUs, of every result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml

import gpt2cost
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.files import data_dir
from gpt2cost.prediction.trust import trust_at_best
from gpt2cost.units import parse_quantity


def watts(gpu: Hardware) -> float:
    """What the file says."""
    tree = yaml.safe_load((data_dir("hardware") / f"{gpu.name}.yaml").read_text("utf-8"))
    return parse_quantity(tree["board_power"], "W")


def test_of_a_pass() -> None:
    prediction = gpt2cost.predict("gpt2", "l4", batch=4, seq=32)
    prefill, decode = prediction.energy_bounds()
    assert (prefill.of, decode.of) == ({"phase": "prefill"}, {"phase": "decode"})
    for bound, phase, tokens in ((prefill, prediction.prefill, 128), (decode, prediction.decode, 4)):
        assert phase is not None
        assert bound.energy_bound_j == watts(prediction.hardware) * phase.totals.latency_high_s
        assert bound.energy_bound_j_per_token == bound.energy_bound_j / tokens


def test_without_a_cache_a_decode_step_brings_one_token() -> None:
    prediction = gpt2cost.predict("gpt2", "l4", seq=32, use_cache=False, phase="decode")
    (bound,) = prediction.energy_bounds()
    assert bound.energy_bound_j_per_token == bound.energy_bound_j


def test_of_a_generation() -> None:
    """All turns of all replicas; a token costs as much with more of them."""
    one, three = (gpt2cost.generate("gpt2", "a100", batch=2, new_tokens=5, gpus=gpus) for gpus in (1, 3))
    high_s = one.first.latency_high_s + np.sum(one.rest.latency_high_s)
    (bound,), (all_three,) = one.energy_bounds(), three.energy_bounds()
    assert bound.energy_bound_j == pytest.approx(watts(one.hardware) * high_s, rel=1e-12)
    assert all_three.energy_bound_j == pytest.approx(3 * bound.energy_bound_j, rel=1e-12)
    assert all_three.energy_bound_j_per_token == pytest.approx(bound.energy_bound_j / (2 * 5), rel=1e-12)


def test_of_a_training_step_and_its_run() -> None:
    training = gpt2cost.train("gpt2", "a100", gpus=8, micro_batch=4, steps=100, eval_every=50)
    step, run = training.energy_bounds()
    power_w = 8 * watts(training.hardware)
    assert step.energy_bound_j == pytest.approx(power_w * training.step.step_high_s, rel=1e-12)
    assert step.energy_bound_j_per_token == pytest.approx(step.energy_bound_j / (8 * 4 * 1024), rel=1e-12)
    wider = training.step.step_high_s / training.step.step_s
    assert training.run.time_s is not None
    assert run.energy_bound_j == pytest.approx(power_w * training.run.time_s * wider, rel=1e-12)
    assert run.energy_bound_j > 100 * step.energy_bound_j, "validation takes energy too"
    assert len(gpt2cost.train("gpt2", "a100").energy_bounds()) == 1


def test_of_several_candidates_answers_and_offers() -> None:
    """Each is what its own prediction, run or step has."""
    compared = gpt2cost.compare("gpt2", ["a100", "l4"])
    own = [bound for one in compared.candidates for bound in one.prediction.energy_bounds()]
    assert [bound.energy_bound_j for bound in compared.energy_bounds()] == [bound.energy_bound_j for bound in own]
    labels = [dict(bound.of) for bound in compared.energy_bounds()]
    assert labels[2:] == [{"label": "l4", "phase": "prefill"}, {"label": "l4", "phase": "decode"}]

    answers = gpt2cost.capacity("gpt2", "l4", phase="decode", max_latency_s=5e-3)
    for answer, bound in zip(answers.answers, answers.energy_bounds(), strict=True):
        assert answer.prediction is not None
        assert bound.of == {"goal": answer.goal, "phase": "decode"}
        assert (
            bound.energy_bound_j == watts(answers.choice.hardware) * answer.prediction.phases[0].totals.latency_high_s
        )

    offers = gpt2cost.service("gpt2", ["a100", "l4"], new_tokens=4, max_tpot_s=40e-3)
    able = [offer.run for offer in offers.offers if offer.run]
    assert [bound.of for bound in offers.energy_bounds()] == [{"gpu": run.hardware.name} for run in able]

    steps = gpt2cost.compare_training("gpt2", ["a100", "l4"], micro_batch=2)
    for one, bound in zip(steps.candidates, steps.energy_bounds(), strict=True):
        assert bound.of == {"label": one.label}
        assert bound.energy_bound_j == one.training.energy_bounds()[0].energy_bound_j


@pytest.mark.parametrize("phase", ["prefill", "decode", "both"])
def test_a_sweep_has_what_predict_has(phase: str) -> None:
    rows = list(
        gpt2cost.sweep("gpt2", ["a100", "l4"], batch=[1, 4], seq=[1, 32], cache=[0, 64], phase=phase, energy=True)
    )
    assert rows
    for row in rows:
        sizes = {"batch": row["batch_size"], "seq": row["seq_len"], "cache": row["cache_len"]}
        one = gpt2cost.predict("gpt2", row["gpu"], **sizes, phase=phase)
        (bound,) = (bound for bound in one.energy_bounds() if bound.of["phase"] == row["phase"])
        assert row["energy_bound_j"] == row["board_power_w"] * row["latency_high_s"]
        for name in ("board_power_w", "energy_bound_j", "energy_bound_j_per_token"):
            assert row[name] == pytest.approx(getattr(bound, name), rel=1e-12)


def test_a_sweep_of_training_has_what_train_has() -> None:
    for row in gpt2cost.sweep_training("gpt2", "a100", gpus=[1, 8], micro_batch=[1, 4], grad_accum=2, energy=True):
        one = gpt2cost.train("gpt2", "a100", gpus=row["gpus"], micro_batch=row["micro_batch"], grad_accum=2)
        (bound,) = one.energy_bounds()
        assert row["energy_bound_j"] == pytest.approx(bound.energy_bound_j, rel=1e-12)
        assert row["energy_bound_j_per_token"] == pytest.approx(bound.energy_bound_j_per_token, rel=1e-12)


@pytest.mark.parametrize("gpu", ["h100", "l4", "m3"])
def test_a_boards_power_says_nothing_of_time(gpu: str) -> None:
    """Neither the range nor the words behind it change, so that a device can be given one."""
    own = gpt2cost.load_hardware(gpu)
    changed = gpt2cost.change_hardware(own, {"board_power": "123 W"})
    assert trust_at_best(changed) == trust_at_best(own)
    before, after = (gpt2cost.predict("gpt2", hardware, batch=8, seq=512) for hardware in (own, changed))
    assert [vars(phase.totals) for phase in after.phases] == [vars(phase.totals) for phase in before.phases]
    assert after.energy_bounds()[0].board_power_w == 123
    slower = {"host_factor": 2, "board_power": "123 W"}
    totals = [
        gpt2cost.predict("gpt2", gpt2cost.change_hardware(own, what)).phases[1].totals
        for what in ({"host_factor": 2}, slower)
    ]
    assert vars(totals[0]) == vars(totals[1])


@pytest.mark.parametrize(
    "ask",
    [
        lambda: gpt2cost.predict("gpt2", "m3").energy_bounds(),
        lambda: gpt2cost.train("gpt2", "m3", precision="fp32").energy_bounds(),
        lambda: gpt2cost.sweep("gpt2", "m3", energy=True),
        lambda: gpt2cost.sweep_training("gpt2", "m3", precision="fp32", energy=True),
    ],
)
def test_a_device_without_a_figure_is_refused(ask: Any) -> None:
    with pytest.raises(InputError, match=r"energy: m3 has no board_power in its YAML; --hw-set board_power='60 W'"):
        ask()
