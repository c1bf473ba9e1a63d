"""`gpt2cost validate --trace` of traces that are not ours: what they say of themselves, and what is wrong with them.

The oracles are the real torch.profiler, and traces written for this purpose.
"""

from __future__ import annotations

import gzip
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, Call, assert_calm, assert_refused, refusal

pytest.importorskip("torch")

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2cost.measure import records, trace_file
from gpt2cost.measure.torch_trace import load_trace
from gpt2cost.measure.trace_says import said_by

FIELD_CASES = ROOT.parent / "shared" / "field-cases" / "traces"
SIZES = {"n_layer": 3, "n_head": 4, "n_embd": 48, "n_inner": 100, "vocab_size": 90, "n_positions": 40}
Events = list[dict[str, Any]]


def recorded(folder: Path, attn: str = "sdpa", dtype: torch.dtype = torch.float32, passes: int = 1) -> Path:
    """A pass of 2 x 6 tokens, and `passes - 1` of one more each, of a model of `SIZES`."""
    config = GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0)
    config._attn_implementation = attn
    model, ids, past = GPT2LMHeadModel(config).eval().to(dtype), torch.zeros(2, 6, dtype=torch.long), None
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(passes):
            past = model(ids, past).past_key_values
            ids = ids[:, :1]
    path = folder / "trace.json"
    profiler.export_chrome_trace(str(path))
    return path


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("recorded"), passes=3)


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """A config.json of `SIZES` with changes."""

    def write(**changes: int) -> Path:
        path = tmp_path / f"model{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps({"model_type": "gpt2", **SIZES, **changes}), "utf-8")
        return path

    return write


def rewritten(trace: Path, path: Path, change: Callable[[Events], Events]) -> Path:
    """The trace with other events."""
    document = json.loads(trace.read_text("utf-8"))
    path.write_text(json.dumps({**document, "traceEvents": change(document["traceEvents"])}), "utf-8")
    return path


def validated(gpt2cost: Call, *arguments: str | Path) -> tuple[list[dict[str, Any]], str]:
    result = gpt2cost("validate", "--gpu", "a100", "--format", "json", "--trace", *arguments)
    assert result.code == 0, result.err
    return json.loads(result.out)["profiles"], result.err


# ---------------------------------------------------------------------------------------------- what it says


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "names"), [(torch.float32, ("fp32", "tf32")), (torch.bfloat16, ("bf16",))])
def test_a_recorded_trace_says_its_model(attn: str, dtype: torch.dtype, names: tuple[str, ...], tmp_path: Path) -> None:
    said = said_by(load_trace(recorded(tmp_path, attn, dtype)))
    assert said.dimensions == SIZES
    assert said.dtypes == names
    assert said.settings["attn"] == attn


@pytest.mark.parametrize("name", SIZES)
def test_another_model_is_refused(name: str, gpt2cost: Call, trace: Path, model: Callable[..., Path]) -> None:
    other = model(**{name: 2 * SIZES[name]})
    said = refusal(gpt2cost("validate", "--trace", trace, "--model", other, "--gpu", "a100"))
    assert f"its own shapes say {name} {SIZES[name]}" in said.replace("n_embd 48, n_inner", "n_inner")
    assert "no preset has them" in said


def test_each_size_is_a_profile_of_its_own(gpt2cost: Call, trace: Path, model: Callable[..., Path]) -> None:
    profiles, said = validated(gpt2cost, trace, "--model", model())
    assert [(one["seq_len"], one["cache_len"]) for one in profiles] == [(6, 0), (1, 6), (1, 7)]
    assert all(one["recorded_passes"] == 1 and one["in_order"] and not one["missing"] for one in profiles)
    assert all(one["dtype"] == "fp32" for one in profiles)
    assert "recorded in fp32, which is taken for --dtype" in said
    (one,), said = validated(gpt2cost, trace, "--model", model(), "--case", "2,1,7", "--dtype", "bf16")
    assert one["total"]["measured_s"] == profiles[2]["total"]["measured_s"]
    assert "recorded in fp32 (--dtype fp32); bf16 is compared" in said
    assert "its batch, seq, cache are (2, 6, 0) or (2, 1, 6) or (2, 1, 7), got (2, 1, 9)" in refusal(
        gpt2cost("validate", "--trace", trace, "--model", model(), "--gpu", "a100", "--case", "2,1,9")
    )


