"""A prediction as rows, as a document, as text and as Markdown: the only list of its output fields.

A row's figures are totals over its `count` launches, so rows sum to the totals, and its formulas, evaluated with the
phase's `symbols`, give the figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from gpt2cost.output.formats import figures, to_markdown
from gpt2cost.output.page import Page, table_of
from gpt2cost.output.record import (
    FLOPS_CONVENTION,
    MODEL,
    Field,
    Record,
    View,
    attribute,
    calibration,
    envelope,
    hardware_head,
    how_record,
    record_of,
    sizes_record,
)
from gpt2cost.prediction.explain import Explanation, KernelExplanation, explain
from gpt2cost.prediction.one_pass import KernelCost
from gpt2cost.prediction.predict import MemoryUse, Phase, Prediction
from gpt2cost.table.citations import transformers_version
from gpt2cost.units import format_quantity, scale_for

GROUPS = ("kernel", "module", "layer")
"""What a row of a pass may be."""


@dataclass(frozen=True)
class CostRow:
    """One row of a pass: a kernel, or the kernels of a module or of a layer together."""

    name: str
    costs: tuple[KernelCost, ...]
    pass_device_s: float

    def sum(self, name: str) -> Any:
        """A figure of the kernels, summed."""
        return sum(getattr(cost, name) for cost in self.costs)

    @property
    def cost(self) -> KernelCost:
        """The first kernel: the only one of a row that is a kernel."""
        return self.costs[0]

    @property
    def kind(self) -> str:
        """The kind of its kernels, `mixed` where they are of several."""
        return self.cost.kernel.kind if len({cost.kernel.kind for cost in self.costs}) == 1 else "mixed"

    @property
    def bound(self) -> Any:
        """What bounds the slowest of its kernels."""
        return max(self.costs, key=lambda cost: float(cost.device_s)).bound

    def formula(self, name: str) -> str:
        """The formula of a kernel's figure over all its launches."""
        return str(getattr(self.cost.kernel, name) * self.cost.row.count)


def _sum(key: str, header: str, unit: str, name: str = "") -> Field[CostRow]:
    return Field(key, header, unit, lambda row: row.sum(name or key))


NAME: Field[CostRow] = Field("name", "kernel", "", lambda row: row.name)
SHORT_NAME: Field[CostRow] = Field("name", "kernel", "", lambda row: row.name.removeprefix("transformer."))
COUNT, FLOPS, DEVICE_S = _sum("count", "count", ""), _sum("flops", "", "FLOP"), _sum("device_s", "", "s")
READ, WRITTEN = _sum("read_bytes", "read", "B"), _sum("write_bytes", "written", "B")
MOVED = _sum("moved_bytes", "", "B")
SHARE: Field[CostRow] = Field("share", "share", "%", lambda row: row.sum("device_s") / row.pass_device_s)
BOUND = attribute("bound", "bound")
INTENSITY: Field[CostRow] = Field(
    "arithmetic_intensity", "FLOP/B", ".", lambda row: row.sum("flops") / (row.sum("moved_bytes") or 1)
)
SOURCE: Field[CostRow] = Field("source", "source", "", lambda row: str(row.cost.kernel.source))

COST: tuple[Field[CostRow], ...] = (
    NAME,
    Field("op", "", "", lambda row: row.cost.kernel.op if len(row.costs) == 1 else None),
    attribute("kind"),
    COUNT, FLOPS, READ, WRITTEN, DEVICE_S, SHARE, BOUND, INTENSITY,
)  # fmt: skip
"""The fields of every row."""
FORMULAS: tuple[Field[CostRow], ...] = (
    Field("flops_formula", "", "", lambda row: row.formula("flops")),
    Field("read_formula", "", "", lambda row: row.formula("reads")),
    Field("write_formula", "", "", lambda row: row.formula("writes")),
    SOURCE,
)
"""And of a row that is a kernel."""


def cost_rows(phase: Phase, group: str = "kernel") -> list[CostRow]:
    """The rows of a pass in the order in which they run: a kernel, a module's own kernels, or a whole layer each."""
    device_s = phase.totals.device_s
    if group == "kernel":
        return [CostRow(cost.row.path, (cost,), device_s) for cost in phase.kernels]
    key: Callable[[KernelCost], str] = {"module": _module_of, "layer": _layer_of}[group]
    groups: dict[str, list[KernelCost]] = {}
    for name, run in groupby(phase.kernels, key=key):
        groups.setdefault(name, []).extend(run)
    return [CostRow(_group_name(name, groups), tuple(costs), device_s) for name, costs in groups.items()]


def _module_of(cost: KernelCost) -> str:
    return cost.row.module or "model"


def _layer_of(cost: KernelCost) -> str:
    return ".".join(cost.row.module.split(".")[:2])


def _group_name(name: str, names: Iterable[str]) -> str:
    """A group's name; that of a module beside whose row there are rows of its parts says that it holds the rest."""
    return f"{name} (own)" if any(other.startswith(f"{name}.") for other in names) else name


