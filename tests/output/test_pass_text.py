"""A pass as text: shares that add up to it, folding that loses nothing, colours that only a terminal sees."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers import ROOT

from gpt2cost import Prediction, change_model, load_model, predict, train
from gpt2cost.output.kernel_rows import LEAST_SHARE, SUMS
from gpt2cost.output.page import Page
from gpt2cost.output.pass_text import BAR, pass_rows
from gpt2cost.output.prediction import prediction_view
from gpt2cost.output.train import training_view

CPU = str(ROOT / "benchmarks/measurements/cpu-epyc-7003-2c/epyc-7003-2c.yaml")
SETTINGS: list[dict[str, Any]] = [
    {}, {"gpu": "t4", "batch": 8, "seq": 512}, {"attn": "eager", "batch": 3, "seq": 17, "cache": 5},
    {"runtime": "cuda-graph"}, {"runtime": "reduce-overhead", "batch": 8}, {"runtime": "compile", "seq": 700},
    {"gpu": CPU, "dtype": "fp32", "batch": 2}, {"gpu": CPU, "dtype": "fp32", "runtime": "compile"},
    {"gpu": "m1", "attn": "eager"}, {"cache_type": "static", "seq": 1, "cache": 99}, {"use_cache": False},
    {"impl": "nanogpt", "attn": "eager"}, {"attn": "flash_attention_2", "gpu": "h100", "batch": 64, "seq": 1024},
]  # fmt: skip


def made(**settings: Any) -> Prediction:
    return predict(**{"model": "distilgpt2", "gpu": "a100", **settings})


def text_of(prediction: Prediction, terminal: bool = False, width: int = 120, **options: Any) -> Page:
    page = Page(width, terminal)
    prediction_view(**options).text(page, prediction)
    return page


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("options", [{}, {"unfolded": True}, {"group": "module"}, {"group": "layer"}], ids=str)
def test_printed_shares_add_up_to_the_pass(settings: dict[str, Any], options: dict[str, Any]) -> None:
    """Each is rounded to a tenth of a per cent."""
    prediction = made(**settings)
    assert_shares_add_up(text_of(prediction, **options), len(prediction.phases))


@pytest.mark.parametrize("unfolded", [False, True])
@pytest.mark.parametrize("runtime", ["eager", "compile"])
def test_printed_shares_of_a_training_step(runtime: str, unfolded: bool) -> None:
    """Forward, backward, clipping and the optimiser."""
    page = Page(120)
    training_view(unfolded=unfolded).text(page, train("distilgpt2", "a100", micro_batch=4, seq=256, runtime=runtime))
    assert_shares_add_up(page, 4)


def assert_shares_add_up(page: Page, passes: int) -> None:
    blocks = [block for block in page.plain().split("\n\n") if "of pass" in block]
    assert len(blocks) == passes
    for block in blocks:
        *shares, whole = re.findall(r"(\d+\.\d)%(?= )", re.sub(r"\d+ kernels below 0.1%", "", block))
        assert whole == "100.0"
        assert sum(map(float, shares)) == pytest.approx(100, abs=0.05 * len(shares) + 0.01)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_folding_loses_nothing(settings: dict[str, Any]) -> None:
    for phase in made(**settings).phases:
        folded, unfolded = (pass_rows(phase.pass_, phase.totals, unfolded=every) for every in (False, True))
        assert len(unfolded.kernels) == len(phase.kernels)
        assert [row["of_pass"] for row in folded.below] == [row["of_pass"] for row in unfolded.below]
        for figure in SUMS:
            both = [sum(row[figure] for row in rows.kernels) for rows in (folded, unfolded)]
            assert both[0] == pytest.approx(both[1])
        names = [row["name"] for row in folded.kernels]
        assert len(names) == len(set(names))
        kernels = sum(
            int(match[1]) if (match := re.search(r"(\d+) kernels", name)) else name.count("+") + 1 for name in names
        )
        assert settings.get("runtime", "eager") != "eager" or kernels == len(phase.kernels)
        assert not any("below" in row["name"] for row in folded.kernels[:-1])
        small = [row for row in folded.kernels if row["of_pass"] < LEAST_SHARE]
        assert len(small) <= 1, "one that is alone keeps its name and place"
        assert all("below" in row["name"] or len(phase.kernels) == len(folded.kernels) for row in small)


def test_a_source_that_is_a_function_folds_by_what_it_quotes() -> None:
    """nanoGPT's lines are not numbered: its attention by hand stays as many kernels as it has statements."""
    (phase,) = made(impl="nanogpt", attn="eager", batch=8, seq=512, phase="prefill").phases
    names = {row["name"].rpartition(".")[2] for row in pass_rows(phase.pass_, phase.totals).kernels}
    assert {"scores", "scale", "softmax", "context"} <= names


def test_products_are_never_folded() -> None:
    for settings in SETTINGS:
        for phase in made(**settings).phases:
            names = {row["name"] for row in pass_rows(phase.pass_, phase.totals).kernels}
            large = (cost for cost in phase.kernels if cost.device_s > LEAST_SHARE * phase.totals.latency_s)
            assert {cost.row.path for cost in large if cost.kernel.shape is not None} <= names


def test_a_bar_and_colours_on_a_terminal_alone() -> None:
    prediction = made(batch=8, seq=512)
    plain, styled = (text_of(prediction, terminal) for terminal in (False, True))
    assert "█" not in plain.plain()
    assert "\x1b" not in plain.plain() + styled.plain()
    bars = [text.count("█") for line in styled.lines for text, _ in line if "█" in text]
    assert max(bars) == BAR
    compute = [line for line in styled.lines if any("h.mlp.c_fc" in text for text, _ in line)]
    assert {style for line in compute for text, style in line if text.strip() == "compute"} == {"green"}


@pytest.mark.parametrize("width", [80, 100, 120, 160])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_of_a_table_fits(width: int, terminal: bool) -> None:
    page = text_of(made(attn="eager", cache=5), terminal, width)
    tables = [line for line in page.plain().splitlines() if re.search(r"\d%  |of pass|^---", line)]
    assert len(tables) > 40
    assert all(len(line) <= width for line in tables)


def test_a_narrow_terminal_cuts_no_name() -> None:
    """The run that the README explains: its mask's kernels have long names, and its figures many digits."""
    text = text_of(made(batch=8, seq=512, cache=1024), terminal=True, width=80).plain()
    assert "h.attn.float_mask (3 kernels)" in text
    assert "sdpa_masked" in text


def test_what_a_long_text_made_scroll_away_stands_at_its_end() -> None:
    prediction = predict(change_model(load_model("gpt2-xl"), {"n_positions": 64}), "t4", batch=99, seq=512)
    lines = text_of(prediction).plain().splitlines()
    assert len(prediction.warnings) == 3
    assert lines[-3:] == [f"warning: {warning}" for warning in prediction.warnings]
