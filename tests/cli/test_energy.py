"""`--energy`: heard by every command that has it, in every format, with the same columns; elsewhere refused."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import EVERY_COMMAND, assert_refused

from gpt2cost.files import data_dir

ONE, TWO = ["--model", "gpt2", "--gpu", "a100"], ["--model", "gpt2", "--gpu", "a100,l4"]
PRICES = ["--price-per-hour", "a100=1.3,l4=0.7"]
ENERGY = ["board_power_w", "energy_bound_j", "energy_bound_j_per_token"]
COMMANDS: dict[str, list[str]] = {
    "predict": ["predict", *ONE, "--batch", "4", "--seq", "32"],
    "predict by module": ["predict", *ONE, "--seq", "32", "--group", "module"],
    "predict of two": ["predict", *TWO, "--seq", "32"],
    "predict with prices": ["predict", *TWO, "--seq", "32", *PRICES],
    "predict of one with a price": ["predict", *ONE, "--price-per-hour", "2"],
    "generate": ["generate", *ONE, "--prompt", "8", "--new-tokens", "4", "--batch", "2", "--gpus", "3"],
    "generate of one token": ["generate", *ONE, "--new-tokens", "1"],
    "generate of two": ["generate", *TWO, "--new-tokens", "3", *PRICES],
    "fit": ["fit", *ONE, "--seq", "32"],
    "fit of two": ["fit", *TWO, "--phase", "decode"],
    "fit where nothing does": ["fit", *ONE, "--phase", "decode", "--max-latency", "1us"],
    "fit of a service level": ["fit", *TWO, "--new-tokens", "4", "--max-tpot", "40ms", "--gpus", "2"],
    "fit where not all do": ["fit", "--model", "gpt2-xl", "--set", "n_layer=400", *TWO[2:], "--new-tokens", "4"],
    "compare": ["compare", *TWO],
    "compare of phases": ["compare", *ONE, "--phases"],
    "compare of training": ["compare", *TWO, "--phase", "train", "--micro-batch", "2"],
    "sweep": ["sweep", *TWO, "--batch", "1,8", "--phase", "both"],
    "sweep of training": ["sweep", *ONE, "--phase", "train", "--micro-batch", "1,2", "--gpus", "1,8"],
    "train": ["train", *ONE, "--micro-batch", "2", "--gpus", "8"],
    "train of a run": ["train", *ONE, "--micro-batch", "2", "--steps", "10", "--eval-every", "5"],
}  # fmt: skip
HIGH = ("step_high_s", "total_high_s", "pass_latency_high_s", "latency_high_s")
"""The upper end of the range that a row is of, by the first of these that it has."""
of_each = pytest.mark.parametrize("command", COMMANDS)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@cache
def watts(name: str) -> float:
    tree = yaml.safe_load((data_dir("hardware") / f"{name}.yaml").read_text("utf-8"))
    return float(tree["board_power"].removesuffix(" W"))


@of_each
def test_rows_have_three_columns_more(gpt2cost: Any, command: str) -> None:
    """They follow those of the row; of the prices', they stand before them. A generation says its GPUs too."""
    arguments = [*COMMANDS[command], "--format", "csv"]
    without, rows = rows_of(gpt2cost(*arguments).out), rows_of(gpt2cost(*arguments, "--energy").out)
    more = [name for name in rows[0] if name not in without[0]]
    others = ["gpus"] * command.startswith("generate") + ENERGY + ["run_energy_bound_j"] * command.startswith("train")
    assert more == others
    assert [{name: row[name] for name in without[0]} for row in rows] == without


@of_each
def test_a_row_is_the_power_of_its_yaml_for_the_upper_end_of_its_range(gpt2cost: Any, command: str) -> None:
    rows = rows_of(gpt2cost(*COMMANDS[command], "--energy", "--format", "csv").out)
    assert rows
    for row in rows:
        high = next((name for name in HIGH if name in row), None)
        if row["energy_bound_j"] == "":
            assert "where" in command and row[str(high)] == ""
            continue
        assert float(row["board_power_w"]) == watts(row["gpu"])
        assert float(row["energy_bound_j"]) >= float(row["energy_bound_j_per_token"]) > 0
        if high is not None:
            expected = watts(row["gpu"]) * float(row[high]) * int(row.get("gpus", "1"))
            assert float(row["energy_bound_j"]) == pytest.approx(expected, rel=1e-12)


