"""The page's other parts: memory, devices side by side, measured passes, a generation, a training step."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from markupsafe import Markup

from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.measure.score import Scored, score_evidence
from gpt2cost.output.accuracy import run_of_case
from gpt2cost.output.field import Record
from gpt2cost.output.kernel_rows import kernel_records
from gpt2cost.output.pictures.plot_runs import step_parts
from gpt2cost.output.report.charts import generate_charts, train_charts
from gpt2cost.output.report.model import percent, quantity
from gpt2cost.output.shared import how_text, trust_text
from gpt2cost.output.train import MEMORY_PARTS
from gpt2cost.prediction.generate import Generation
from gpt2cost.prediction.predict import MemoryUse, Prediction, predict_run
from gpt2cost.prediction.settings import How
from gpt2cost.prediction.train import Training, TrainPhase
from gpt2cost.table.kernel import short_path

MEMORY = {"weights": "weights", "kv_cache": "KV cache", "activations": "activations"}
MOST_EVIDENCE = 40
"""The most measured passes that the page lists."""
MOST_KERNELS = 12
"""The most kernels of each phase of a training step."""


def stacked(parts: Iterable[tuple[str, float]]) -> list[Record]:
    """Parts of a whole as the stacked bar has them, 1000 wide."""
    sizes = list(parts)
    whole = sum(size for _, size in sizes) or 1.0
    bars, x = [], 0.0
    for key, size in sizes:
        width = 1000 * size / whole
        bars.append({"key": key, "x": x, "width": width})
        x += width
    return bars


def memory_part(memory: MemoryUse) -> Record:
    """What the run holds, beside what the device could give."""
    sizes = {key: float(getattr(memory, f"{key}_bytes")) for key in MEMORY}
    parts = [
        {**bar, "label": MEMORY[bar["key"]], "size": quantity(sizes[bar["key"]], "B")} for bar in stacked(sizes.items())
    ]
    return {"parts": parts, "of": percent(memory.total_bytes / memory.capacity_bytes)}


# ---------------------------------------------------------------------------------------------- devices


def device_rows(prediction: Prediction, others: Sequence[Hardware]) -> list[Record]:
    """A row per device and phase; a device that cannot run it says why."""
    rows = _rows_of(prediction, prediction)
    for hw in others:
        try:
            other = predict_run(prediction.model, hw, prediction.how, prediction.sizes, _phases(prediction))
        except InputError as error:
            rows.append({"name": hw.name, "refused": str(error)})
        else:
            rows += _rows_of(other, prediction)
    return rows


def _phases(prediction: Prediction) -> str:
    return "both" if len(prediction.phases) > 1 else prediction.phases[0].phase


def _rows_of(prediction: Prediction, first: Prediction) -> list[Record]:
    rows = []
    for phase, own in zip(prediction.phases, first.phases, strict=True):
        totals = phase.totals
        rows.append({
            "name": prediction.hardware.name, "refused": "", "phase": phase.phase,
            "latency": quantity(totals.latency_s, "s"),
            "range": range_text(totals.latency_low_s, totals.latency_high_s),
            "ratio": f"{totals.latency_s / own.totals.latency_s:.2f}x", "rate": quantity(totals.tokens_per_s, ""),
            "bound": totals.bound, "fits": "yes" if prediction.memory.fits else "NO",
            "trust": trust_text(totals.trust, totals.trust_from, prediction.hardware),
        })  # fmt: skip
    return rows


def rate_text(tokens_per_s: float) -> str:
    """A throughput."""
    return f"{quantity(tokens_per_s, '')}\u00a0tokens/s"


def range_text(low_s: float, high_s: float) -> str:
    """A range of seconds."""
    return f"{quantity(low_s, 's')} to {quantity(high_s, 's')}"


# ---------------------------------------------------------------------------------------------- evidence


def evidence_part(hw: Hardware, how: How) -> Record:
    """The measured passes of a device's file beside their predictions; those of the page's dtype come first."""
    scored = sorted(score_evidence([hw]), key=lambda case: case.case.row.dtype != how.dtype) if hw.evidence else []
    inside = sum(case.inside for case in scored)
    hidden = len(scored) - MOST_EVIDENCE
    more = f"; {hidden} more are in gpt2cost accuracy --gpu {hw.name}" if hidden > 0 else ""
    note = (
        f"Passes that were measured on {hw.name}, beside their predictions: {inside} of {len(scored)} lie in the range"
        f" that has seen nothing of their source{more}. Error: predicted / measured - 1."
    )
    return {"rows": list(map(_case, scored[:MOST_EVIDENCE])), "note": note}


def _case(scored: Scored) -> Record:
    run = run_of_case(scored)
    return {
        "model": run.model, "run": f"{run.sizes.text}, {how_text(run.how)}",
        "measured": quantity(scored.measured_s, "s"), "predicted": quantity(scored.predicted_s, "s"),
        "error": f"{100 * scored.error:+.1f}%", "range": range_text(scored.low_s, scored.high_s),
        "inside": "yes" if scored.inside else "NO", "source": breakable(scored.case.row.source),
    }  # fmt: skip


def breakable(text: str) -> Markup:
    """A text that a line may end in after a slash or an @, not within a name."""
    return Markup("<wbr>").join(re.split("(?<=[/@])", text))


# ---------------------------------------------------------------------------------------------- generate


def generate_part(run: Generation | None) -> Record | None:
    """A generation: its figures, and where its bound changes."""
    if run is None:
        return None
    settings, first = run.settings, run.first
    whole = range_text(run.summed("latency_low_s"), run.summed("latency_high_s"))
    facts = [
        ("time to first token", quantity(run.ttft_s, "s"), range_text(first.latency_low_s, first.latency_high_s)),
        ("all tokens", quantity(run.total_s, "s"), whole),
        ("throughput", rate_text(run.tokens_per_s), f"of {settings.batch_size} sequences"),
        ("in generate, around the passes", percent(run.summed("generate_s") / run.total_s), "of the time"),
        ("memory", quantity(run.peak_bytes, "B"), "fits" if run.fits else "does not fit"),
    ]  # fmt: skip
    if run.tpot_mean_s is not None and run.tpot_first_s is not None and run.tpot_last_s is not None:
        ends = f"{quantity(run.tpot_first_s, 's')} for the first, {quantity(run.tpot_last_s, 's')} for the last"
        facts.insert(1, ("time per further token", quantity(run.tpot_mean_s, "s"), ends))
    lead = (
        f"{settings.new_tokens} tokens after prompts of {settings.prompt_tokens}, for {settings.batch_size}"
        f" sequence{'s' if settings.batch_size > 1 else ''}, {settings.how.cache_text}."
    )
    return {
        "tokens": settings.new_tokens, "lead": lead, "facts": facts, "stretches": run.stretches,
        "charts": generate_charts(run), "trust": _generation_trust(run),
        "rate": rate_text(run.tokens_per_s), "warning": "; ".join(run.warnings),
        "total": quantity(run.total_s, "s"), "range": whole,
    }  # fmt: skip


def _generation_trust(run: Generation) -> str:
    """How far to trust it: of the last token, of which there are most."""
    turn = run.rest if len(run.positions) else run.first
    word, source = (str(np.ravel(values)[-1]) for values in (turn.trust, turn.trust_from))
    return trust_text(word, source, run.hardware)


# ---------------------------------------------------------------------------------------------- train


def train_part(training: Training | None) -> Record | None:
    """A training step: its figures, its parts, its memory and its slowest kernels."""
    if training is None:
        return None
    step, batch, memory = training.step, training.batch, training.memory
    parts = step_parts(step)
    bars = [
        {**bar, "name": bar["key"], "share": percent(bar["width"] / 1000), "line": list(parts).index(bar["key"])}
        for bar in stacked((name, float(seconds)) for name, seconds in parts.items() if seconds)
    ]
    capacity = f"{'fits' if memory.fits else 'does not fit'}, of {quantity(memory.capacity_bytes, 'B')}"
    facts = [
        ("step", quantity(step.step_s, "s"), range_text(step.step_low_s, step.step_high_s)),
        ("throughput", rate_text(step.tokens_per_s), f"{batch.global_tokens:,} tokens in a step"),
        ("MFU", percent(step.mfu), "as nanoGPT counts"),
        ("HFU", percent(step.hfu), "of the products that run"),
        ("memory", quantity(memory.total_bytes, "B"), capacity),
        ("largest micro-batch", str(training.max_micro_batch), "that fits"),
    ]
    gpus = f"{batch.gpus} GPUs" if batch.gpus > 1 else "1 GPU"
    how = training.train
    run = (
        f"{how_text(how.how, how.precision)}, {gpus},"
        f" micro-batch {batch.micro_batch} x {batch.seq_len} tokens, {batch.grad_accum} in a step,"
        f" {how.optimizer}"
    )
    sizes = [(name, quantity(getattr(memory, key), "B")) for key, name in MEMORY_PARTS.items() if getattr(memory, key)]
    return {
        "run": run, "warning": "; ".join(training.warnings), "facts": facts, "parts": bars,
        "memory": [*sizes, ("total", quantity(memory.total_bytes, "B"))],
        "peak_at": memory.peak_at, "charts": train_charts(training), "phases": list(map(_train_phase, training.phases)),
        "step": facts[0][1], "range": facts[0][2], "bound": step.bound, "rate": facts[1][1],
        "trust": trust_text(training.trust, training.trust_from, training.hardware),
    }  # fmt: skip


def _train_phase(phase: TrainPhase) -> Record:
    records = kernel_records(phase.kernels, phase.pass_.device_s)
    slowest = sorted(records, key=lambda row: -float(row["device_s"]))[:MOST_KERNELS]
    times = "once" if phase.count == 1 else f"{phase.count} times"
    rows = [
        {
            "name": short_path(row["name"]), "kind": row["kind"], "count": f"{row['count']:,}",
            "flops": quantity(row["flops"], "FLOP"), "moved": quantity(row["read_bytes"] + row["write_bytes"], "B"),
            "s": quantity(row["device_s"], "s"), "share": percent(row["share"]), "bound": row["bound"],
        }
        for row in slowest
    ]  # fmt: skip
    hidden = len(records) - len(rows)
    title = f"{phase.phase.replace('_', ' ')}: {times} per step, {quantity(phase.pass_.device_s, 's')} of the device"
    return {"title": title, "rows": rows, "more": f"and {hidden} more kernels" if hidden > 0 else ""}
