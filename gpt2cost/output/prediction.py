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
from gpt2cost.output.field import Field, Record, attributes, column, record_of
from gpt2cost.output.formats import figures, sections
from gpt2cost.output.page import Page, table_of
from gpt2cost.output.record import FLOPS_CONVENTION, View, envelope
from gpt2cost.output.shared import BOUND, CHOICE, COUNT, DEVICE_S, FLOPS, INTENSITY, MOVED, NAME, SHARE, SIZES
from gpt2cost.output.table import FORMULAS
from gpt2cost.prediction.explain import (
    Explanation,
    KernelExplanation,
    Sensitivity,
    explain,
    paddings_that_help,
    runtime_that_helps,
)
from gpt2cost.prediction.one_pass import KernelCost
from gpt2cost.prediction.predict import MemoryUse, Phase, Prediction
from gpt2cost.table.citations import transformers_version
from gpt2cost.units import format_quantity, scale_for

GROUPS = ("kernel", "module", "layer")
"""What a row of a pass may be."""
SUMS = ("count", "flops", "read_bytes", "write_bytes", "device_s")
"""The figures of a row that are those of its kernels, summed."""


def cost_records(phase: Phase, group: str = "kernel") -> list[Record]:
    """The rows of a pass in the order in which they run: a kernel, a module's own kernels, or a whole layer each."""
    return kernel_records(phase.kernels, phase.totals.device_s, group)


def kernel_records(kernels: Sequence[KernelCost], device_s: Any, group: str = "kernel") -> list[Record]:
    """The same of the kernels of any pass, whose shares are of `device_s`."""
    if group == "kernel":
        return [{**_record(cost.row.path, [cost], device_s), **record_of(FORMULAS, cost.row)} for cost in kernels]
    groups: dict[str, list[KernelCost]] = {}
    for cost in kernels:
        name = cost.row.module if group == "module" else ".".join(cost.row.module.split(".")[:2])
        name = name or "model"
        groups.setdefault(name, []).append(cost)
    return [_record(_group_name(name, groups), costs, device_s) for name, costs in groups.items()]


def _record(name: str, costs: Sequence[KernelCost], pass_device_s: Any) -> Record:
    """A kernel, or several together: their sums, their kind if they are all of one, the bound of the slowest."""
    kinds = {cost.kernel.kind for cost in costs}
    sums = {key: sum(getattr(cost, key) for cost in costs) for key in SUMS}
    return {
        "name": name,
        "op": costs[0].kernel.op if len(costs) == 1 else None,
        "kind": kinds.pop() if len(kinds) == 1 else "mixed",
        "attention_kernel": next((cost.attention_kernel for cost in costs if cost.attention_kernel), None),
        **sums,
        "share": sums["device_s"] / pass_device_s,
        "bound": max(costs, key=lambda cost: float(cost.device_s)).bound,
        "arithmetic_intensity": sums["flops"] / (MOVED.get(sums) or 1),
    }


def _group_name(name: str, names: Iterable[str]) -> str:
    """A group's name; that of a module beside whose row there are rows of its parts says that it holds the rest."""
    return f"{name} (own)" if any(other.startswith(f"{name}.") for other in names) else name


# ---------------------------------------------------------------------------------------------- records

INPUTS = (*CHOICE[:2], *attributes(*SIZES, of="sizes"), *CHOICE[2:])
"""What was asked for: of a prediction, in every row."""
PASS = attributes("phase", "seq_len", "cache_len", "kv_len")
RESULTS = (*attributes("latency_s", "latency_low_s", "latency_high_s"), *shared.TRUST, *attributes("bound"))


def _rows(prediction: Prediction, group: str) -> Iterator[Record]:
    """One flat row per kernel and phase, with every input and the phase's main results, for CSV and JSON lines."""
    inputs = {**record_of(INPUTS, prediction), "transformers_version": transformers_version()}
    renamed = {"seq_len": "phase_seq_len", "cache_len": "phase_cache_len"}  # the run's sizes are among the inputs
    for phase in prediction.phases:
        own = {renamed.get(name, name): value for name, value in record_of(PASS, phase).items()}
        results = {f"pass_{name}": value for name, value in record_of(RESULTS, phase.totals).items()}
        for row in cost_records(phase, group):
            yield {**inputs, **own, **row, **results, **record_of((shared.IMPL,), prediction)}


def _document(prediction: Prediction, group: str, explained: bool) -> Record:
    phases = [_phase_document(phase, group) for phase in prediction.phases]
    if explained:
        for phase, document in zip(prediction.phases, phases, strict=True):
            document["explanation"] = dataclasses.asdict(explain(prediction, phase))
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
    totals, symbols = dataclasses.asdict(phase.totals), dict(phase.symbols)
    return {**record_of(PASS, phase), "totals": totals, "symbols": symbols, "kernels": cost_records(phase, group)}


def _markdown(prediction: Prediction, group: str, explained: bool) -> str:
    document = _document(prediction, group, explained)
    parts: list[tuple[str, list[Record]]] = []
    for phase in document["phases"]:
        name = phase["phase"]
        parts += [(f"## {name}", phase["kernels"]), ("", figures(phase["totals"]))]
        parts += [(f"### {name}: {title}", rows) for title, rows in phase.get("explanation", {}).items()]
    return sections(*parts, ("## memory", figures(document["memory"])))


