"""The command line: data on stdout, one line a problem on stderr, exit codes, formats, files, pipes and terminals."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import Result, assert_refused, process
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2cost.cli import app as cli
from gpt2cost.output import sink as output
from gpt2cost.output.formats import FORMATS
from gpt2cost.units import parse_quantity

EXAMPLE = ["predict", "--model", "distilgpt2", "--batch", "8", "--seq", "512", "--cache", "1024", "--gpu", "a100"]
PREDICT = ["predict", "--model", "distilgpt2", "--gpu", "a100"]
SMALL = [*PREDICT, "--batch", "2", "--seq", "16", "--cache", "4"]
GOOD_CONFIG = {"model_type": "gpt2", "n_layer": 3, "n_embd": 48, "n_head": 4, "vocab_size": 100, "n_inner": 50}


# ---------------------------------------------------------------------------------------------- the example


def test_the_example() -> None:
    done = process(["-m", "gpt2cost", *EXAMPLE])
    assert done.returncode == 0
    warnings = done.stderr.splitlines()
    assert [line.split(":")[0] for line in warnings] == ["warning", "warning"]
    for line, length in zip(warnings, ("1536", "1537"), strict=True):
        assert length in line
        assert "1024" in line
    for part in ("distilgpt2", "a100-sxm-80gb", "fp16", "sdpa", "eager runtime", "1 FMA = 2 FLOPs"):
        assert part in done.stdout.splitlines()[0]
    assert "\x1b" not in done.stdout


def test_strict_makes_a_warning_an_error(gpt2cost: Any) -> None:
    assert_refused(gpt2cost(*EXAMPLE, "--strict"), "1536")
    assert gpt2cost(*SMALL, "--strict").code == 0


# ---------------------------------------------------------------------------------------------- formats

COMMANDS = {
    "predict": SMALL,
    "predict by module": [*SMALL, "--group", "module"],
    "table": ["table"],
    "table with numbers": ["table", "--model", "gpt2-xl", "--seq", "5", "--cache", "6"],
    "models": ["models"],
    "hardware list": ["hardware", "list"],
    "hardware show": ["hardware", "show", "a100"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_format_of_every_command(command: str, gpt2cost: Any) -> None:
    for format in FORMATS:
        result = gpt2cost(*COMMANDS[command], "--format", format)
        assert (result.code, result.err) == (0, ""), format
        assert result.out.endswith("\n")
        assert "\x1b" not in result.out
        match format:
            case "json":
                document = json.loads(result.out)
                assert document["schema_version"] == 1
                assert document["gpt2cost_version"]
            case "jsonl":
                assert all(isinstance(json.loads(line), dict) for line in result.out.splitlines())
            case "csv":
                rows = list(csv.reader(io.StringIO(result.out)))
                assert len(rows) > 1
                assert len({len(row) for row in rows}) == 1
            case "markdown":
                assert_markdown(result.out)


def assert_markdown(text: str) -> None:
    """Every table has a rule below its header, and as many cells in each line."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert blocks
    for header, rule, *lines in blocks:
        cells = header.replace("\\|", "").count("|")
        assert set(rule) <= set("|-: ")
        assert lines
        assert {line.replace("\\|", "").count("|") for line in (header, rule, *lines)} == {cells}


