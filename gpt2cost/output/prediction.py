"""A prediction as rows, as a document, as text and as Markdown: the only list of its output fields.

A row's figures are totals over its `count` launches, so rows sum to the totals, and its formulas, evaluated with the
phase's `symbols`, give the figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from gpt2cost.output import shared
from gpt2cost.output.field import Field, Record, attributes, record_of
from gpt2cost.output.formats import figures, sections
from gpt2cost.output.kernel_rows import cost_records
from gpt2cost.output.page import Page
from gpt2cost.output.pass_text import OF_PASS, PassRows, pass_rows, pass_tables, sums_text
from gpt2cost.output.record import FLOPS_CONVENTION, View, envelope
from gpt2cost.output.shapes import tensors_of
from gpt2cost.output.shared import CHOICE, NAME, SIZES
from gpt2cost.prediction.explain import Advice, Explanation, KernelExplanation, Sensitivity, advice, explain
from gpt2cost.prediction.predict import MemoryUse, Phase, Prediction
from gpt2cost.table.citations import transformers_version
from gpt2cost.table.kernel import Row, short_path
from gpt2cost.table.why.reasons import why
from gpt2cost.units import format_quantity, scale_for

# ---------------------------------------------------------------------------------------------- records

INPUTS = (*CHOICE[:2], *attributes(*SIZES, of="sizes"), *CHOICE[2:])
"""What was asked for: of a prediction, in every row."""
PASS = attributes("phase", "seq_len", "cache_len", "kv_len")
RUNS = (*attributes("total_bytes", "fits", of="memory"), shared.IMPL)
"""The last fields of every row, beside whether the phase is valid: within the model's positions."""
RESULTS = (*attributes("latency_s", "latency_low_s", "latency_high_s"), *shared.TRUST, *attributes("bound"))


def _rows(prediction: Prediction, group: str) -> Iterator[Record]:
    """One flat row per kernel and phase, with every input and the phase's main results, for CSV and JSON lines."""
    inputs = {**record_of(INPUTS, prediction), "transformers_version": transformers_version()}
    renamed = {"seq_len": "phase_seq_len", "cache_len": "phase_cache_len"}  # the run's sizes are among the inputs
    for phase in prediction.phases:
        own = {renamed.get(name, name): value for name, value in record_of(PASS, phase).items()}
        results = {f"pass_{name}": value for name, value in record_of(RESULTS, phase.totals).items()}
        results |= {**record_of(RUNS[:2], prediction), "valid": phase.kv_len <= prediction.model.n_positions}
        for row in _kernels(phase, group, flat=True):
            yield {**inputs, **own, **row, **results, **record_of(RUNS[2:], prediction)}


def _document(prediction: Prediction, group: str, explained: bool) -> Record:
    phases = [_phase_document(phase, group) for phase in prediction.phases]
    if explained:
        for phase, document in zip(prediction.phases, phases, strict=True):
            document["explanation"] = dataclasses.asdict(explain(prediction, phase))
            document["advice"] = list(map(dataclasses.asdict, advice(prediction, phase)))
    return {
        **envelope(prediction.model, prediction.hardware),
        "model": shared.model_record(prediction.model, prediction.how),
        "hardware": shared.hardware_head(prediction.hardware, prediction.how.dtype),
        "settings": record_of((*INPUTS[2:], shared.IMPL), prediction),
        "phases": phases,
        "memory": dataclasses.asdict(prediction.memory),
        "warnings": list(prediction.warnings),
    }


def _phase_document(phase: Phase, group: str = "kernel") -> Record:
    totals, symbols, kernels = dataclasses.asdict(phase.totals), dict(phase.symbols), _kernels(phase, group, flat=False)
    return {**record_of(PASS, phase), "totals": totals, "symbols": symbols, "kernels": kernels}


def _kernels(phase: Phase, group: str, flat: bool) -> list[Record]:
    """The rows of a pass, those of kernels with what they take and give, and in a document with their reasons."""
    records = cost_records(phase, group)
    if group != "kernel":
        return records
    return [
        {**record, **tensors_of(cost.kernel, phase.symbols, flat=flat), **({} if flat else _reason(cost.row))}
        for record, cost in zip(records, phase.kernels, strict=True)
    ]


def _reason(row: Row) -> Record:
    reason = why(row)
    return {"why": reason.does, "removed_by": reason.removed_by}


