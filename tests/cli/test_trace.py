"""`gpt2cost trace`: the file, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import Call, Result, assert_refused

from gpt2cost import predict
from gpt2cost.measure.torch_trace import read_sized_trace
from gpt2cost.output.chrome_trace import chrome_trace

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