def test_schema(gpt2cost: Any) -> None:
    document = json.loads(gpt2cost(*SMALL, "--format", "json").out)
    assert {"model", "hardware", "settings", "phases", "memory", "warnings", "flops_convention"} <= set(document)
    model = ("name", "n_layer", "n_head", "n_embd", "n_inner", "vocab_size", "n_positions", "activation_function")
    assert {*model, "parameters"} <= set(document["model"])
    assert {"name", "calibration"} <= set(document["hardware"])
    assert set(document["settings"]) == {
        "batch_size", "seq_len", "cache_len", "dtype", "attn", "runtime", "logits", "use_cache",
    }  # fmt: skip
    assert set(document["memory"]) == {
        "weights_bytes", "kv_cache_bytes", "activations_bytes", "total_bytes", "capacity_bytes", "fits",
    }  # fmt: skip
    assert [phase["phase"] for phase in document["phases"]] == ["prefill", "decode"]
    for phase in document["phases"]:
        assert {"phase", "seq_len", "cache_len", "kv_len", "totals", "symbols", "kernels"} == set(phase)
        assert {
            "launches", "flops", "read_bytes", "write_bytes", "device_s", "host_s", "latency_s", "latency_low_s",
            "latency_high_s", "bound", "tokens_per_s", "flops_utilization", "bandwidth_utilization",
        } <= set(phase["totals"])  # fmt: skip
        assert phase["totals"]["bound"] in ("host", "compute", "memory", "launch")
        for kernel in phase["kernels"]:
            assert {
                "name", "op", "kind", "count", "flops", "read_bytes", "write_bytes", "device_s", "share", "bound",
                "arithmetic_intensity", "flops_formula", "read_formula", "write_formula", "source",
            } <= set(kernel)  # fmt: skip
            assert kernel["bound"] in ("compute", "memory", "launch")
            file, _, line = kernel["source"].partition(":")
            assert file.endswith(".py")
            assert int(line) > 0


@pytest.mark.parametrize("attn", ["eager", "sdpa", "flash_attention_2"])
@pytest.mark.parametrize("runtime", ["eager", "compile", "cuda-graph"])
def test_formulas_give_the_figures(attn: str, runtime: str, gpt2cost: Any) -> None:
    result = gpt2cost(*SMALL, "--attn", attn, "--runtime", runtime, "--format", "json")
    for phase in json.loads(result.out)["phases"]:
        for kernel in phase["kernels"]:
            for figure, formula in (("flops", "flops"), ("read_bytes", "read"), ("write_bytes", "write")):
                value = eval(kernel[f"{formula}_formula"], {"__builtins__": {}}, dict(phase["symbols"]))
                assert value == kernel[figure], kernel["name"]
        assert sum(kernel["share"] for kernel in phase["kernels"]) == pytest.approx(1)


@pytest.mark.parametrize("group", ["kernel", "module", "layer"])
def test_rows_sum_to_the_totals(group: str, gpt2cost: Any) -> None:
    document = json.loads(gpt2cost(*SMALL, "--group", group, "--format", "json").out)
    for phase in document["phases"]:
        for name in ("flops", "read_bytes", "write_bytes"):
            assert sum(row[name] for row in phase["kernels"]) == phase["totals"][name]
        assert sum(row["count"] for row in phase["kernels"]) == phase["totals"]["launches"]
        names = [row["name"] for row in phase["kernels"]]
        assert len(names) == len(set(names))
    if group == "layer":
        assert "transformer.h" in names


def test_flat_rows_echo_every_input(gpt2cost: Any) -> None:
    document = json.loads(gpt2cost(*SMALL, "--format", "json").out)
    kernels = [kernel for phase in document["phases"] for kernel in phase["kernels"]]
    lines = [json.loads(line) for line in gpt2cost(*SMALL, "--format", "jsonl").out.splitlines()]
    rows = list(csv.DictReader(io.StringIO(gpt2cost(*SMALL, "--format", "csv").out)))
    assert len(lines) == len(rows) == len(kernels)
    for line, row, kernel in zip(lines, rows, kernels, strict=True):
        assert list(line) == list(row)
        assert {key: line[key] for key in kernel} == kernel
        assert (line["model"], line["gpu"], line["batch_size"], line["dtype"]) == (
            "distilgpt2",
            "a100-sxm-80gb",
            2,
            "fp16",
        )
        assert (line["input_seq_len"], line["input_cache_len"]) == (16, 4)
        assert row["flops"] == str(kernel["flops"])


def test_the_table_command_has_numbers_with_a_model(gpt2cost: Any) -> None:
    symbolic = json.loads(gpt2cost("table", "--format", "json").out)
    assert symbolic["symbols"] is None
    assert "flops" not in symbolic["kernels"][0]
    numbers = json.loads(gpt2cost("table", "--model", "gpt2", "--seq", "7", "--format", "json").out)
    for kernel in numbers["kernels"]:
        for figure, formula in (("flops", "flops"), ("read_bytes", "read"), ("write_bytes", "write")):
            value = eval(kernel[f"{formula}_formula"], {"__builtins__": {}}, dict(numbers["symbols"]))
            assert kernel[figure] == (value if kernel["count"] else 0)
        assert bool(kernel["count"]) == eval(kernel["when"] or "True", {"__builtins__": {}}, dict(numbers["symbols"]))