def test_attention_that_ran_otherwise_is_refused(gpt2cost: Call, tmp_path: Path, model: Callable[..., Path]) -> None:
    path = recorded(tmp_path, "eager")
    (one,), _ = validated(gpt2cost, path, "--model", model())
    assert one["attn"] == "eager"
    given = ("--trace", path, "--model", model(), "--gpu", "a100")
    assert "--attn eager is" in refusal(gpt2cost("validate", *given, "--attn", "sdpa"))


def test_without_a_model_it_says_what_it_found(gpt2cost: Call, trace: Path) -> None:
    result = gpt2cost("validate", "--trace", trace, "--format", "json")
    document = json.loads(result.out)
    assert (result.code, result.err) == (0, "")
    assert document["model"] == SIZES
    assert [size["cache_len"] for size in document["sizes"]] == [0, 6, 7]
    assert sum(op["share"] for op in document["ops"]) == pytest.approx(1)
    text = gpt2cost("validate", "--trace", trace).out
    assert "passes: 1 of 2x6, 1 of 2x1+6, 1 of 2x1+7" in text
    assert "n_layer 3" in text
    rows = gpt2cost("validate", "--trace", trace, "--format", "csv").out.splitlines()
    assert len(rows) == 1 + len(document["ops"])


def test_what_goes_with_a_model_alone(gpt2cost: Call, trace: Path) -> None:
    for flags in (("--dtype", "fp16"), ("--case", "1,2,3"), ("--attn", "eager"), ("--no-use-cache",), ("--seq", "6")):
        assert_refused(gpt2cost("validate", "--trace", trace, *flags), f"{flags[0]}: goes with --model")
    assert_refused(gpt2cost("validate", "--trace", trace, "--gpu", "a101"), "a100")
    assert gpt2cost("validate", "--trace", trace, "--gpu", "a100").code == 0


def old(events: Events) -> Events:
    """As torch 1.9 wrote it."""
    for event in events:
        event["cat"] = {"cpu_op": "Operator"}.get(event.get("cat", ""), event.get("cat", ""))
        if "Input Dims" in event.get("args", {}):
            event["args"]["Input dims"] = event["args"].pop("Input Dims")
    return events


def test_categories_and_shapes_of_older_torch(
    gpt2cost: Call, trace: Path, tmp_path: Path, model: Callable[..., Path]
) -> None:
    path = rewritten(trace, tmp_path / "old.json", old)
    assert said_by(load_trace(path)).dimensions == SIZES
    own = model()
    profiles, said = validated(gpt2cost, path, "--model", own)
    assert profiles == validated(gpt2cost, trace, "--model", own)[0]
    assert "torch before 1.12 or so wrote it" in said


# ---------------------------------------------------------------------------------------------- what is not there


def ops_but(*left_out: int) -> Callable[[Events], Events]:
    """All events but some of the products."""

    def change(events: Events) -> Events:
        products = [event for event in events if event.get("name") == "aten::addmm"]
        return [event for event in events if not any(event is products[i] for i in left_out)]

    return change


def test_a_row_that_was_seen_in_part(gpt2cost: Call, tmp_path: Path, model: Callable[..., Path]) -> None:
    """Catches a row whose few launches that were recorded are held against the prediction of all."""
    whole_trace = recorded(tmp_path)
    path = rewritten(whole_trace, tmp_path / "part.json", ops_but(0))
    ((whole,), _), ((part,), _) = (validated(gpt2cost, each, "--model", model()) for each in (whole_trace, path))
    (name,) = part["missing"]
    assert name == "transformer.h.attn.c_attn"
    all_, two = (next(k for k in one["kernels"] if k["name"] == name) for one in (whole, part))
    assert (all_["count"], two["count"], two["expected"]) == (3, 2, 3)
    assert two["predicted_s"] == pytest.approx(all_["predicted_s"] * 2 / 3)
    assert part["total"]["predicted_s"] == pytest.approx(whole["total"]["predicted_s"] - all_["predicted_s"] / 3)
    text = gpt2cost("validate", "--gpu", "a100", "--trace", path, "--model", model()).out
    assert "missing: h.attn.c_attn, 2 of 3 launches seen" in text


def until(share: float) -> Callable[[Events], Events]:
    """The first events, by time."""

    def change(events: Events) -> Events:
        timed = sorted((event for event in events if "dur" in event), key=lambda event: event["ts"])
        return timed[: int(share * len(timed))]

    return change


