"""The accuracy gate: errors on the evidence that ships, which no change may raise unseen."""

from __future__ import annotations

from helpers import ROOT

from gpt2cost.measure.score import Scored
from gpt2cost.output.accuracy import summaries

GATE = ROOT / "tests/accuracy_gate.json"


def gate_figures(scored: list[Scored]) -> dict[str, dict[str, float]]:
    """What the gate holds, in percent: the mean and the worst absolute error of each device."""
    return {
        gpu: {
            "mean": round(100 * summary.mean_absolute_error, 2),
            "worst": round(100 * summary.worst_absolute_error, 2),
        }
        for gpu, summary in summaries(scored).items()
    }
