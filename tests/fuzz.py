"""Hostile files and arguments for every command: right ones with something wrong in them, from a seed.

`python fuzz.py KIND COUNT FOLDER` tries COUNT of a kind in one process and prints, as JSON, what went wrong and the
most memory that the process had.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import random
import re
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from helpers import EVERY_COMMAND, MY_GPU, Result, assert_calm

from gpt2cost.cli import app
from gpt2cost.table.config import preset_names

SECONDS = 10
"""The most time of the processor that a command may take."""
CONFIG = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_layer": 2, "n_embd": 32, "n_head": 2,
    "n_inner": None, "vocab_size": 64, "n_positions": 64, "activation_function": "gelu_new", "attn_pdrop": 0.1,
    "tie_word_embeddings": True, "torch_dtype": "float16", "num_labels": 2, "bos_token_id": 1,
}  # fmt: skip
STUDY = {
    "model": ["gpt2", "gpt2-xl"], "gpu": "a100,t4", "batch": "1-8*2", "seq": [1, 128], "cache": 0, "dtype": "fp16",
    "attn": "sdpa", "runtime": "eager", "phase": "both", "logits": "last", "use_cache": True,
    "set": {"n_layer": 3}, "hw_set": {"memory.bandwidth": "2 TB/s"},
}  # fmt: skip
MACHINE = {"kind": "machine", "device": "cpu", "cpu_model": "x", "threads": 2, "cpus": 2, "mhz": 2500.0, "torch": "2.6"}
PASS = {
    "kind": "pass", "model": "gpt2", "dtype": "fp32", "attn": "sdpa", "runtime": "eager", "use_cache": True,
    "batch": 1, "seq": 16, "cache": 0, "wall_us": 9000.0, "wall_min_us": 8000.0, "runs": 9, "rounds_us": [9e3, 9.1e3],
}  # fmt: skip
PROFILE = {**PASS, "kind": "profile", "observed": [[["addmm", 6.0, []], ["", 2.0, ["fused_kernel"]]]]}
GEMM = {"kind": "gemm", "op": "addmm", "dtype": "fp32", "m": 8, "n": 8, "k": 8, "wall_us": 9.0, "runs": 9, "sweep": 1}
EVENTS = {
    "schemaVersion": 1,
    "deviceProperties": [{"id": 0, "name": "NVIDIA A100-SXM4-80GB", "computeMajor": 8, "computeMinor": 0}],
    "traceEvents": [
        {"ph": "X", "cat": "cpu_op", "name": "aten::embedding", "pid": 1, "tid": 1, "ts": 10.0, "dur": 5.0,
         "args": {"External id": 1, "Input Dims": [[50257, 768], [1, 16]], "Input type": ["c10::Half", "long"]}},
        {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1, "ts": 11.0, "dur": 1.0,
         "args": {"External id": 1, "correlation": 7}},
        {"ph": "X", "cat": "kernel", "name": "void at::native::vectorized_gather_kernel", "pid": 0, "tid": 7,
         "ts": 20.0, "dur": 3.0, "args": {"External id": 1, "correlation": 7, "device": 0}},
    ],
}  # fmt: skip
CSV = """gpu,dtype,op,batch,m,n,k,latency_us
a100,bf16,gemm,1,128,128,128,9
t4,fp16,bmm,4,128,64,128,12.5
"""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e300, float("nan"), float("inf"), "", " ",
    "a", "0", "1e999", "010", "1:30", "x" * 5000, "\u202e\x1b[31m", "\0", "../..", "/dev/zero", "a,b", "=1+1", [], {},
    [[]], [None], [1, "a"], {"a": {}}, {"": None}, "gpt2", "a100", "12 GB", "-3 TB/s", "nan s",
)  # fmt: skip

Mutate = Callable[[random.Random], bytes]


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in keys for place in ((tree, key), *places(tree[key]))]


def changed(tree: Any, draw: random.Random) -> Any:
    """A tree with one to three places given another value, another key, or none."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.randint(1, 3)):
        if not (every := places(tree)):
            return draw.choice(VALUES)
        where, key = draw.choice(every)
        match draw.randrange(5):
            case 0:
                del where[key]
            case 1 if isinstance(where, dict):
                where[draw.choice(["", "n_layr", "a\nb", "x" * 300, "like", key.upper()])] = where.pop(key)
            case 2:
                where[key] = [where[key]] * draw.choice([2, 300])
            case _:
                where[key] = draw.choice(VALUES)
    return tree


def spoiled(text: bytes, draw: random.Random) -> bytes:
    """Bytes with something cut, doubled, or put in; most come through as they are."""
    at = draw.randrange(len(text) + 1)
    match draw.randrange(12):
        case 0:
            return text[:at]
        case 1:
            return (
                text[:at] + draw.choice([b"\0", b"\xff", b"\r", b"\xef\xbb\xbf", b"[" * 5000, b"{", b'"']) + text[at:]
            )
        case 2:
            return text + text
        case 3:
            return b"\xef\xbb\xbf" + text
        case 4:
            return text.decode("utf-8", "replace").encode("utf-16")
        case _:
            return text


