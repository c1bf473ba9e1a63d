"""The command line: data on stdout, one line a problem on stderr, exit codes, formats, files, pipes and terminals."""

from __future__ import annotations

import csv
import inspect
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from helpers import PREDICT, SMALL, Result, assert_calm, assert_refused, process
from hypothesis import given
from hypothesis import strategies as st

from gpt2cost.cli import app as cli
from gpt2cost.cli.flags import takes
from gpt2cost.cli.plain_types import PlainReader, read_plainly
from gpt2cost.errors import InputError
from gpt2cost.output.formats import FORMATS
from gpt2cost.output.record import SCHEMA_VERSION

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
                assert document["schema_version"] == SCHEMA_VERSION
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


# ---------------------------------------------------------------------------------------------- flags


def test_aliases_of_flags(gpt2cost: Any) -> None:
    names = {"--batch": "--batch-size", "--seq": "--seq-len", "--cache": "--cache-len", "--gpu": "--hardware"}
    assert gpt2cost(*SMALL, "--format", "json") == gpt2cost(*(names.get(a, a) for a in SMALL), "--format", "json")


def test_help_and_version(gpt2cost: Any) -> None:
    for arguments in (["--help"], ["predict", "-h"], ["table", "--help"], ["hardware", "--help"], ["--version"]):
        result = gpt2cost(*arguments)
        assert (result.code, result.err) == (0, "")
        assert "gpt2cost" in result.out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_lists_every_command_as_its_room_describes_it(name: str, gpt2cost: Any) -> None:
    """Catches a command that is in no room, and a help that is read from another place than the command's own is."""
    line = " ".join(gpt2cost(name, "--help").out.split()).partition(f"gpt2cost {name} ")[2]
    first = str(cli._help(name)).partition("\n\n")[0].replace("\n", " ")
    assert first.endswith(".")
    assert first in line
    listed = " ".join(gpt2cost("--help").out.replace("│", " ").split())
    assert f"{name} {first}" in listed


COMPLETED = {
    "pre": ["predict"],
    "predict --model gpt2-m": ["gpt2-medium"],
    "predict --attn s": ["sdpa"],
    "predict --group m": ["module"],
    "predict --gpu a100-p": ["a100-pcie", "a100-pcie-40gb", "a100-pcie-80gb"],
    "compare --model gpt2-xl --dtype fp16,t": ["fp16,tf32"],
    "predict --gpu = a100-p": ["a100-pcie", "a100-pcie-40gb", "a100-pcie-80gb"],
    "predict --model gpt2 --attn =": ["eager", "flash_attention_2", "sdpa"],
    "sweep --sort tok": ["tokens_per_s"],
    "predict --set n_e": ["n_embd="],
    "hardware s": ["show"],
    "plot curve --quantity th": ["throughput"],
    "kernel layer": ["layer_norm"],
    "measure --device c": ["cpu", "cuda"],
}
COMPLETE = """
import os, sys
sys.modules["torch"] = sys.modules["transformers"] = None  # what needs them fails
from gpt2cost.cli.app import main
for line in sys.argv[1:]:
    os.environ |= {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    try:
        main()
    except SystemExit:
        print(";", flush=True)
"""


def test_shell_completion() -> None:
    """What bash offers for the last word of each line."""
    lines = [f"gpt2cost {line}" for line in COMPLETED]
    done = process(["-c", COMPLETE, *lines], {"_GPT2COST_COMPLETE": "complete_bash"})
    assert done.stderr == ""
    assert [sorted(offered.split()) for offered in done.stdout.split(";")[:-1]] == list(COMPLETED.values())


ROOMS = {path.partition(":")[0] for path in cli.COMMANDS.values()}
LOAD_EACH = f"""
import sys, gpt2cost.cli, gpt2cost.cli.app as c
rooms = {ROOMS!r}
for name in c.COMMANDS:
    for room in [room for room in sys.modules if room.startswith("gpt2cost.cli.") and room != c.__name__]:
        delattr(gpt2cost.cli, room.rpartition(".")[2])
        del sys.modules[room]
    c.run([name, "--help"])
    print(name, *(room.rpartition(".")[2] for room in rooms & set(sys.modules)), file=sys.stderr)
"""


