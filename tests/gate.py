"""The accuracy gate: errors on the evidence that ships, which no change may raise unseen."""

from __future__ import annotations

from helpers import ROOT

from gpt2cost.measure.score import EvidenceResult
from gpt2cost.output.accuracy import summaries

GATE = ROOT / "tests/accuracy_gate.json"


def gate_figures(results: list[EvidenceResult]) -> dict[str, dict[str, float]]:
    """What the gate holds, in percent: the mean and the worst absolute error of each device."""
    return {
        row["hardware"]: {name: round(100 * row[f"{name}_absolute_error"], 2) for name in ("mean", "worst")}
        for row in summaries(results)
    }