def as_json(tree: Any) -> Mutate:
    return lambda draw: spoiled(json.dumps(changed(tree, draw)).encode(), draw)


def as_yaml(tree: Any) -> Mutate:
    return lambda draw: spoiled(yaml.safe_dump(changed(tree, draw)).encode("utf-8", "replace"), draw)


def as_lines(trees: list[Any]) -> Mutate:
    def lines(draw: random.Random) -> bytes:
        texts = [json.dumps(changed(tree, draw) if draw.random() < 0.4 else tree) for tree in trees]
        return spoiled("\n".join(texts).encode(), draw)

    return lines


RECORDED = sorted((Path(__file__).parent / "data" / "traces-h100").glob("*compile*.json.gz"))
"""Traces that an H100 wrote."""


def recorded(draw: random.Random) -> bytes:
    """A real trace with some of its events spoiled, doubled, lost or out of order, or cut off; half of them packed."""
    document = json.loads(gzip.decompress(draw.choice(RECORDED).read_bytes()))
    events = document["traceEvents"]
    for _ in range(draw.choice([1, 1, 4, 20])):
        event = draw.choice([event for event in events if event["ph"] == "X"])
        where = draw.choice([event, args]) if (args := event.get("args")) and isinstance(args, dict) else event
        key = draw.choice([key for key in where if key != "ph"] or ["args"])
        match draw.randrange(6):
            case 0:
                where.pop(key, None)
            case 1:
                events.append(copy.deepcopy(event))
            case 2:
                events.remove(event)
            case 3:
                draw.shuffle(events)
            case 4:
                event["args"] = {"correlation": 7, "device": draw.randrange(3), "stream": draw.randrange(3)}
            case _:
                where[key] = draw.choice([value for value in VALUES if value == value])
    if draw.random() < 0.1:
        document[draw.choice(list(document))] = draw.choice(VALUES)
    text = json.dumps(document).encode()
    text = spoiled(text, draw) if draw.random() < 0.3 else text
    packed = gzip.compress(text, 1) if draw.random() < 0.5 else text
    return packed[: draw.randrange(len(packed))] if draw.random() < 0.1 else packed


def cells(draw: random.Random) -> bytes:
    """A CSV file with some cells changed."""
    rows = [line.split(",") for line in CSV.splitlines()]
    for _ in range(draw.randint(1, 3)):
        row = draw.choice(rows)
        value = draw.choice([*VALUES, "bbm", "-5", "inf", "1e-320", "1_0", "\uff11"])
        row[draw.randrange(len(row))] = str(value) if abs(whole(value)) < 10**300 else "9" * 400
        if draw.random() < 0.2:
            row.pop()
    return spoiled("\n".join(map(",".join, rows)).encode("utf-8", "replace"), draw)


def whole(value: Any) -> int:
    """A whole number as it is: one of 400 digits can be written by JSON alone."""
    return value if isinstance(value, int) else 0


NUMBERS = ("1", "2", "1,2", "1-4*2", "64", "0.5", "n_layer=2", "c_attn", "1,4,0", "out.svg", "out.html")
"""Values of flags that have no list of them."""
FLAGS = ("--batch", "--seq", "--cache", "--dtype", "--attn", "--gpu", "--model", "--set", "--hw-set", "--format",
         "--phase", "--grid", "--top", "--fail-on", "--host-factor", "-o")  # fmt: skip
ARGUMENTS = {
    "arguments": tuple(
        name for name in EVERY_COMMAND if name not in ("calibrate", "measure", "plot", "report", "validate")
    ),
    "pictures": ("plot", "report"),
    "steps": ("explain", "tree", "trace"),
    "measuring": ("measure",),
}
"""A kind of arguments -> the commands that get them; but for the first kind, arguments with the commands' own flags."""


def own_flags(command: Any) -> dict[str, tuple[str, ...] | None]:
    """The flags of a command, each with likely values: those that its completion lists; None of one that takes none."""
    context = command.context_class(command)
    options = [param for param in command.params if param.opts[0].startswith("-")]
    return {
        param.opts[0]: None
        if param.is_flag
        else tuple(item.value for item in param.shell_complete(context, "")) or NUMBERS
        for param in options
    }


def words(kind: str, draw: random.Random, folder: Path) -> list[str]:
    """Arguments of any command of a kind."""
    name = draw.choice(ARGUMENTS[kind])
    arguments = [name, *(text.format(tiny=folder) for text in EVERY_COMMAND[name])]
    flags: dict[str, tuple[str, ...] | None] = dict.fromkeys(FLAGS, ())
    if kind != "arguments":
        command = app._built(name)
        if name == "plot":
            arguments[1] = draw.choice(sorted(command.commands))
            command = command.commands[arguments[1]]
        flags = own_flags(command)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(1, len(arguments) + 1)
        word = str(draw.choice([value for value in VALUES if whole(value) < 2**64]))
        flag = draw.choice(list(flags))
        likely = flags[flag]
        if likely is None:
            arguments.append(flag)
        elif likely and draw.random() < 0.8:
            arguments += [flag, draw.choice(likely)]
        else:
            arguments[at:at] = [flag, word] if draw.random() < 0.7 else [word]
    if kind == "measuring":  # a preset takes long
        arguments = [str(folder) if word in preset_names() else word for word in arguments]
    return [word.replace("\0", "") for word in arguments]