# ---------------------------------------------------------------------------------------------- text


def _text(page: Page, prediction: Prediction, group: str, explained: bool) -> None:
    """The settings, a table per phase, and a summary to act on."""
    page.line(f"{_heading(prediction)}; {FLOPS_CONVENTION}")
    page.line(_memory_line(prediction.memory))
    rows = [cost_records(phase, group) for phase in prediction.phases]
    layouts = [[table_of(layout, own) for layout in kernel_layouts(group)] for own in rows]
    fits = max(page.first_fit(*tables) for tables in layouts)  # one layout for all phases
    for phase, tables in zip(prediction.phases, layouts, strict=True):
        page.line(f"\n{_phase_heading(phase)}\n", style="bold")
        page.table(tables[fits])
        if explained:
            _explanation(page, explain(prediction, phase))
    page.line()
    for phase, own in zip(prediction.phases, rows, strict=True):
        page.line(_phase_line(prediction, phase, own))
    if prediction.hardware.vendor != "cpu" and any(phase.totals.bound == "host" for phase in prediction.phases):
        page.line("the pace of host-bound passes is that of the machine's CPU, not of the GPU: see --host-factor")
    if fits < 2 and group == "kernel":
        page.line(f"source: {shared.source_text(prediction.how.impl)}")


def _heading(prediction: Prediction) -> str:
    how = prediction.how
    cached = "" if how.use_cache and how.cache_type == "dynamic" else f", {how.cache_text}"
    return f"{shared.run_text(prediction.model, prediction.hardware, how)}{cached}; logits of {how.logits} positions"


def _phase_heading(phase: Phase) -> str:
    kernels = dict.fromkeys(cost.attention_kernel for cost in phase.kernels if cost.attention_kernel)
    attention = f", attention by {', '.join(kernels)}" if kernels else ""
    return f"{phase.phase}: {shared.sizes_text(phase)}, {phase.totals.launches} launches{attention}"


def kernel_layouts(group: str) -> list[tuple[Field[Record], ...]]:
    """The columns of a pass, the fullest layout first."""
    read, written = column("read_bytes", "read", "B"), column("write_bytes", "written", "B")
    source = column("source", "source")
    full = (NAME, COUNT, FLOPS, read, written, INTENSITY, DEVICE_S, SHARE, BOUND)
    short = (NAME, COUNT, FLOPS, dataclasses.replace(MOVED, header=""), DEVICE_S, SHARE, BOUND)
    if group == "kernel":
        return [(*full, source), (*short, source), short]
    return [full, tuple(field for field in full if field is not INTENSITY), short]


def _phase_line(prediction: Prediction, phase: Phase, rows: list[Record]) -> str:
    totals = phase.totals
    trust = shared.trust_text(totals.trust, totals.trust_from, prediction.hardware)
    low, high = (format_quantity(value, "s") for value in (totals.latency_low_s, totals.latency_high_s))
    slowest = max(rows, key=lambda row: float(row["device_s"]))
    slow = f"{SHARE.get(slowest):.0%} of it in {NAME.get(slowest)}"
    runtime = runtime_that_helps(prediction, phase)
    wider = f"a larger batch or {runtime}" if runtime else "a larger batch"
    advice = {
        "host": f"{_busy(prediction, phase)}; {wider} helps",
        "compute": f"{totals.flops_utilization:.0%} of peak FLOP/s; {slow}",
        "memory": f"{totals.bandwidth_utilization:.0%} of peak DRAM bandwidth; {slow}",
        "l2": f"L2 traffic; DRAM at {totals.bandwidth_utilization:.0%} of peak; {slow}",
        "latency": f"too little work at once, at {totals.flops_utilization:.0%} of peak FLOP/s; {slow}",
        "launch": f"{totals.launches} short kernels; {wider} helps",
    }[totals.bound]
    paddings = (f"; {change.change}: {change.speedup:.2f}x as fast" for change in paddings_that_help(prediction, phase))
    return (
        f"{phase.phase}: {format_quantity(totals.latency_s, 's')} ({low} to {high}, {trust}),"
        f" {format_quantity(totals.tokens_per_s, '')} tokens/s, {totals.bound}-bound: {advice}{''.join(paddings)}"
    )


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
    page.line(f"\nwhere the time goes, in {unit}; terms overlap; least: speed of light; gap: total over least\n")
    name: Field[Any] = Field("", "slowest kernels", "", lambda kernel: kernel.name.removeprefix("transformer."))
    gap: Field[Any] = Field("", "gap", "x", attrgetter("gap"))
    page.fields(kernels, (name, total, least, gap, compute, memory, l2, serial, *rest))


# ---------------------------------------------------------------------------------------------- views


def prediction_view(group: str = "kernel", explained: bool = False) -> View[Prediction]:
    """A prediction with rows of one of `GROUPS`; `explained` adds what bounds each phase and what would help."""
    options: dict[str, Any] = {"group": group, "explained": explained}
    return View(
        partial(_rows, group=group),
        partial(_document, **options),
        partial(_text, **options),
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
    page.fields(cost_records(phase), *kernel_layouts("kernel"))


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
