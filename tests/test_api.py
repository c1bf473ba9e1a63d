"""The Python API at its edges: what it refuses and how, results of arrays, candidates of one name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import GPT2Config

import gpt2cost as package
from gpt2cost import InputError, capacity, compare, generate, kernel_latency, load_hardware, predict, sweep, tree

ARRAY = np.array([1, 2])
Call = Callable[[], Any]


class Unreadable:
    """Looks like a config, and is none."""

    model_type = "gpt2"

    def to_dict(self) -> list[int]:
        return [1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: predict(load_hardware("a100"), "a100"),
            "model: expected a name, a path or a GPT2Config, got Hardware",
        ),
        (lambda: predict(predict("gpt2", "a100"), "a100"), "got Prediction"),
        (lambda: predict(GPT2Config, "a100"), "model: expected a name"),
        (lambda: predict(Unreadable(), "a100"), "model: expected a name"),
        (lambda: package.Model(n_head=0), "n_head: expected an integer from 1 to 10000000, got 0"),
        (lambda: package.Model(n_layer="3"), "n_layer: expected an integer"),  # type: ignore[arg-type]
        (lambda: package.change_model(package.load_model("gpt2"), {1: 2}), "set: expected text as a key, got 1"),  # type: ignore[dict-item]
        (lambda: package.change_model(package.load_model("gpt2"), [1]), "set: expected a mapping"),  # type: ignore[arg-type]
        (
            lambda: package.change_model(package.load_model("gpt2"), {"n_layer": 2, "num_hidden_layers": 3}),
            "set: n_layer is set twice, under two names",
        ),
        (lambda: package.change_hardware(load_hardware("a100"), {1: 2}), "hw-set: expected text as a key"),  # type: ignore[dict-item]
        (lambda: compare("gpt2", ["a100", "h100"], batch=ARRAY), "batch: expected one size"),  # type: ignore[arg-type]
        (lambda: compare("gpt2", ["a100", "h100"], seq=[1, 2]), "seq: expected one size"),  # type: ignore[arg-type]
        (lambda: capacity("gpt2", "a100", batch=ARRAY), "batch: expected one size"),  # type: ignore[arg-type]
        (lambda: capacity("gpt2", "a100", max_latency_s="1"), "max_latency_s: expected a number above 0"),  # type: ignore[arg-type]
        (lambda: capacity("gpt2", "a100", max_latency_s=float("nan")), "max_latency_s: expected a number above 0"),
        (lambda: tree("gpt2", batch=ARRAY), "batch: expected one size"),  # type: ignore[arg-type]
        (lambda: tree("gpt2", phase="train", logits="last"), "logits: not of training"),
        (lambda: generate("gpt2", "a100", batch=ARRAY), "batch: expected one size"),  # type: ignore[arg-type]
        (lambda: generate("gpt2", "a100", padded="no"), "padded: expected True or False"),  # type: ignore[arg-type]
        (lambda: generate("gpt2", "a100", sample=[1]), "sample: expected True or False"),  # type: ignore[arg-type]
        (lambda: generate("gpt2", "a100", price_per_hour="3"), "price_per_hour: expected a number"),  # type: ignore[arg-type]
        (lambda: sweep("gpt2", "a100", kernels="no"), "kernels: expected True or False"),  # type: ignore[arg-type]
        (lambda: sweep("gpt2", "a100", only_valid=1), "only_valid: expected True or False"),  # type: ignore[arg-type]
        (
            lambda: kernel_latency("gemm", "a100", m=ARRAY, n=np.array([1, 2, 3]), k=1),
            "batch, m, n, k: expected arrays that broadcast, got shapes (), (2,), (3,), ()",
        ),
    ],
)
def test_refused(call: Call, message: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert message in str(error.value)


def test_numpy_values_are_taken() -> None:
    """Scalars of numpy count as Python's own, and arrays of names as lists."""
    assert sweep(np.array(["gpt2"]), np.array(["a100", "h100"]), use_cache=np.True_).points == 2  # type: ignore[arg-type]
    plain = capacity("gpt2", "a100", batch=2)
    assert capacity("gpt2", "a100", batch=np.int64(2)).to_dict() == plain.to_dict()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "call",
    [
        lambda: predict("gpt2", "a100", batch=np.array([1])),
        lambda: predict("gpt2", "a100", batch=ARRAY).decode,
        lambda: kernel_latency("gemm", "a100", m=ARRAY, n=1, k=1),
    ],
)
def test_a_result_of_arrays_has_no_rows(call: Call) -> None:
    """A notebook shows its two lines; rows and documents are refused in one line."""
    result = call()
    assert result._repr_html_() is None
    assert len(repr(result)) < 300
    for refused in (result.rows, result.to_dict):
        with pytest.raises(InputError, match="a result of arrays has no rows"):
            refused()


def test_candidates_of_one_name_are_told_apart() -> None:
    """Two devices of one name have crossovers as two of different names have."""
    device = load_hardware("a100")
    slow = {"host": device.host.scaled(0.3), "compute": device.compute.scaled(0.2), "evidence": ()}
    named, unnamed = (
        compare("gpt2", [device, dataclasses.replace(device, name=name, **slow)])  # type: ignore[arg-type]
        for name in ("slow", device.name)
    )
    assert [candidate.label for candidate in unnamed.candidates] == [device.name, f"{device.name} (2)"]
    sizes = [(crossover.phase, crossover.axis, crossover.size) for crossover in named.crossovers]
    assert sizes
    assert sizes == [(crossover.phase, crossover.axis, crossover.size) for crossover in unnamed.crossovers]