def _markdown(prediction: Prediction, group: str, explained: bool) -> str:
    document = _document(prediction, group, explained)
    parts: list[tuple[str, list[Record]]] = []
    for own, phase in zip(prediction.phases, document["phases"], strict=True):
        name = phase["phase"]
        parts += [(f"## {name}", cost_records(own, group)), ("", figures(phase["totals"]))]
        parts += [(f"### {name}: {title}", rows) for title, rows in phase.get("explanation", {}).items()]
    return sections(*parts, ("## memory", figures(document["memory"])))


# ---------------------------------------------------------------------------------------------- text


def _text(page: Page, prediction: Prediction, group: str, explained: bool, unfolded: bool) -> None:
    """The settings, a table per phase, and a summary to act on."""
    page.line(f"{_heading(prediction)}; {FLOPS_CONVENTION}")
    page.line(_memory_line(prediction.memory))
    rows = [pass_rows(phase.pass_, phase.totals, group, unfolded) for phase in prediction.phases]
    tables, sourced = pass_tables(page, rows, group)
    for phase, table in zip(prediction.phases, tables, strict=True):
        page.line(f"\n{_phase_heading(phase)}\n", style="bold")
        page.table(table)
        page.line(sums_text(phase.totals, prediction.hardware, prediction.how.dtype))
        if explained:
            _explanation(page, explain(prediction, phase))
    page.line()
    for phase, own in zip(prediction.phases, rows, strict=True):
        found = advice(prediction, phase)
        page.line(_phase_line(prediction, phase, own, any(each.kernels for each in found)))
        for each in found:
            page.line(f"  {_advice_text(each)}")
    page.line(shared.size_text(prediction.model, prediction.how))
    if prediction.hardware.vendor != "cpu" and any(phase.totals.bound == "host" for phase in prediction.phases):
        page.line("the pace of host-bound passes is that of the machine's CPU, not of the GPU: see --host-factor")
    if sourced:
        page.line(f"source: {shared.source_text(prediction.how.impl)}")
    shared.repeat_warnings(page, prediction.warnings)


def _heading(prediction: Prediction) -> str:
    how = prediction.how
    cached = "" if how.use_cache and how.cache_type == "dynamic" else f", {how.cache_text}"
    return f"{shared.run_text(prediction.model, prediction.hardware, how)}{cached}; logits of {how.logits_text}"


def _phase_heading(phase: Phase) -> str:
    kernels = dict.fromkeys(cost.attention_kernel for cost in phase.kernels if cost.attention_kernel)
    attention = f", attention by {', '.join(kernels)}" if kernels else ""
    return f"{phase.phase}: {shared.sizes_text(phase)}, {phase.totals.launches} launches{attention}"


def _phase_line(prediction: Prediction, phase: Phase, rows: PassRows, named: bool) -> str:
    """What a pass takes and what bounds it. `named`: advice below names kernels, so that the slowest need not be."""
    totals = phase.totals
    trust = shared.trust_text(totals.trust, totals.trust_from, prediction.hardware)
    low, high = (format_quantity(value, "s") for value in (totals.latency_low_s, totals.latency_high_s))
    slowest = max(rows.kernels, key=lambda row: float(row["device_s"]))
    slow = "" if named else f"; {OF_PASS.get(slowest):.0%} of it in {NAME.get(slowest)}"
    of_peak = f"{totals.flops_utilization:.0%} of peak FLOP/s{slow}"
    why = {
        "host": f"{_busy(prediction, phase)}; a larger batch helps",
        "compute": of_peak,
        "memory": f"{totals.bandwidth_utilization:.0%} of peak DRAM bandwidth{slow}",
        "l2": f"L2 traffic; DRAM at {totals.bandwidth_utilization:.0%} of peak{slow}",
        "latency": f"too little work at once, or elements one by one, at {of_peak}",
        "launch": f"{totals.launches} short kernels; a larger batch helps",
    }[totals.bound]
    return (
        f"{phase.phase}: {format_quantity(totals.latency_s, 's')} ({low} to {high}, {trust}),"
        f" {format_quantity(totals.tokens_per_s, '')} tokens/s, {totals.bound}-bound: {why}"
    )


def _advice_text(advice: Advice) -> str:
    """What would help, and how much; before it, which kernels would gain."""
    setting, _, value = advice.change.partition(" ")
    change = advice.change if value.startswith("padded") else f"--{setting.replace('_', '-')} {value}"
    saves = f"{change} saves {advice.saves:.0%}"
    names = [short_path(path) for path in advice.kernels]
    if not names:
        return saves
    module = short_path(advice.module)
    what = f"{len(names)} kernels of {module}" if len(names) > 2 else " and ".join(names)
    return f"{advice.share:.0%} of it in {what}: {saves}"