def test_the_tokens_are_those_of_the_row(gpt2cost: Any) -> None:
    def tokens(command: str) -> list[float]:
        rows = rows_of(gpt2cost(*COMMANDS[command], "--energy", "--format", "csv").out)
        each = [float(row["energy_bound_j"]) / float(row["energy_bound_j_per_token"]) for row in rows]
        return sorted({round(one, 6) for one in each})

    assert tokens("predict") == [4, 4 * 32]
    assert tokens("generate") == [2 * 3]
    assert tokens("train") == [2 * 8 * 1024]
    assert tokens("sweep") == [1, 8, 128, 1024]


def test_turns_sum_to_the_generation(gpt2cost: Any) -> None:
    arguments = [*COMMANDS["generate"], "--energy", "--format"]
    (whole,) = json.loads(gpt2cost(*arguments, "json").out)["energy"]
    rows = rows_of(gpt2cost(*arguments, "csv").out)
    assert sum(float(row["energy_bound_j"]) for row in rows) == pytest.approx(whole["energy_bound_j"], rel=1e-12)
    assert whole["energy_bound_j"] / whole["energy_bound_j_per_token"] == pytest.approx(4 * 2 * 3)
    assert whole["gpus"] == 3


@of_each
def test_a_document_says_what_the_rows_say(gpt2cost: Any, command: str) -> None:
    arguments = [*COMMANDS[command], "--energy", "--format"]
    document = json.loads(gpt2cost(*arguments, "json").out)
    rows = rows_of(gpt2cost(*arguments, "csv").out)
    found = {float(row["energy_bound_j"]) for row in rows if row["energy_bound_j"]}
    if command.startswith("sweep"):
        assert {row["energy_bound_j"] for row in document["rows"]} == found
        return
    records = [one for run in document.get("runs", [document]) for one in run["energy"]]
    assert all(set(ENERGY) <= set(record) for record in records)
    if command.startswith("generate"):
        return
    steps = {record["energy_bound_j"] for record in records if record.get("part") != "run"}
    assert steps == found
    runs = [record["energy_bound_j"] for record in records if record.get("part") == "run"]
    if command.startswith("train"):
        assert {row["run_energy_bound_j"] for row in rows} == ({str(one) for one in runs} or {""})


