"""`gpt2cost trace`: the file, and what it refuses."""

from __future__ import annotations

import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from helpers import Call, Result, assert_calm, assert_refused, refusal

from gpt2cost import predict
from gpt2cost.measure.torch_trace import read_sized_trace
from gpt2cost.output.chrome_trace import chrome_trace
from gpt2cost.table.options import RUNTIMES

TRACE = ("trace", "--model", "distilgpt2", "--gpu", "a100", "--seq", "16")


def test_the_command_writes_the_trace_of_a_prediction(gpt2cost: Call, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert gpt2cost(*TRACE, "-o", path) == Result(0, "", "")
    expected = chrome_trace(predict("distilgpt2", "a100", seq=16))
    assert json.loads(path.read_text("utf-8")) == json.loads(json.dumps(expected))
    assert gpt2cost(*TRACE).out == path.read_text("utf-8")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("sizes", [(1, 16, 0), (3, 1, 40), (2, 5, 7)])
def test_shapes_are_written_as_the_profiler_writes_them(sizes: tuple[int, int, int], tmp_path: Path) -> None:
    """What reads the sizes of a recorded pass reads those of a predicted one."""
    batch, seq, cache = sizes
    document = chrome_trace(predict("distilgpt2", "a100", batch=batch, seq=seq, cache=cache, phase="prefill"))
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(document), "utf-8")
    assert read_sized_trace(path)[1] == sizes
    kernels = [event["args"] for event in document["traceEvents"] if event.get("cat") == "kernel"]
    assert all(kernel["Output Dims"] for kernel in kernels)


def assert_exact(gpt2cost: Call, path: Path, *flags: str) -> list[dict[str, Any]]:
    """The profiles of a predicted trace that is read back."""
    result = gpt2cost("validate", "--trace", path, "--model", "distilgpt2", "--gpu", "a100", "--format", "json", *flags)
    assert result.code == 0, result.err
    assert result.err == ""
    profiles: list[dict[str, Any]] = json.loads(result.out)["profiles"]
    for one in profiles:
        assert one["mapped_share"] == pytest.approx(1)
        assert (one["in_order"], one["missing"], one["unmapped"]) == (True, [], [])
        assert all(abs(row["error"]) < 1e-4 for row in [one["total"], *one["kinds"], *one["kernels"]])
    return profiles


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_predicted_run_is_read_back_as_itself(runtime: str, attn: str, gpt2cost: Call, tmp_path: Path) -> None:
    """Catches attention that is booked as copies, merged kernels and graphs' nodes that are not found again."""
    path, sizes = tmp_path / "trace.json", ("--batch", "2", "--seq", "40")
    given = ("--runtime", runtime, "--attn", attn)
    assert gpt2cost(*TRACE[:5], *sizes, *given, "-o", path).code == 0
    prefill, decode = assert_exact(gpt2cost, path, *given)
    assert [(one["seq_len"], one["cache_len"]) for one in (prefill, decode)] == [(40, 0), (1, 40)]
    for one, phase in zip(
        (prefill, decode),
        predict("distilgpt2", "a100", batch=2, seq=40, runtime=runtime, attn=attn).phases,
        strict=True,
    ):
        assert one["total"]["predicted_s"] == pytest.approx(phase.totals.device_s)
        assert one["total"]["count"] == phase.totals.launches
    assert assert_exact(gpt2cost, path, "--case", "2,1,40") == [decode]
    assert assert_exact(gpt2cost, path) == [prefill, decode]  # how it ran, the trace says


@pytest.mark.parametrize(
    "flags",
    [
        "--logits last",
        "--no-use-cache",
        "--attn flash_attention_2",
        "--dtype bf16",
        "--head none",
        "--impl nanogpt",
        "--cache-type static --runtime reduce-overhead",
        "--head token-classification",
        "--set add_cross_attention=true --encoder-len 20",
    ],
)
def test_what_a_predicted_run_says_of_itself_is_heard(flags: str, gpt2cost: Call, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert gpt2cost(*TRACE, *flags.split(), "--phase", "prefill", "-o", path).code == 0
    dtype = flags.split() if "dtype" in flags else []
    (one,) = assert_exact(gpt2cost, path, *dtype)
    assert one["total"]["count"] > 0


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_a_predicted_run_that_says_nothing_of_itself(attn: str, gpt2cost: Call, tmp_path: Path) -> None:
    """Some tool has dropped what is not torch.profiler's: the ops that launch kernels are as in a recorded trace."""
    path = tmp_path / "trace.json"
    assert gpt2cost(*TRACE, "--attn", attn, "-o", path).code == 0
    document = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({"traceEvents": document["traceEvents"]}), "utf-8")
    result = gpt2cost("validate", "--trace", path, "--model", "distilgpt2", "--gpu", "a100", "--format", "json")
    for one in json.loads(result.out)["profiles"]:
        assert (one["mapped_share"], one["in_order"], one["missing"]) == (1, True, [])


MUTATIONS: list[Any] = [
    10**400, -1, 0, 1e300, float("nan"), float("inf"), None, "x", "", [], {}, True, [1], {"a": 1}, 2**63, [[[]]],
]  # fmt: skip


def mutated(node: Any, chance: random.Random) -> None:
    """Change or drop one thing somewhere inside."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node)))
    key = chance.choice(keys)
    if isinstance(node[key], dict | list) and node[key] and chance.random() < 0.85:
        mutated(node[key], chance)
    elif chance.random() < 0.7:
        node[key] = deepcopy(chance.choice(MUTATIONS))
    else:
        del node[key]


@pytest.mark.parametrize("changes", [1, 3, 30, 200])
def test_a_trace_that_was_damaged(changes: int, gpt2cost: Call, tmp_path: Path) -> None:
    """Refused in a line, or read; never a traceback, and JSON is JSON."""
    chance, path = random.Random(changes), tmp_path / "trace.json"
    document = json.dumps(chrome_trace(predict("distilgpt2", "a100", seq=4, phase="prefill")))
    for _ in range(15):
        damaged = json.loads(document)
        for _ in range(changes):
            if damaged:
                mutated(damaged, chance)
        path.write_text(json.dumps(damaged), "utf-8")
        for given in ((), ("--model", "distilgpt2", "--gpu", "a100", "--format", "json")):
            result = gpt2cost("validate", "--trace", path, *given)
            assert_calm(result)
            assert not given or result.code or "NaN" not in result.out


def test_a_predicted_run_of_another_model_or_device(gpt2cost: Call, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    assert gpt2cost(*TRACE, "-o", path).code == 0
    said = refusal(gpt2cost("validate", "--trace", path, "--model", "gpt2-large", "--gpu", "a100"))
    assert "n_layer 6" in said
    assert "--model distilgpt2" in said
    result = gpt2cost("validate", "--trace", path, "--model", "distilgpt2", "--gpu", "l4")
    assert result.code == 0
    assert "recorded on a100-sxm-80gb (--gpu a100-sxm-80gb), not on l4" in result.err
    eager = gpt2cost("validate", "--trace", path, "--model", "distilgpt2", "--gpu", "a100", "--attn", "eager")
    assert "--attn sdpa is" in refusal(eager)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--model", "distilgpt2"], "--gpu is required"),
        (["--model", "distilgpt2", "--gpu", "a100", "--seq", "0"], "seq: expected"),
        (["--seq", "x"], "--seq"),
    ],
)
def test_bad_input_is_one_line(flags: list[str], named: str, gpt2cost: Call) -> None:
    assert_refused(gpt2cost("trace", *flags), named)
