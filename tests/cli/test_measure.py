"""`gpt2cost measure`: a small model on this machine. Times are measured, never asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers import Call, refusal

from gpt2cost.measure.plan import MEASURED_DTYPES
from gpt2cost.output.formats import FORMATS
from gpt2cost.prediction.settings import How, Sizes
from gpt2cost.table.heads import CLASSES

pytest.importorskip("torch")

from gpt2cost.measure.bench import Bench
from gpt2cost.measure.passes import Models, PassCase
from gpt2cost.measure.pool import DTYPES

pytestmark = pytest.mark.usefixtures("few_samples")


@pytest.mark.parametrize(("format", "kernels"), [*((format, True) for format in FORMATS), ("csv", False)])
def test_measure_in_every_format(gpt2cost: Call, tiny_config: str, format: str, kernels: bool) -> None:
    result = gpt2cost(
        "measure", "--model", tiny_config, "--case", "1,2,0", "--format", format, *["--kernels"][: int(kernels)]
    )
    assert result.code == 0, result.err
    assert ("addmm" in result.out) == kernels
    assert "round 1/" in result.err


@pytest.mark.parametrize(
    ("case", "says"),
    [
        *((case, f"--case: expected BATCH,SEQ,CACHE such as 8,1,512, got '{case}'") for case in ("1,2", "a,b,c", "")),
        ("1,2,3,4", "got '1,2,3,4'"),
        ("1,1,-1", "got '1,1,-1'"),
        ("0,1,1", "batch: expected an integer from 1"),
        ("1,0,1", "seq: expected an integer from 1"),
    ],
)
def test_a_bad_case(gpt2cost: Call, tiny_config: str, case: str, says: str) -> None:
    assert says in refusal(gpt2cost("measure", "--model", tiny_config, "--case", case))


@pytest.mark.parametrize("command", ["measure", "validate"])
def test_without_torch_one_line_says_what_to_install(
    gpt2cost: Call, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    expected = f'{command} needs torch: pip install "gpt2cost[measure]"'
    for room in [name for name in sys.modules if name.startswith("gpt2cost.measure.")]:
        monkeypatch.delitem(sys.modules, room)  # they have torch already
    device = ["--gpu", "a100"] if command == "validate" else []
    assert refusal(gpt2cost(command, "--model", "gpt2", *device)) == f"error: {expected}\n"


def test_flags_that_are_missing_or_wrong(gpt2cost: Call, tiny_config: str, tmp_path: Path) -> None:
    measure = ("measure", "--model", tiny_config)
    assert "--model is required" in refusal(gpt2cost("measure"))
    assert "device: expected one of" in refusal(gpt2cost(*measure, "--device", "tpu"))
    assert "threads: expected" in refusal(gpt2cost(*measure, "--threads", "0"))
    assert "no folder" in refusal(gpt2cost(*measure, "--evidence", tmp_path / "none" / "e.yaml"))


def test_what_is_offered_is_what_torch_measures() -> None:
    """Catches a dtype of the flags that the measuring rooms, which need torch, do not know."""
    assert tuple(DTYPES) == MEASURED_DTYPES


@pytest.mark.parametrize("head", CLASSES)
def test_the_model_that_runs_is_of_the_config(head: str, tiny_config: str, tmp_path: Path) -> None:
    """Of the class with its head, and with its pad token: it is compared with a prediction of just that."""
    path = tmp_path / "config.json"
    config = json.loads((Path(tiny_config) / "config.json").read_text("utf-8"))
    path.write_text(json.dumps({**config, "architectures": [CLASSES[head]], "num_labels": 3, "pad_token_id": 1}))
    case = PassCase(str(path), How("fp32", "sdpa", "eager"), Sizes(1, 2, 0))
    model = Models(Bench("cpu")).model(case)
    assert type(model).__name__ == CLASSES[head]
    assert model.config.pad_token_id == 1
    assert model.config.num_labels == (1 if head == "double-heads" else 3)  # GPT2DoubleHeadsModel sets it itself