def test_a_pass_that_was_cut_off(gpt2cost: Call, trace: Path, tmp_path: Path, model: Callable[..., Path]) -> None:
    one = recorded(tmp_path)
    path = rewritten(one, tmp_path / "half.json", until(0.6))
    given = ("--model", model(), "--gpu", "a100")
    assert "found no whole pass" in refusal(gpt2cost("validate", "--trace", path, *given))
    path = rewritten(trace, tmp_path / "two.json", until(0.8))
    profiles, said = validated(gpt2cost, path, "--model", model())
    assert len(profiles) == 2
    assert "found no whole pass" in said


def test_mostly_something_else(gpt2cost: Call, tmp_path: Path, model: Callable[..., Path]) -> None:
    def change(events: Events) -> Events:
        last = max(event["ts"] for event in events if "ts" in event)
        op = next(event for event in events if event.get("name") == "aten::mm")
        return [*events, {**op, "name": "aten::svd", "ts": last + 10, "dur": 1e6, "args": {}}]

    path = rewritten(recorded(tmp_path), tmp_path / "other.json", change)
    said = refusal(gpt2cost("validate", "--trace", path, "--model", model(), "--gpu", "a100"))
    assert "of its time is of kernels that a pass of" in said
    assert "60% are needed" in said


# ---------------------------------------------------------------------------------------------- field cases


@pytest.mark.skipif(not FIELD_CASES.is_dir(), reason="needs the field cases")
def test_field_cases(gpt2cost: Call, model: Callable[..., Path]) -> None:
    narrow = FIELD_CASES / "narrow-model-on-a100-bf16.json"
    true = {"n_layer": 1, "n_embd": 64, "n_head": 2, "n_inner": 256, "n_positions": 64, "vocab_size": 100}
    wide = model(**true | {"n_embd": 1600, "n_head": 25, "n_inner": 6400, "vocab_size": 50257})
    said = refusal(gpt2cost("validate", "--trace", narrow, "--model", wide, "--gpu", "t4"))
    for part in ("n_embd 64", "vocab_size 100", "--gpu a100-sxm-80gb", "bf16"):
        assert part in said
    result = gpt2cost("validate", "--trace", narrow, "--model", model(**true), "--gpu", "t4")
    assert result.code == 0
    assert "recorded on NVIDIA A100-SXM4-80GB (--gpu a100-sxm-80gb), not on t4" in result.err
    assert "recorded in bf16 (which t4 has not); fp16 is compared" in result.err
    assert validated(gpt2cost, narrow, "--model", model(**true))[0][0]["dtype"] == "bf16"
    for name in ("shapes-without-embedding.json", "categories-of-old-torch.json"):
        said = refusal(gpt2cost("validate", "--trace", FIELD_CASES / name, "--model", "gpt2", "--gpu", "a100"))
        assert "of no embedding of token ids" in said


# ---------------------------------------------------------------------------------------------- hostile files

OP = {
    "ph": "X",
    "cat": "cpu_op",
    "name": "aten::embedding",
    "ts": 1,
    "dur": 2,
    "args": {"Input Dims": [[8, 8], [2, 2]]},
}
NUMBERS = ["1" * 400, "-1", "NaN", "Infinity", "1e300", "-1e-300", "null", '"7"', "[]", "{}", "true"]
PLACES = [
    "ts",
    "dur",
    "args",
    "Input Dims",
    "size",
    "Input type",
    "correlation",
    "name",
    "cat",
    "pid",
    "device",
    "head",
]


@pytest.mark.parametrize("place", PLACES)
def test_odd_values_in_a_trace(place: str, gpt2cost: Call, tmp_path: Path) -> None:
    kernel = {**OP, "cat": "kernel", "name": "k", "args": {"correlation": 1, "device": 0}}
    for number in NUMBERS:
        odd = json.loads(number)
        op = json.loads(json.dumps(OP))
        match place:
            case "Input Dims" | "Input type":
                op["args"][place] = odd
            case "size":
                op["args"]["Input Dims"][1][0] = odd
            case "correlation" | "device":
                kernel["args"][place] = odd
            case "head":
                pass
            case _:
                op[place] = odd
        head = {"deviceProperties": [{"name": odd, "id": odd}], "gpt2cost": odd} if place == "head" else {}
        path = tmp_path / "trace.json"
        path.write_text(json.dumps({**head, "traceEvents": [op, kernel]}))
        for given in (
            [],
            ["--model", "gpt2", "--gpu", "a100"],
            ["--model", "gpt2", "--gpu", "a100", "--case", "1,2,0"],
        ):
            assert_calm(gpt2cost("validate", "--trace", path, *given))