def _busy(prediction: Prediction, phase: Phase) -> str:
    """How much of a host-bound pass the device works: a CPU's host is the same processor."""
    share = min(1.0, phase.totals.device_s / phase.totals.latency_s)
    if prediction.hardware.vendor == "cpu":
        return f"kernels take {share:.0%} of the time, Python and dispatch the rest"
    return f"the GPU is busy {share:.0%} of the time"


def _memory_line(memory: MemoryUse) -> str:
    parts = ("weights", "kv_cache", "activations", "total", "capacity")
    weights, cache, live, total, capacity = (format_quantity(getattr(memory, f"{part}_bytes"), "B") for part in parts)
    fits = "fits" if memory.fits else "does NOT fit"
    return f"memory: {total} of {capacity} usable, {fits} (weights {weights}, KV cache {cache}, activations {live})"


def _explanation(page: Page, explanation: Explanation) -> None:
    slowest_kernels(page, explanation.slowest)
    page.line()
    changes(page, explanation.sensitivity)


def changes(page: Page, sensitivity: Iterable[Sensitivity]) -> None:
    """A line per thing that could be otherwise."""
    for change in sensitivity:
        faster = f"{change.speedup:.2f}x as fast" if change.speedup >= 1.005 else "no faster"
        page.line(f"with {change.change}: {format_quantity(change.latency_s, 's')}, {faster}")


def slowest_kernels(page: Page, kernels: Sequence[KernelExplanation]) -> None:
    """A table of where the time of some kernels goes."""
    divisor, unit = scale_for([float(kernel.device_s) for kernel in kernels], "s")

    def scaled(header: str, key: str) -> Field[KernelExplanation]:
        return Field(key, header, ".", lambda kernel: float(getattr(kernel, key)) / divisor)

    total, least, serial = (
        scaled("total", "device_s"),
        scaled("least", "speed_of_light_s"),
        scaled("latency", "serial_s"),
    )
    compute, memory, l2, *rest = (scaled(name, f"{name}_s") for name in ("compute", "memory", "l2", "launch", "host"))
    terms = "parts overlap; least: at the speed of light; gap: total / least"
    page.line(f"\nwhere the time goes, in {unit}; {terms}\n")
    name: Field[Any] = Field("", "slowest kernels", "", lambda kernel: short_path(kernel.name))
    gap: Field[Any] = Field("", "gap", "x", attrgetter("gap"))
    narrow: Field[Any] = Field("", "gap", ".", attrgetter("gap"))
    parts = (compute, memory, l2, serial, *rest)
    page.fields(kernels, (name, total, least, gap, *parts), (name, total, narrow, *parts))


# ---------------------------------------------------------------------------------------------- views


def prediction_view(group: str = "kernel", explained: bool = False, unfolded: bool = False) -> View[Prediction]:
    """A prediction with rows of one of `GROUPS`; `explained` adds what bounds each phase and what would help, and
    `unfolded` has the text name every kernel."""
    options: dict[str, Any] = {"group": group, "explained": explained}
    return View(
        partial(_rows, group=group),
        partial(_document, **options),
        partial(_text, **options, unfolded=unfolded),
        _summary,
        partial(_markdown, **options),
    )


def _summary(prediction: Prediction) -> tuple[str, str]:
    return f"<Prediction: {_heading(prediction)}", f" {', '.join(map(_latency, prediction.phases))}>"


def _latency(phase: Phase) -> str:
    """What a phase takes; of a grid only its shape."""
    seconds = phase.totals.latency_s
    text = format_quantity(seconds, "s") if isinstance(seconds, float) else f"a grid of {seconds.shape}"
    return f"{phase.phase} {text}"


def _phase_text(page: Page, phase: Phase) -> None:
    page.line(f"{_phase_heading(phase)}\n", style="bold")
    (table,), _ = pass_tables(page, [pass_rows(phase.pass_, phase.totals)], "kernel")
    page.table(table)


def _phase_summary(phase: Phase) -> tuple[str, str]:
    sizes = record_of(attributes(*SIZES), phase)
    batch, seq, cache = (f"{name} {_size(size)}" for name, size in sizes.items())
    return f"<Phase {_latency(phase)}: {batch}, {seq}", f" {cache}, {len(phase.kernels)} kernels>"


def _size(size: Any) -> str:
    return str(size) if isinstance(size, int) else f"of shape {size.shape}"


VIEWS: dict[type, View[Any]] = {
    Prediction: prediction_view(),
    Phase: View(cost_records, _phase_document, _phase_text, _phase_summary),
}