def cost_records(phase: Phase, group: str = "kernel") -> list[Record]:
    """The rows of a pass as records."""
    fields = (*COST, *FORMULAS) if group == "kernel" else COST
    return [record_of(fields, row) for row in cost_rows(phase, group)]


# ---------------------------------------------------------------------------------------------- records


def _rows(prediction: Prediction, group: str) -> Iterator[Record]:
    """One flat row per kernel and phase, with every input and the phase's main results, for CSV and JSON lines."""
    inputs = {
        "model": prediction.model.name,
        "gpu": prediction.hardware.name,
        **sizes_record(prediction.sizes),
        **how_record(prediction.how),
        "transformers_version": transformers_version(),
    }
    for phase in prediction.phases:
        own = {
            "phase": phase.phase, "phase_seq_len": phase.seq_len, "phase_cache_len": phase.cache_len,
            "kv_len": phase.kv_len,
        }  # fmt: skip
        totals = phase.totals
        results = {
            "pass_latency_s": totals.latency_s,
            "pass_latency_low_s": totals.latency_low_s,
            "pass_latency_high_s": totals.latency_high_s,
            "pass_bound": totals.bound,
        }
        for record in cost_records(phase, group):
            yield {**inputs, **own, **record, **results}


def _document(prediction: Prediction, group: str, explained: bool) -> Record:
    return {
        **envelope(prediction.model, prediction.hardware),
        "model": record_of(MODEL, prediction.model),
        "hardware": hardware_head(prediction.hardware, prediction.how.dtype),
        "settings": {**sizes_record(prediction.sizes), **how_record(prediction.how)},
        "phases": [
            _phase_document(phase, group) | (_explanation_document(prediction, phase) if explained else {})
            for phase in prediction.phases
        ],
        "memory": dataclasses.asdict(prediction.memory),
        "warnings": list(prediction.warnings),
    }


def _phase_document(phase: Phase, group: str = "kernel") -> Record:
    return {
        "phase": phase.phase,
        "seq_len": phase.seq_len,
        "cache_len": phase.cache_len,
        "kv_len": phase.kv_len,
        "totals": dataclasses.asdict(phase.totals),
        "symbols": dict(phase.symbols),
        "kernels": cost_records(phase, group),
    }


def _explanation_document(prediction: Prediction, phase: Phase) -> Record:
    return {"explanation": dataclasses.asdict(explain(prediction, phase))}


def _markdown(prediction: Prediction, group: str, explained: bool) -> str:
    parts = []
    for phase in prediction.phases:
        totals = to_markdown(figures(dataclasses.asdict(phase.totals)))
        parts.append(f"## {phase.phase}\n\n{to_markdown(cost_records(phase, group))}\n{totals}")
        if explained:
            for name, rows in _explanation_document(prediction, phase)["explanation"].items():
                parts.append(f"### {phase.phase}: {name}\n\n{to_markdown(rows)}")
    return "\n".join([*parts, f"## memory\n\n{to_markdown(figures(dataclasses.asdict(prediction.memory)))}"])


# ---------------------------------------------------------------------------------------------- text


def _text(page: Page, prediction: Prediction, group: str, explained: bool) -> None:
    """The settings, a table per phase, and a summary to act on."""
    page.line(f"{_heading(prediction)}; {FLOPS_CONVENTION}")
    page.line(_memory_line(prediction.memory))
    layouts = [[table_of(layout, cost_rows(phase, group)) for layout in _layouts(group)] for phase in prediction.phases]
    fits = max(page.first_fit(*tables) for tables in layouts)  # one layout for all phases
    for phase, tables in zip(prediction.phases, layouts, strict=True):
        page.line(f"\n{_phase_heading(phase)}\n", style="bold")
        page.table(tables[fits])
        if explained:
            _explanation(page, explain(prediction, phase))
    page.line()
    for phase in prediction.phases:
        page.line(_phase_line(phase, calibration(prediction.hardware, prediction.how.dtype)))
    if fits < 2 and group == "kernel":
        page.line(f"source: lines of transformers {transformers_version()}")


def _heading(prediction: Prediction) -> str:
    model, how = prediction.model, prediction.how
    cached = "" if how.use_cache else ", no KV cache"
    return (
        f"{model.name} ({format_quantity(model.parameters, '')} parameters) on {prediction.hardware.name},"
        f" {how.dtype}, {how.attn} attention, {how.runtime} runtime{cached}; logits of {how.logits} positions"
    )


def _phase_heading(phase: Phase) -> str:
    sizes = f"{phase.batch_size} x {phase.seq_len} new tokens on {phase.cache_len} cached"
    return f"{phase.phase}: {sizes}, {phase.totals.launches} launches"