def test_what_is_read_is_bounded(gpt2cost: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_BYTES", 1_000_000)
    for name, content in (("bomb.json", gzip.compress(b" " * 10_000_000)), ("large.json", b" " * 1_000_001)):
        (tmp_path / name).write_bytes(content)
        assert_refused(gpt2cost("validate", "--trace", tmp_path / name), "more than 1 MB")
    assert_refused(gpt2cost("validate", "--trace", "/dev/zero"), "more than 1 MB")
    monkeypatch.setattr(trace_file, "MOST_EVENTS", 1000)
    (tmp_path / "events.json").write_text(json.dumps({"traceEvents": [{"ph": "M"}] * 1001}))
    assert_refused(gpt2cost("validate", "--trace", tmp_path / "events.json"), "more than 1,000 events")
    assert_refused(gpt2cost("validate", "--trace", "a" * 300), "File name too long")


def test_one_event_is_bounded(gpt2cost: Call, tmp_path: Path) -> None:
    """Catches an event whose arguments are built before anything is known of their size."""
    path = tmp_path / "trace.json"
    huge = f"[{','.join(['[]'] * 500_000)}]"
    path.write_text(f'[{{"ph": "X", "cat": "cpu_op", "name": "aten::add", "ts": 1, "dur": 1, "args": {huge}}}]')
    assert_refused(gpt2cost("validate", "--trace", path), "traceEvents[0]: more than 1 MB in one event")
    path.write_text(f'{{"other": {huge}, "traceEvents": []}}')
    assert_refused(gpt2cost("validate", "--trace", path), "more than 1 MB beside traceEvents")
    events = json.dumps({"ph": "X", "cat": "cpu_op", "name": "aten::add", "ts": 1, "dur": 1})
    path.write_text(f'[{{"ph": "X", "cat": "python_function", "args": {huge}}}, {events}]')
    assert gpt2cost("validate", "--trace", path).code == 0


def test_a_training_step_is_not_compared(gpt2cost: Call, tmp_path: Path, model: Callable[..., Path]) -> None:
    config = GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0)
    trained, ids, path = GPT2LMHeadModel(config).train(), torch.zeros(2, 6, dtype=torch.long), tmp_path / "step.json"
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        trained(ids, labels=ids).loss.backward()
    profiler.export_chrome_trace(str(path))
    given = ("--model", model(), "--gpu", "a100")
    assert "it is of a training step" in refusal(gpt2cost("validate", "--trace", path, *given))
    assert json.loads(gpt2cost("validate", "--trace", path, "--format", "json").out)["training"]


@pytest.mark.parametrize("sample", [False, True])
def test_what_generate_runs_around_its_passes_is_scored_too(
    sample: bool, gpt2cost: Call, tmp_path: Path, model: Callable[..., Path]
) -> None:
    """A turn is what prepares the pass, the pass with positions that are passed, and the choice of the token."""
    config = GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0)
    running, ids, path = GPT2LMHeadModel(config).eval(), torch.ones(2, 6, dtype=torch.long), tmp_path / "trace.json"
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        running.generate(ids, attention_mask=ids, max_new_tokens=3, do_sample=sample, eos_token_id=89, pad_token_id=0)
    profiler.export_chrome_trace(str(path))
    profiles, _ = validated(gpt2cost, path, "--model", model())
    assert [(one["seq_len"], one["cache_len"]) for one in profiles] == [(6, 0), (1, 6), (1, 7)]
    for one in profiles:
        assert one["unmapped"] == one["missing"] == []
        names = [kernel["name"] for kernel in one["kernels"] if kernel["count"]]
        assert names[0].startswith("generate")
        assert "transformer.wte" in names
        assert "generate.topk" in names if sample else "generate.argmax" in names
        assert "transformer.position_ids" not in names


def test_a_pipe_is_read_once(gpt2cost: Call, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a pipe that is opened twice, of which the second reading finds nothing; and one that nobody fills."""
    pipe = tmp_path / "trace"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(gzip.compress(trace.read_bytes())), daemon=True)
    monkeypatch.setattr("gpt2cost.files.PIPE_WAIT_S", 100)  # however late it comes
    writer.start()
    result = gpt2cost("validate", "--trace", pipe, "--format", "json")
    writer.join(10)
    assert result.code == 0, result.err
    assert json.loads(result.out)["model"] == SIZES
    monkeypatch.setattr("gpt2cost.files.PIPE_WAIT_S", 0.05)
    assert_refused(gpt2cost("validate", "--trace", pipe), "nobody wrote into this pipe")
