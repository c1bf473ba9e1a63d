"""`trace`: the rules of the Chrome trace-event format, and times that are those of `predict`."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest

import gpt2cost
from gpt2cost.errors import InputError
from gpt2cost.output.chrome_trace import MOST_SLICES, chrome_trace, slice_count, slices_of
from gpt2cost.timing.kernel import BOUNDS

POINTS: list[dict[str, Any]] = [
    {"batch": 2, "seq": 32},
    {"batch": 1, "seq": 1, "cache": 100},
    {"batch": 8, "seq": 512, "cache": 512},
    {"batch": 1, "seq": 40, "attn": "eager"},
    {"batch": 1, "seq": 40, "attn": "flash_attention_2"},
    {"batch": 2, "seq": 40, "use_cache": False},
]
RUNTIMES = ["eager", "compile", "cuda-graph", "reduce-overhead"]


def validate(document: dict[str, Any]) -> None:
    """The rules: known phases with their keys, no negative times, tracks named, slices nest, arrows have two ends."""
    assert document["displayTimeUnit"] in ("ms", "ns")
    events = document["traceEvents"]
    tracks = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    processes = {e["pid"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    assert tracks
    assert {pid for pid, _ in tracks} == processes
    slices: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    arrows: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        assert {"ph", "name", "pid", "tid", "ts"} <= event.keys()
        assert event["ts"] >= 0
        assert (event["pid"], event["tid"]) in tracks
        match event["ph"]:
            case "X":
                assert event["dur"] > 0 or event["cat"] == "python_function"
                assert isinstance(event["cat"], str)
                slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
            case "s" | "f":
                arrows[event["id"]].append(event)
                assert event["ph"] == "s" or event["bp"] == "e"
            case "M":
                assert event["args"]
            case other:
                raise AssertionError(other)
    for track in slices.values():
        assert_nested(track)
    for ends in arrows.values():
        assert [end["ph"] for end in ends] == ["s", "f"]
        assert ends[0]["ts"] <= ends[1]["ts"]


def assert_nested(slices: list[tuple[float, float]]) -> None:
    """Two slices of a track either do not overlap, or one lies in the other."""
    close = 2e-6
    open_: list[float] = []
    for start, end in sorted(slices, key=lambda span: (span[0], -span[1])):
        while open_ and open_[-1] <= start + close:
            open_.pop()
        assert not open_ or end <= open_[-1] + close
        open_.append(end)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_the_format_and_the_times(point: dict[str, Any], runtime: str) -> None:
    if point.get("attn") == "flash_attention_2" and runtime == "cuda-graph":
        pytest.skip("it cannot be captured at batch 1")
    prediction = gpt2cost.predict("distilgpt2", "a100", **point, runtime=runtime)
    document = chrome_trace(prediction)
    assert json.loads(json.dumps(document)) == document
    validate(document)
    events = document["traceEvents"]
    kernels = [event for event in events if event.get("cat") == "kernel"]
    by_phase = prediction.phases
    assert len(kernels) == sum(phase.totals.launches for phase in by_phase)
    for key in ("flops", "read_bytes", "write_bytes"):
        assert sum(k["args"][key] for k in kernels) == sum(getattr(phase.totals, key) for phase in by_phase)
    device_us = sum(kernel["dur"] for kernel in kernels)
    assert device_us == pytest.approx(1e6 * sum(phase.totals.device_s for phase in by_phase), rel=1e-6)
    ends = max(event["ts"] + event["dur"] for event in events if event["ph"] == "X")
    assert ends == pytest.approx(1e6 * sum(phase.totals.latency_s for phase in by_phase), abs=1e-3)
    on_device = sorted((k["ts"], k["ts"] + k["dur"]) for k in kernels)
    assert all(end <= start + 2e-6 for (_, end), (start, _) in pairwise(on_device))
    assert Counter(event["name"] for event in events if event.get("cat") == "user_annotation") == Counter(
        phase.phase for phase in by_phase
    )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_the_queue_ends_when_predict_says(point: dict[str, Any], runtime: str) -> None:
    """Step by step, and by matrices over (max, +): two ways to the same end."""
    if point.get("attn") == "flash_attention_2" and runtime == "cuda-graph":
        pytest.skip("it cannot be captured at batch 1")
    prediction = gpt2cost.predict("distilgpt2", "a100", **point, runtime=runtime)
    hw = prediction.hardware
    for phase in prediction.phases:
        (slices,) = slices_of(phase)
        assert len(slices) == slice_count(phase.pass_)
        last = max(piece.end_s for piece in slices[:-1])
        assert slices[-1].name == "cudaDeviceSynchronize"
        assert last == pytest.approx(phase.totals.latency_s - hw.host.sync_s, rel=1e-9)
        host_s = sum(piece.end_s - piece.start_s for piece in slices[:-1] if piece.track == "host")
        assert host_s >= phase.totals.host_s * (1 - 1e-9)
        busy = sorted((piece.start_s, piece.end_s) for piece in slices if piece.track == "device")
        starts, ends = zip(*busy, strict=True)
        gaps = zip((*starts, phase.totals.latency_s), (0.0, *ends), strict=True)
        assert sum(start - end for start, end in gaps) == pytest.approx(phase.totals.waiting_s, rel=1e-9)


def test_kernels_are_in_the_order_of_the_layers_and_carry_their_formulas() -> None:
    prediction = gpt2cost.predict("distilgpt2", "a100", batch=2, seq=16, phase="prefill")
    kernels = [event for event in chrome_trace(prediction)["traceEvents"] if event.get("cat") == "kernel"]
    names = [kernel["name"] for kernel in kernels if kernel["name"].endswith("mlp.c_fc")]
    assert names == [f"transformer.h.{layer}.mlp.c_fc" for layer in range(6)]
    c_fc = next(kernel["args"] for kernel in kernels if kernel["name"] == names[0])
    assert eval(c_fc["flops_formula"], {}, dict(prediction.phases[0].symbols)) == c_fc["flops"]
    assert c_fc["bound"] in BOUNDS
    assert c_fc["source"].startswith("modeling_gpt2.py:")


def test_modules_hold_their_kernels() -> None:
    """As in torch.profiler's export: an op lies inside the call of its module."""
    prediction = gpt2cost.predict("distilgpt2", "a100", batch=2, seq=16, phase="prefill")
    events = chrome_trace(prediction)["traceEvents"]
    calls = {e["name"]: (e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") == "python_function"}
    starts = {e["id"]: e["ts"] for e in events if e["ph"] == "s"}
    inside = 0
    for event in events:
        if event.get("cat") == "kernel" and event["args"]["module"].startswith("transformer.h."):
            start, end = calls[f"nn.Module: {event['args']['module']}"]
            assert start - 2e-6 <= starts[event["args"]["correlation"]] < end
            inside += 1
    blocks = [cost.count for cost in prediction.phases[0].kernels if cost.row.path.startswith("transformer.h.")]
    assert inside == sum(blocks)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_trace_that_is_too_long(runtime: str) -> None:
    """It says how many slices there would be, and does not make them."""
    model = gpt2cost.change_model(gpt2cost.load_model("gpt2"), {"n_layer": 10**7})
    prediction = gpt2cost.predict(model, "a100", runtime=runtime)
    count = sum(slice_count(phase.pass_) for phase in prediction.phases)
    assert count > 10**7
    for make in (lambda: chrome_trace(prediction), lambda: slices_of(prediction.phases[0], prediction.phases[1])):
        with pytest.raises(InputError, match=f"at most {MOST_SLICES:,} slices, .* would have {count:,}$"):
            make()