def test_only_the_room_of_a_command_is_imported() -> None:
    """Catches a room that imports the rooms of other commands: each costs every start its time."""
    done = process(["-c", LOAD_EACH])
    loaded = {name: set(rooms) for name, *rooms in map(str.split, done.stderr.splitlines())}
    shared = {"calibrate": {"measure"}, "validate": {"measure"}}
    assert loaded == {
        name: {path.partition(":")[0].rpartition(".")[2]} | shared.get(name, set())
        for name, path in cli.COMMANDS.items()
    }


def test_the_help_imports_no_room() -> None:
    loaded = modules_after("import gpt2cost.cli.app as c; c.run(['--help'])")
    assert not {"numpy", "yaml"} & loaded
    own = {name for name in loaded if name.startswith("gpt2cost.cli.")}
    assert own == {"gpt2cost.cli.app", "gpt2cost.cli.plain_types"}


def test_flags_are_read_without_pydantic() -> None:
    """Where this fails, typer has renamed what plain_types.py sets: flags are read by pydantic, at twice the cost."""
    pytest.importorskip("pydantic", reason="this typer reads flags without it")
    command = cli._built("predict")
    assert all(hasattr(param, "_runtime_param") for param in command.params)
    read_plainly(command)
    assert all(isinstance(param._runtime_param, PlainReader) for param in command.params)


def test_an_empty_path_is_none() -> None:
    """`Path("")` would be the current folder."""
    with pytest.raises(typer.BadParameter, match="expected a path, got ''"):
        PlainReader(Path).coerce("", None, None)


def test_errors_of_every_typer_are_caught() -> None:
    assert issubclass(typer.BadParameter, cli._click_exception())
    assert not issubclass(InputError, cli._click_exception())


@dataclass(eq=False, repr=False)
class Pair:
    left: Annotated[int, typer.Option("--left")] = 1
    right: Annotated[str | None, typer.Option("--right")] = None


def test_a_group_of_flags_is_a_parameter() -> None:
    """Catches flags that do not reach the command, under their names, with their defaults."""
    seen = []

    @takes
    def command(name: str, *, pair: Pair, last: bool = False) -> None:
        seen.append((name, pair.left, pair.right, last))

    signature = inspect.signature(command)
    assert list(signature.parameters) == ["name", "left", "right", "last"]
    assert [parameter.default for parameter in signature.parameters.values()][1:] == [1, None, False]
    command(name="a", left=3, right="b", last=True)
    assert seen == [("a", 3, "b", True)]


# ---------------------------------------------------------------------------------------------- bad input

