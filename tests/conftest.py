"""For every test: no network, no devices or terminal settings from the environment, and the same examples each run."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub client, which reads it once
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads would wait for each other: a test runs beside each core's

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Result
from hypothesis import HealthCheck, settings

from gpt2cost.cli import app

settings.register_profile(
    "gpt2cost",
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("gpt2cost")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ("GPT2COST_HARDWARE_PATH", "PYTHONWARNINGS")
    terminal = ("COLUMNS", "TERMINAL_WIDTH", "TERM", "NO_COLOR", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS")
    for name in own + terminal:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpt2cost(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The command line, called in this process."""

    def call(*arguments: str | Path) -> Result:
        capsys.readouterr()
        code = app.run(list(map(str, arguments)))
        return Result(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small model's config.json."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 64, "n_positions": 64}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return str(folder)


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement takes as few samples as there may be."""
    pytest.importorskip("torch")
    from gpt2cost.measure.bench import Bench  # which needs torch

    sample = Bench.sample
    monkeypatch.setattr(Bench, "sample", lambda bench, run, budget_s=0.0, least=1: sample(bench, run, 0.0, least))