# ---------------------------------------------------------------------------------------------- flags


def test_aliases_of_flags(gpt2cost: Any) -> None:
    names = {"--batch": "--batch-size", "--seq": "--seq-len", "--cache": "--cache-len", "--gpu": "--hardware"}
    assert gpt2cost(*SMALL, "--format", "json") == gpt2cost(*(names.get(a, a) for a in SMALL), "--format", "json")


@pytest.mark.parametrize("alias", ["distilbert/distilgpt2", "DistilGPT2"])
def test_aliases_of_models(alias: str, gpt2cost: Any) -> None:
    named = [alias if argument == "distilgpt2" else argument for argument in SMALL]
    assert gpt2cost(*named) == gpt2cost(*SMALL)


def test_help_and_version(gpt2cost: Any) -> None:
    for arguments in (["--help"], ["predict", "-h"], ["table", "--help"], ["hardware", "--help"], ["--version"]):
        result = gpt2cost(*arguments)
        assert (result.code, result.err) == (0, "")
        assert "gpt2cost" in result.out


def completions(line: str) -> list[str]:
    env = {"_GPT2COST_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    return process(["-c", "from gpt2cost.cli.app import main; main()"], env).stdout.split()


def test_shell_completion() -> None:
    assert completions("gpt2cost predict --model gpt2-m") == ["gpt2-medium"]
    assert "a100-pcie-40gb" in completions("gpt2cost predict --gpu a1")
    assert completions("gpt2cost predict --attn s") == ["sdpa"]


# ---------------------------------------------------------------------------------------------- bad input

BAD = {
    "no model": (["predict", "--gpu", "a100"], "gpt2-xl"),
    "no gpu": (["predict", "--model", "gpt2"], "a100"),
    "unknown model": (["predict", "--model", "gpt2-medum", "--gpu", "a100"], "gpt2-medium"),
    "empty model": (["predict", "--model", "", "--gpu", "a100"], "model"),
    "unknown gpu": (["predict", "--model", "gpt2", "--gpu", "a1000"], "a100"),
    "dtype": ([*PREDICT, "--dtype", "fp8"], "fp16"),
    "attn": ([*PREDICT, "--attn", "flash"], "sdpa"),
    "runtime": ([*PREDICT, "--runtime", "graph"], "cuda-graph"),
    "format": ([*PREDICT, "--format", "xml"], "json"),
    "phase": ([*PREDICT, "--phase", "train"], "prefill"),
    "logits": ([*PREDICT, "--logits", "some"], "last"),
    "group": ([*PREDICT, "--group", "op"], "module"),
    "batch 0": ([*PREDICT, "--batch", "0"], "batch"),
    "batch -1": ([*PREDICT, "--batch", "-1"], "batch"),
    "batch 1.5": ([*PREDICT, "--batch", "1.5"], "batch"),
    "batch 10^30": ([*PREDICT, "--batch", str(10**30)], "batch"),
    "batch of 5000 digits": ([*PREDICT, "--batch", "9" * 5000], "batch"),
    "batch word": ([*PREDICT, "--batch", "many"], "batch"),
    "seq 0": ([*PREDICT, "--seq", "0"], "seq"),
    "cache -1": ([*PREDICT, "--cache", "-1"], "cache"),
    "cache without a cache": ([*PREDICT, "--cache", "5", "--no-use-cache"], "cache"),
    "dtype of the device": (["predict", "--model", "gpt2", "--gpu", "t4", "--dtype", "bf16"], "bf16"),
    "flash on a T4": (["predict", "--model", "gpt2", "--gpu", "t4", "--attn", "flash_attention_2"], "sdpa"),
    "output to a folder": ([*PREDICT, "-o", "."], "folder"),
    "output to no folder": ([*PREDICT, "-o", "missing/out.json"], "missing"),
    "unknown flag": ([*PREDICT, "--bach", "3"], "--bach"),
    "unknown command": (["guess"], "guess"),
    "unknown hardware": (["hardware", "show", "h1000"], "h100"),
    "missing argument": (["hardware", "show"], "name"),
    "hardware file": (["hardware", "validate", "no-such-file.yaml"], "no-such-file.yaml"),
    "extra argument": ([*PREDICT, "a100"], "a100"),
    "flag without a value": ([*PREDICT, "--batch"], "--batch"),
    "NUL": (["predict", "--model", "a\0b", "--gpu", "a100"], "model"),
    "newline": (["predict", "--model", "a\nb", "--gpu", "a100"], "model"),
    "table": (["table", "--attn", "flash"], "sdpa"),
    "models": (["models", "--format", "yaml"], "json"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str, gpt2cost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, named = BAD[case]
    result = gpt2cost(*arguments)
    assert_refused(result, "")
    assert named.lower() in result.err.lower()
    assert list(tmp_path.iterdir()) == []


def test_no_arguments_print_the_help(gpt2cost: Any) -> None:
    result = gpt2cost()
    assert result.code == 0
    assert "Usage" in result.out + result.err


# ---------------------------------------------------------------------------------------------- config.json


def config(**changes: Any) -> str:
    return json.dumps({**GOOD_CONFIG, **changes})


BAD_CONFIGS = {
    "empty": ("", "JSON"),
    "truncated": (config()[:-5], "JSON"),
    "a list": ("[1, 2]", "object"),
    "no model_type": ('{"n_layer": 2}', "model_type"),
    "llama": (config(model_type="llama"), "llama"),
    "770/12": (config(n_embd=770, n_head=12), "770"),
    "negative": (config(n_layer=-1), "n_layer"),
    "zero": (config(n_head=0), "n_head"),
    "fraction": (config(n_embd=48.5), "n_embd"),
    "text": (config(vocab_size="many"), "vocab_size"),
    "null": (config(n_layer=None), "n_layer"),
    "true": (config(n_layer=True), "n_layer"),
    "absurd": (config(n_embd=10**30), "n_embd"),
    "huge": ('{"model_type": "gpt2", "n_embd": ' + "9" * 6000 + "}", "config.json"),
    "NaN": (config(n_embd=float("nan")), "n_embd"),
    "infinity": (config(n_inner=float("inf")), "n_inner"),
    "inner": (config(n_inner=-4), "n_inner"),
    "activation": (config(activation_function="swoosh"), "swoosh"),
    "activation list": (config(activation_function=["relu"]), "activation_function"),
    "switch": (config(reorder_and_upcast_attn="yes"), "reorder_and_upcast_attn"),
    "cross attention": (config(add_cross_attention=True), "cross"),
    "nested": ("[" * 100_000, "config.json"),
    "NUL": ("\0", "config.json"),
}


def write_config(folder: Path, text: str | bytes) -> str:
    path = folder / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return str(path)


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configs_are_one_line(case: str, gpt2cost: Any, tmp_path: Path) -> None:
    text, named = BAD_CONFIGS[case]
    result = gpt2cost("predict", "--gpu", "a100", "--model", write_config(tmp_path, text))
    assert_refused(result, named)
    assert str(tmp_path) in result.err


def test_files_that_are_no_configs(gpt2cost: Any, tmp_path: Path) -> None:
    binary = write_config(tmp_path, bytes(range(256)))
    (tmp_path / "folder").mkdir()
    sparse = tmp_path / "large.json"
    with sparse.open("wb") as file:
        file.truncate(100_000_000)
    for model in (binary, str(tmp_path / "folder"), str(sparse), str(tmp_path / "missing.json"), "/dev/null"):
        assert_refused(gpt2cost("predict", "--gpu", "a100", "--model", model))


def test_an_odd_config_works(gpt2cost: Any, tmp_path: Path) -> None:
    text = config(activation_function="relu", tie_word_embeddings=False, n_positions=2048, reorder_and_upcast_attn=True)
    folder = tmp_path / "my-model"
    folder.mkdir()
    for model in (write_config(folder, text), str(folder)):
        result = gpt2cost("predict", "--gpu", "a100", "--attn", "eager", "--format", "json", "--model", model)
        assert (result.code, result.err) == (0, "")
        found = json.loads(result.out)["model"]
        assert (found["name"], found["n_inner"], found["activation_function"]) == ("my-model", 50, "relu")


def test_a_misspelt_key_is_a_warning(gpt2cost: Any, tmp_path: Path) -> None:
    result = gpt2cost("predict", "--gpu", "a100", "--model", write_config(tmp_path, config(n_layers=5)))
    assert result.code == 0
    assert result.err.count("\n") == 1
    assert "n_layers" in result.err
    assert "n_layer" in result.err


# ---------------------------------------------------------------------------------------------- hardware files

GOOD_HARDWARE = """
name: my-gpu
vendor: nvidia
architecture: ampere_sm80
compute_capability: 8.0
memory: {capacity: 80 GB, bandwidth: 2 TB/s, l2: 40 MB, l2_bandwidth: 5 TB/s}
compute: {units: 108, peak: {fp32: 19.5 TFLOP/s, fp16: 312 TFLOP/s}}
launch: {like: a100-sxm-80gb}
host: {like: a100-sxm-80gb}
model: {like: a100-sxm-80gb}
provenance: {memory: datasheet}
"""
BAD_HARDWARE = {
    "empty": ("", ""),
    "missing key": (GOOD_HARDWARE.replace("vendor: nvidia\n", ""), "vendor"),
    "unknown key": (GOOD_HARDWARE + "color: red\n", "color"),
    "bare number": (GOOD_HARDWARE.replace("2 TB/s", "2000000000000"), "$.memory.bandwidth"),
    "wrong unit": (GOOD_HARDWARE.replace("2 TB/s", "2 TFLOP/s"), "$.memory.bandwidth"),
    "NaN": (GOOD_HARDWARE.replace("2 TB/s", ".nan"), "$.memory.bandwidth"),
    "zero": (GOOD_HARDWARE.replace("2 TB/s", "0 TB/s"), "$.memory.bandwidth"),
    "negative": (GOOD_HARDWARE.replace("2 TB/s", "-2 TB/s"), "$.memory.bandwidth"),
    "tag": ("!!python/object/apply:os.system ['true']", "tags"),
    "binary": ("\0\1\2", "NUL"),
}


@pytest.mark.parametrize("case", BAD_HARDWARE)
def test_bad_hardware_files_are_one_line(case: str, gpt2cost: Any, tmp_path: Path) -> None:
    text, named = BAD_HARDWARE[case]
    path = tmp_path / "my-gpu.yaml"
    path.write_text(text)
    for command in (["predict", "--model", "gpt2", "--gpu"], ["hardware", "show"], ["hardware", "validate"]):
        assert_refused(gpt2cost(*command, str(path)), named)


def test_a_hardware_file_works(gpt2cost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-gpu.yaml").write_text(GOOD_HARDWARE)
    assert gpt2cost("hardware", "validate", str(tmp_path / "my-gpu.yaml")).code == 0
    by_path = gpt2cost("predict", "--model", "gpt2", "--gpu", str(tmp_path / "my-gpu.yaml"))
    monkeypatch.setenv("GPT2COST_HARDWARE_PATH", str(tmp_path))
    assert by_path == gpt2cost("predict", "--model", "gpt2", "--gpu", "my-gpu")
    assert by_path.code == 0
    assert "my-gpu" in by_path.out.splitlines()[0]


def test_a_bad_file_among_the_users_own_is_a_warning(
    gpt2cost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.yaml").write_text("aliases: [a100")
    monkeypatch.setenv("GPT2COST_HARDWARE_PATH", str(tmp_path))
    for command in (["hardware", "list"], ["predict", "--model", "gpt2", "--gpu", "a100"]):
        result = gpt2cost(*command)
        assert result.code == 0
        assert "a100-sxm-80gb" in result.out
        assert result.err.startswith(f"warning: skipped: {tmp_path}/broken.yaml: line 2: not valid YAML")
        assert result.err.count("\n") == 1


# ---------------------------------------------------------------------------------------------- fuzz

words = st.one_of(
    st.text(st.characters(exclude_characters="/"), max_size=20),
    st.integers().map(str),
    st.sampled_from(["gpt2", "a100", "m1", "-1", "0", "--", "-", "", ".", "..", "nan", "1e3", "t4", "h100.yaml", "~"]),
)
flags = st.sampled_from(
    ["--model", "--gpu", "--batch", "--seq", "--cache", "--dtype", "--attn", "--runtime", "--phase", "--logits",
     "--group", "--format", "--no-use-cache", "--strict", "--help"]
)  # fmt: skip


@given(
    command=st.sampled_from(
        [["predict"], ["table"], ["models"], ["hardware", "show"], ["hardware", "validate"], PREDICT, []]
    ),
    rest=st.lists(words | flags, max_size=5),
)
@settings(max_examples=300)
def test_fuzzed_arguments(
    command: list[str],
    rest: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    code = cli.run([*command, *rest])
    assert_calm(code, *capsys.readouterr())


def assert_calm(code: int, out: str, err: str) -> None:
    """Fine, perhaps with warnings; or refused in one line."""
    assert code in (0, 2)
    assert "Traceback" not in err
    if code == 0:
        assert all(line.startswith("warning: ") for line in err.splitlines())
    elif "Usage" not in out + err:
        assert_refused(Result(code, out, err))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    ["model_type", "n_layer", "n_head", "n_embd", "n_inner", "vocab_size", "n_positions", "activation_function",
     "scale_attn_weights", "reorder_and_upcast_attn", "tie_word_embeddings", "add_cross_attention", "use_cache",
     "hidden_size", "attn_pdrop", "bos_token_id", "dtype", "architectures", "id2label", "transformers_version"]
)  # fmt: skip


@given(
    changes=st.dictionaries(keys | st.text(max_size=8), json_values, max_size=4),
    cut=st.integers(0, 400),
    truncated=st.booleans(),
)
@settings(max_examples=200)
def test_fuzzed_configs(
    changes: dict[str, Any], cut: int, truncated: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = config(**changes)
    path = write_config(tmp_path, text[:cut] if truncated else text)
    capsys.readouterr()
    code = cli.run(["predict", "--gpu", "a100", "--format", "json", "--model", path])
    out, err = capsys.readouterr()
    assert_calm(code, out, err)


# ---------------------------------------------------------------------------------------------- files, pipes, terminals


def test_output_file(gpt2cost: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    path.chmod(0o640)
    result = gpt2cost(*SMALL, "--format", "json", "-o", str(path))
    assert result == Result(0, "", "")
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_text() == gpt2cost(*SMALL, "--format", "json").out
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"], "no temporary file is left"
    assert gpt2cost(*SMALL, "-o", str(tmp_path / "new.txt")).code == 0
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new.txt").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failed_write_leaves_the_old_file(gpt2cost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")

    def full(self: Path, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert_refused(gpt2cost(*SMALL, "-o", str(path)), "No space left")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.json"]


def test_a_refusal_leaves_the_output_alone(gpt2cost: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    assert_refused(gpt2cost(*SMALL, "--dtype", "fp8", "-o", str(path)))
    assert path.read_text() == "old"


def test_device_files(gpt2cost: Any) -> None:
    assert gpt2cost(*SMALL, "-o", os.devnull) == Result(0, "", "")
    done = process(["-m", "gpt2cost", "models", "--format", "csv", "-o", "/dev/stdout"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == gpt2cost("models", "--format", "csv").out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_line(gpt2cost: Any) -> None:
    assert_refused(gpt2cost(*SMALL, "-o", "/dev/full"), "No space left")
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "gpt2cost", "models"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_is_quiet() -> None:
    for arguments in ("table --format json", "predict --model gpt2 --gpu a100", "--help"):
        command = f"{sys.executable} -m gpt2cost {arguments} | head -1"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert done.stderr == ""
        assert done.stdout.count("\n") == 1


def in_a_terminal(arguments: Sequence[str], **env: str) -> str:
    """What a process prints to a terminal, a pseudo one of 80 columns."""
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **env}
    with subprocess.Popen([sys.executable, "-m", "gpt2cost", *arguments], stdout=child, stderr=child, env=environment):
        os.close(child)
        output = b""
        while True:
            try:
                chunk = os.read(parent, 65536)
            except OSError:  # Linux, when the child is gone
                break
            if not chunk:
                break
            output += chunk
    os.close(parent)
    return output.decode().replace("\r\n", "\n")


def test_terminals(tmp_path: Path) -> None:
    assert "\x1b[" in in_a_terminal(SMALL), "a title stands out"
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        text = in_a_terminal(SMALL, **env)
        assert "distilgpt2" in text
        assert "\x1b" not in text
    assert "\x1b" not in in_a_terminal([*SMALL, "--format", "json"])
    in_a_terminal([*SMALL, "-o", str(tmp_path / "out.txt")])
    assert "\x1b" not in (tmp_path / "out.txt").read_text()


@pytest.mark.parametrize("width", ["80", "100", "120", None])
def test_a_kernel_is_one_line_at_any_width(width: str | None, gpt2cost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if width:
        monkeypatch.setenv("COLUMNS", width)
    document = json.loads(gpt2cost(*SMALL, "--format", "json").out)
    text = gpt2cost(*SMALL).out
    for phase in document["phases"]:
        for kernel in phase["kernels"]:
            name = kernel["name"].removeprefix("transformer.")[:17]
            assert any(line.startswith(name) and line.split()[1].isdigit() for line in text.splitlines()), name
    tables = [block for block in text.split("\n\n") if block.startswith("kernel ")]
    assert len(tables) == 2
    assert all(len(line) <= int(width or output.PIPED_WIDTH) for block in tables for line in block.splitlines())
    headers = [block.splitlines()[0] for block in tables]
    assert not any("..." in header for header in headers), "only names are cut short"


def test_the_summary_ends_with_what_to_do(gpt2cost: Any) -> None:
    lines = gpt2cost(*SMALL).out.splitlines()
    memory, (prefill, decode) = lines[1], lines[-2:]
    for name, line in (("prefill", prefill), ("decode", decode)):
        assert line.startswith(f"{name}: ")
        assert "tokens/s" in line
        assert "-bound" in line
        assert parse_quantity(" ".join(line.split()[1:3]), "s") > 0
    assert "fits" in memory


def test_quantities_of_a_device_have_units(gpt2cost: Any) -> None:
    text = gpt2cost("hardware", "show", "a100").out
    assert "  bandwidth: 2.04 TB/s" in text.splitlines()
    assert "    fp16: 312 TFLOP/s" in text.splitlines()


# ---------------------------------------------------------------------------------------------- imports


def modules_after(code: str, **env: str) -> set[str]:
    done = process(["-c", f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)"], env)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_a_preset_needs_neither_transformers_nor_torch_nor_pydantic() -> None:
    heavy = {"transformers", "torch", "pydantic"}
    assert not heavy & modules_after("import gpt2cost.cli.app")
    for arguments in (SMALL, [*SMALL, "--format", "json"], ["models"], ["table"], ["hardware", "list"]):
        assert not heavy & modules_after(f"import gpt2cost.cli.app as c; c.run({arguments!r})"), arguments
    assert "rich" not in modules_after(f"import gpt2cost.cli.app as c; c.run({[*SMALL, '--format', 'json']!r})")


WITHOUT_TORCH = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] == "torch" else found(name, *rest)
sys.modules["torch"] = None
from gpt2cost.cli.app import main
main(sys.argv[1:])
"""


def test_a_config_without_torch_brings_no_advice(tmp_path: Path) -> None:
    path = write_config(tmp_path, config())
    done = process(["-c", WITHOUT_TORCH, "predict", "--gpu", "a100", "--model", path])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_link_stays_a_link(gpt2cost: Any, tmp_path: Path) -> None:
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(target)
    assert gpt2cost("models", "--format", "json", "-o", str(link)).code == 0
    assert link.is_symlink()
    assert "gpt2-xl" in target.read_text()


def test_what_ifs_reach_the_table_and_single_kernels(gpt2cost: Any) -> None:
    rows = json.loads(gpt2cost("table", "--model", "gpt2", "--set", "n_layer=2", "--format", "json").out)["kernels"]
    assert next(row for row in rows if row["name"] == "transformer.h.attn.c_attn")["count"] == 2
    shape = ["kernel", "copy", "--elements", "100000000", "--gpu", "a100", "--format", "json"]
    slower = json.loads(gpt2cost(*shape, "--hw-set", "memory.bandwidth=1 TB/s").out)["kernels"][0]
    assert slower["device_s"] > json.loads(gpt2cost(*shape).out)["kernels"][0]["device_s"]