def _layouts(group: str) -> list[tuple[Field[CostRow], ...]]:
    """The columns of a pass, the fullest layout first."""
    head, tail = (SHORT_NAME, COUNT, FLOPS), (DEVICE_S, SHARE, BOUND)
    source = (SOURCE,) if group == "kernel" else ()
    return [
        (*head, READ, WRITTEN, INTENSITY, *tail, *source),
        (*head, MOVED, *tail, *source),
        (*head, MOVED, *tail),
    ]


def _phase_line(phase: Phase, trust: str) -> str:
    totals = phase.totals
    low, high = (format_quantity(value, "s") for value in (totals.latency_low_s, totals.latency_high_s))
    slowest = max(cost_rows(phase), key=lambda row: float(row.sum("device_s")))
    slow = f"{SHARE.get(slowest):.0%} of it in {SHORT_NAME.get(slowest)}"
    busy = min(1.0, totals.device_s / totals.latency_s)
    advice = {
        "host": f"the GPU is busy {busy:.0%} of the time; a larger batch or cuda-graph uses it",
        "compute": f"{totals.flops_utilization:.0%} of peak FLOP/s; {slow}",
        "memory": f"{totals.bandwidth_utilization:.0%} of peak bandwidth; {slow}",
        "launch": f"{totals.launches} short kernels; fusing them (compile) or a larger batch helps",
    }[totals.bound]
    return (
        f"{phase.phase}: {format_quantity(totals.latency_s, 's')} ({low} to {high}, {trust}),"
        f" {format_quantity(totals.tokens_per_s, '')} tokens/s, {totals.bound}-bound: {advice}"
    )


def _memory_line(memory: MemoryUse) -> str:
    weights, cache, live, total, capacity = (
        format_quantity(value, "B")
        for value in (
            memory.weights_bytes, memory.kv_cache_bytes, memory.activations_bytes, memory.total_bytes,
            memory.capacity_bytes,
        )
    )  # fmt: skip
    fits = "fits" if memory.fits else "does NOT fit"
    return f"memory: {total} of {capacity}, {fits} (weights {weights}, KV cache {cache}, activations {live})"


def _explanation(page: Page, explanation: Explanation) -> None:
    seconds = ("total device_s", "least speed_of_light_s", "compute compute_s", "waves wave_s", "memory memory_s")
    divisor, unit = scale_for([float(kernel.device_s) for kernel in explanation.slowest], "s")

    def column(header: str, key: str) -> Field[KernelExplanation]:
        return Field(key, header, ".", lambda kernel: float(getattr(kernel, key)) / divisor)

    name: Field[KernelExplanation] = Field(
        "name", "slowest kernels", "", lambda kernel: kernel.name.removeprefix("transformer.")
    )
    total, least, *terms = (column(*text.split()) for text in (*seconds, "launch launch_s", "host host_s"))
    page.line(f"\nwhere the time goes, in {unit}; terms overlap; least: speed of light; gap: total over least\n")
    page.fields(explanation.slowest, (name, total, least, attribute("gap", "gap", "x"), *terms))
    page.line()
    for change in explanation.sensitivity:
        faster = f"{change.speedup:.2f}x as fast" if change.speedup >= 1.005 else "no faster"
        page.line(f"with {change.change}: {format_quantity(change.latency_s, 's')}, {faster}")


# ---------------------------------------------------------------------------------------------- views


def prediction_view(group: str = "kernel", explained: bool = False) -> View[Prediction]:
    """A prediction with rows of one of `GROUPS`; `explained` adds what bounds each phase and what would help."""
    return View(
        rows=lambda prediction: _rows(prediction, group),
        document=partial(_document, group=group, explained=explained),
        text=partial(_text, group=group, explained=explained),
        summary=_summary,
        markdown=partial(_markdown, group=group, explained=explained),
    )


def _summary(prediction: Prediction) -> tuple[str, ...]:
    return f"<Prediction: {_heading(prediction)}", f" {_latencies(prediction.phases)}>"


def _latencies(phases: Iterable[Phase]) -> str:
    """What each phase takes; of a grid only its shape."""

    def latency(phase: Phase) -> str:
        seconds = phase.totals.latency_s
        return format_quantity(seconds, "s") if isinstance(seconds, float) else f"a grid of {seconds.shape}"

    return ", ".join(f"{phase.phase} {latency(phase)}" for phase in phases)


def _phase_text(page: Page, phase: Phase) -> None:
    page.line(f"{_phase_heading(phase)}\n", style="bold")
    page.fields(cost_rows(phase), *_layouts("kernel"))


PHASE: View[Phase] = View(
    rows=cost_records,
    document=_phase_document,
    text=_phase_text,
    summary=lambda phase: (
        f"<Phase {_latencies([phase])}: batch_size {_shown(phase.batch_size)}, seq_len {_shown(phase.seq_len)}",
        f" cache_len {_shown(phase.cache_len)}, {len(phase.kernels)} kernels>",
    ),
)

VIEWS: dict[type, View[Any]] = {Prediction: prediction_view(), Phase: PHASE}


def _shown(size: Any) -> str:
    return str(size) if isinstance(size, int) else f"of shape {size.shape}"