@pytest.mark.parametrize("width", [80, 120])
@of_each
def test_people_are_told_that_it_is_a_bound(
    gpt2cost: Any, monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    without, text = gpt2cost(*COMMANDS[command]).out, gpt2cost(*COMMANDS[command], "--energy").out
    if command == "fit where nothing does":
        assert text == without
        return
    lines = text.splitlines()
    (place,) = (number for number, line in enumerate(lines) if line.startswith("energy, a bound: "))
    assert "energy/token <=" in text or "energy <=  per token <=" in text
    if command.startswith("sweep"):
        return
    assert lines[: place - 1] == without.splitlines()
    assert max(map(len, lines[place:])) <= width


@pytest.mark.parametrize(
    "command", ["predict", "generate", "train of a run", "fit", "compare", "predict of one with a price"]
)
def test_markdown_has_it(gpt2cost: Any, command: str) -> None:
    text = gpt2cost(*COMMANDS[command], "--energy", "--format", "markdown").out
    assert "energy_bound_j_per_token" in text


def test_a_sweep_is_sorted_by_it(gpt2cost: Any) -> None:
    flags = ["--energy", "--sort", "energy_bound_j_per_token", "--top", "1", "--format", "csv"]
    (best,) = rows_of(gpt2cost("sweep", *TWO, "--batch", "1-64*2", *flags).out)
    every = rows_of(gpt2cost("sweep", *TWO, "--batch", "1-64*2", "--energy", "--format", "csv").out)
    assert best == min(every, key=lambda row: float(row["energy_bound_j_per_token"]))
    assert_refused(gpt2cost("sweep", *TWO, "--sort", "energy_bound_j"), "--sort energy_bound_j: goes with --energy")


def test_a_lower_limit_is_a_lower_bound_in_as_much_time(gpt2cost: Any) -> None:
    arguments = ["sweep", *ONE, "--energy", "--hw-set", "board_power='200 W,400 W'", "--format", "csv"]
    low, full = rows_of(gpt2cost(*[argument.replace("'", "") for argument in arguments]).out)
    assert low["latency_high_s"] == full["latency_high_s"]
    assert 2 * float(low["energy_bound_j"]) == float(full["energy_bound_j"])
    (own,) = rows_of(gpt2cost("sweep", *ONE, "--energy", "--format", "csv").out)
    assert [own[name] for name in ENERGY] == [full[name] for name in ENERGY]


# ---------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("command", [name for name in COMMANDS if "price" not in name and "two" not in name])
def test_a_device_without_a_figure_is_one_line(gpt2cost: Any, command: str) -> None:
    arguments = [argument.replace("a100", "m3").replace("l4", "m2-max") for argument in COMMANDS[command]]
    arguments = [argument if argument != "8" or "--gpus" not in arguments else "1" for argument in arguments]
    training = ["--precision", "fp32"] * ("train" in command)
    message = "no board_power in its YAML; --hw-set board_power='60 W' says"
    if "m3,m2-max" in arguments:
        message = "energy: no board_power in the YAML of m3, m2-max"
    assert_refused(gpt2cost(*arguments, *training, "--energy"), message)
    if "m3,m2-max" not in arguments:
        assert gpt2cost(*arguments, *training, "--energy", "--hw-set", "board_power=60 W").code == 0


def test_one_of_several_without_a_figure_is_named(gpt2cost: Any) -> None:
    mixed = ["--model", "gpt2", "--gpu", "a100,m3", "--energy"]
    for command in ("predict", "generate", "fit", "compare", "sweep"):
        done = gpt2cost(command, *mixed)
        assert_refused(done, "m3")
        assert "board_power" in done.err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["sweep", *ONE, "--kernels", "--energy"], "energy: of whole passes"),
        (["predict", *ONE, "--energy", "--hw-set", "board_power=60"], "expected a power such as '400 W', got 60"),
        (["predict", *ONE, "--energy", "--hw-set", "board_power=0 W"], "expected a power"),
        (["predict", *ONE, "--energy", "--hw-set", "board_power=inf W"], "expected a power"),
        (["predict", *ONE, "--energy", "--hw-set", "board_power_w=60 W"], "did you mean 'board_power'?"),
    ],
)
def test_refused(gpt2cost: Any, arguments: list[str], hint: str) -> None:
    assert_refused(gpt2cost(*arguments), hint)


WITH_ENERGY = {"predict", "generate", "fit", "compare", "sweep", "train"}


@pytest.mark.parametrize("command", sorted(EVERY_COMMAND.keys() - WITH_ENERGY))
def test_where_it_means_nothing_there_is_no_such_flag(gpt2cost: Any, command: str) -> None:
    result = gpt2cost(command, *EVERY_COMMAND[command], "--energy")
    assert_refused(result, "No such option")  # an older typer puts the flag in quotation marks, without a colon
    assert "--energy" in result.err


def test_a_device_shows_its_power_and_where_it_is_from(gpt2cost: Any, tmp_path: Path) -> None:
    text = gpt2cost("hardware", "show", "l4").out
    assert f"board_power: {watts('l4'):g} W\n" in text
    assert "  board_power: datasheet: " in text
    listed = {row["name"]: row for row in rows_of(gpt2cost("hardware", "list", "--format", "csv").out)}
    assert float(listed["l4"]["board_power_w"]) == watts("l4")
    assert listed["m3"]["board_power_w"] == ""
    (record,) = json.loads(gpt2cost("hardware", "show", "m3", "--format", "json").out)["hardware"]
    assert record["board_power_w"] is None