BAD = {
    "no model": (["predict", "--gpu", "a100"], "gpt2-xl"),
    "no gpu": (["predict", "--model", "gpt2"], "gpt2cost hardware list"),
    "unknown model": (["predict", "--model", "gpt2-medum", "--gpu", "a100"], "gpt2-medium"),
    "empty model": (["predict", "--model", "", "--gpu", "a100"], "model"),
    "unknown gpu": (["predict", "--model", "gpt2", "--gpu", "a1000"], "did you mean 'a100'"),
    "dtype": ([*PREDICT, "--dtype", "fp8"], "fp16"),
    "attn": ([*PREDICT, "--attn", "flash"], "sdpa"),
    "runtime": ([*PREDICT, "--runtime", "graph"], "cuda-graph"),
    "format": ([*PREDICT, "--format", "xml"], "json"),
    "phase": ([*PREDICT, "--phase", "both,decode"], "prefill"),
    "phase train": ([*PREDICT, "--phase", "train"], "phase: training steps are gpt2cost train's"),
    "phase train of fit": (["fit", *PREDICT[1:], "--phase", "train"], "phase: training steps are gpt2cost train's"),
    "precision": ([*PREDICT, "--precision", "bf16"], "No such option: --precision; here it is --dtype"),
    "a size": (["predict", "--model", "124M", "--gpu", "a100"], "'124M': that is gpt2; presets"),
    "a size of none": (["predict", "--model", "7B", "--gpu", "a100"], "'7B': presets"),
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
    "output to no folder": ([*PREDICT, "-o", "missing/out.json"], "no folder missing"),
    "unknown flag": ([*PREDICT, "--bach", "3"], "--bach"),
    "unknown command": (["guess"], "guess"),
    "unknown hardware": (["hardware", "show", "h1000"], "did you mean 'h100'"),
    "missing argument": (["hardware", "show"], "name"),
    "hardware file": (["hardware", "validate", "no-such-file.yaml"], "no-such-file.yaml: cannot read"),
    "extra argument": ([*PREDICT, "a100"], "unexpected extra argument"),
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
    assert_calm(Result(code, *capsys.readouterr()))


# ---------------------------------------------------------------------------------------------- imports


def modules_after(code: str, **env: str) -> set[str]:
    done = process(["-c", f"{code}\nimport sys; print(*sys.modules, file=sys.stderr)"], env)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_a_preset_needs_neither_transformers_nor_torch_nor_pydantic() -> None:
    heavy = {"transformers", "torch", "pydantic"}
    commands = [SMALL, [*SMALL, "--format", "json"], ["models"], ["table"], ["hardware", "list"]]
    code = f"import gpt2cost.cli.app as c; [c.run(arguments) for arguments in {commands!r}]"
    assert not heavy & modules_after(code)
    assert "rich" not in modules_after(code) - modules_after("import typer.main")  # an old typer brings it


def test_what_ifs_reach_the_table_and_single_kernels(gpt2cost: Any) -> None:
    rows = json.loads(gpt2cost("table", "--model", "gpt2", "--set", "n_layer=2", "--format", "json").out)["kernels"]
    assert next(row for row in rows if row["name"] == "transformer.h.attn.c_attn")["count"] == 2
    shape = ["kernel", "copy", "--elements", "100000000", "--gpu", "a100", "--format", "json"]
    slower = json.loads(gpt2cost(*shape, "--hw-set", "memory.bandwidth=1 TB/s").out)["kernels"][0]
    assert slower["device_s"] > json.loads(gpt2cost(*shape).out)["kernels"][0]["device_s"]


ONE = ["--model", "distilgpt2", "--gpu", "rtx4090"]


@pytest.mark.parametrize(
    "command",
    [
        ["predict", *ONE, "--seq", "1", "--cache", "9"],
        ["sweep", *ONE],
        ["generate", *ONE, "--prompt", "4", "--new-tokens", "2"],
        ["fit", *ONE],
        ["compare", *ONE, "--dtype", "fp16,bf16"],
        ["trace", *ONE],
    ],
    ids=lambda command: command[0],
)
def test_host_factor(command: list[str], gpt2cost: Any) -> None:
    """A what-if of the machine: the output says so, and what is no factor is refused."""
    done = gpt2cost(*command, "--host-factor", "1.4")
    assert done.code == 0
    assert "rtx4090[host x1.4]" in done.out
    for factor in ("0", "-1", "nan", "inf", "fast"):
        assert_refused(gpt2cost(*command, "--host-factor", factor), "host-factor")


def test_host_factor_multiplies_what_the_host_takes(gpt2cost: Any) -> None:
    command = ["predict", *ONE, "--seq", "1", "--cache", "9", "--phase", "prefill"]
    as_it_is, slow = (
        json.loads(gpt2cost(*command, *flags, "--format", "json").out) for flags in ([], ["--host-factor", "2"])
    )
    (before,), (after,) = ([phase["totals"] for phase in document["phases"]] for document in (as_it_is, slow))
    assert after["host_s"] == pytest.approx(2 * before["host_s"])
    assert after["device_s"] == before["device_s"]
    assert after["trust"] == "changed"
    assert (as_it_is["hardware"]["host_factor"], slow["hardware"]["host_factor"]) == (1, 2)
    assert slow["what_if"] == {"model": {}, "hardware": {"host_factor": 2}}
    assert "see --host-factor" in gpt2cost(*command).out
    by_path = [*command, "--hw-set", "host_factor=2"]
    assert json.loads(gpt2cost(*by_path, "--format", "json").out) == slow
    assert_refused(gpt2cost(*by_path, "--host-factor", "3"), "is set by --hw-set too")


@pytest.mark.parametrize(
    ("size", "preset"),
    [
        ("82M", "distilgpt2"), ("117M", "gpt2"), ("124m", "gpt2"), ("345M", "gpt2-medium"), ("350M", "gpt2-medium"),
        ("355M", "gpt2-medium"), ("774M", "gpt2-large"), ("1558M", "gpt2-xl"), ("1.5B", "gpt2-xl"),
        ("gpt2-124M", "gpt2"),
    ],
)  # fmt: skip
def test_models_by_their_size(size: str, preset: str, gpt2cost: Any) -> None:
    assert_refused(gpt2cost("predict", "--model", size, "--gpu", "a100"), f"'{size}': that is {preset}; presets are")