KINDS: dict[str, tuple[str, Mutate, list[list[str]]]] = {
    "config": ("config.json", as_json(CONFIG), [
        ["predict", "--gpu", "a100", "--seq", "8", "--model"], ["generate", "--gpu", "t4", "--new-tokens", "2",
        "--prompt", "4", "--model"], ["train", "--gpu", "a100", "--seq", "8", "--model"], ["tree", "--model"],
    ]),
    "hardware": ("device.yaml", as_yaml(yaml.safe_load(MY_GPU)), [
        ["predict", "--model", "gpt2", "--seq", "8", "--gpu"], ["hardware", "validate"],
        ["kernel", "gemm", "--m", "8", "--n", "8", "--k", "8", "--gpu"],
        ["compare", "--model", "gpt2", "--dtype", "fp16,fp32", "--gpu"],
    ]),
    "study": ("study.yaml", as_yaml(STUDY), [["sweep", "--format", "csv", "--grid"], ["sweep", "--grid"]]),
    "trace": ("trace.json", as_json(EVENTS), [
        ["validate", "--gpu", "a100", "--model", "gpt2", "--trace"], ["validate", "--trace"],
    ]),
    "recorded trace": ("trace.json", recorded, [
        ["validate", "--gpu", "h100", "--model", "distilgpt2", "--trace"], ["validate", "--trace"],
        ["validate", "--gpu", "t4", "--model", "gpt2", "--case", "8,512,0", "--format", "json", "--trace"],
        ["validate", "--gpu", "h100", "--model", "distilgpt2", "--case", "8,512,0", "--trace"],
    ]),
    "records": ("records.jsonl", as_lines([MACHINE, PASS, PROFILE, GEMM]), [
        ["validate", "--gpu", "a100", "--format", "json", "--from"], ["validate", "--gpu", "a100", "--kernels",
        "--from"], ["calibrate", "-o", "made.yaml", "--from"],
    ]),
    "measurements": ("cells.csv", cells, [["accuracy", "--format", "json", "--measurements"]]),
    **{kind: ("", lambda draw: b"", []) for kind in ARGUMENTS},
}  # fmt: skip
"""A kind of file: its name, how one is made, and the commands that read it, of which it is the last argument."""


class TooLongError(Exception):
    pass


def too_long(*_: Any) -> None:
    raise TooLongError(f"more than {SECONDS} s")


def tried(arguments: list[str]) -> str:
    """What is wrong with how the command line takes its arguments; empty if nothing is."""
    raw, err = io.BytesIO(), io.StringIO()
    out = io.TextIOWrapper(raw, write_through=True)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(10 * SECONDS)  # of one that waits
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = app.run(arguments)
        lines = [
            line for line in err.getvalue().splitlines() if not line.startswith(("warning: ", "round ", "profile "))
        ]
        if code == 3:
            return ""
        assert_calm(
            Result(
                code,
                raw.getvalue().decode("utf-8", "replace") if code == 0 else "",
                "".join(f"{line}\n" for line in lines),
            )
        )
    except BaseException:
        return traceback.format_exc(limit=-4)[-1500:] + err.getvalue()[:300]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    return ""


def few_samples() -> None:
    """A measurement takes as few samples as there may be."""
    from gpt2cost.measure.bench import Bench  # which needs torch

    sample = Bench.sample
    Bench.sample = lambda bench, run, budget_s=0.0, least=1: sample(bench, run, 0.0, least)  # type: ignore[method-assign]


def most_bytes() -> int:
    """The most memory that this process had. Linux's `ru_maxrss` may be that of the process which started it."""
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return 1024 * int(peak[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(kind: str, count: int, folder: Path) -> None:
    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGPROF, too_long)
    if kind == "measuring":
        few_samples()
        (folder / "config.json").write_text(json.dumps(CONFIG))
    name, made, commands = KINDS[kind]
    wrong = []
    for seed in range(count):
        draw = random.Random(f"{kind} {seed}")
        if kind in ARGUMENTS:
            arguments = words(kind, draw, folder)
        else:
            path = folder / str(seed) / name
            path.parent.mkdir()
            path.write_bytes(made(draw))
            arguments = [*draw.choice(commands), str(path.parent if kind == "measurements" else path)]
        if why := tried(arguments):
            wrong.append({"seed": seed, "arguments": [word[:80] for word in arguments], "why": why})
    print(json.dumps({"wrong": wrong, "most_bytes": most_bytes()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
