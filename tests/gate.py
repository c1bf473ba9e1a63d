"""The accuracy gate: errors on the evidence that ships, which no change may raise unseen."""

from __future__ import annotations

from helpers import ROOT

from gpt2cost.measure.score import Scored, summary_of

GATE = ROOT / "tests/accuracy_gate.json"


def gate_figures(scored: list[Scored]) -> dict[str, dict[str, float]]:
    """What the gate holds, in percent: the mean and the worst absolute error of each device."""
    figures = {}
    for name in dict.fromkeys(case.hardware.name for case in scored):
        summary = summary_of([case for case in scored if case.hardware.name == name])
        assert summary is not None
        errors = {"mean": summary.mean_absolute_error, "worst": summary.worst_absolute_error}
        figures[name] = {kind: round(100 * error, 2) for kind, error in errors.items()}
    return figures
