"""`Prediction` to plain rows: the only list of output fields. Everything that prints a figure takes it from here.

Keys carry their unit (`_s`, `_bytes`, `_per_s`); values are SI. A row's figures are totals over its `count` launches,
so rows sum to the totals, and its formulas, evaluated with the phase's `symbols`, give the figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from gpt2cost.device.hardware import Hardware
from gpt2cost.output.catalog import model_record
from gpt2cost.output.page import Column, Page, first_fit, grid, scaled_column, short_number, text_column
from gpt2cost.output.record import FLOPS_CONVENTION, Record, calibration, envelope
from gpt2cost.prediction.explain import explain
from gpt2cost.prediction.one_pass import KernelCost
from gpt2cost.prediction.predict import Phase, Prediction
from gpt2cost.prediction.ranges import spread
from gpt2cost.table.citations import transformers_version
from gpt2cost.units import format_quantity, scale_for

GROUPS = ("kernel", "module", "layer")


# ---------------------------------------------------------------------------------------------- predictions


def prediction_record(prediction: Prediction, group: str = "kernel", explained: bool = False) -> Record:
    """The whole prediction of a single point as a JSON-ready object; `explained` adds each phase's explanation."""
    return {
        **envelope(),
        "flops_convention": FLOPS_CONVENTION,
        "transformers_version": transformers_version(),
        "model": model_record(prediction.model),
        "hardware": _hardware_head(prediction.hardware, prediction.settings.dtype),
        "settings": _settings_record(prediction),
        "phases": [_phase_record(prediction, phase, group, explained) for phase in prediction.phases],
        "memory": dataclasses.asdict(prediction.memory),
        "what_if": {"model": dict(prediction.model.changes), "hardware": prediction.hardware.changes},
        "warnings": list(prediction.warnings),
    }


def _settings_record(prediction: Prediction) -> Record:
    settings = dataclasses.asdict(prediction.settings)
    del settings["variants"]
    return settings


def _hardware_head(hardware: Hardware, dtype: str) -> Record:
    return {
        "name": hardware.name,
        "vendor": hardware.vendor,
        "architecture": hardware.architecture,
        "calibration": calibration(hardware, dtype),
        "range_basis": spread(hardware, dtype).basis,
        "borrowed": dict(hardware.borrowed),
    }


def _phase_record(prediction: Prediction, phase: Phase, group: str, explained: bool) -> Record:
    explanation = dataclasses.asdict(explain(prediction, phase)) if explained else {}
    return {
        "phase": phase.phase,
        "seq_len": phase.seq_len,
        "cache_len": phase.cache_len,
        "kv_len": phase.kv_len,
        "totals": dataclasses.asdict(phase.totals),
        "symbols": dict(phase.symbols),
        "kernels": list(cost_records(phase, group)),
        **({"explanation": explanation} if explained else {}),
    }


def cost_records(phase: Phase, group: str = "kernel") -> Iterator[Record]:
    """One record a kernel, or a module, or a layer (a direct part of the model), in the order in which they run."""
    if group == "kernel":
        for cost in phase.kernels:
            yield _cost_record(phase, cost.row.path, [cost]) | _formulas(cost)
        return
    parts = {"module": _module_of, "layer": _layer_of}[group]
    for name, costs in _gathered(phase.kernels, parts):
        yield _cost_record(phase, name, costs)


def _gathered(costs: Iterable[KernelCost], key: Any) -> Iterator[tuple[str, list[KernelCost]]]:
    """Costs by `key`, in the order of first appearance."""
    groups: dict[str, list[KernelCost]] = {}
    for name, run in groupby(costs, key=key):
        groups.setdefault(name, []).extend(run)
    yield from groups.items()


def _module_of(cost: KernelCost) -> str:
    return cost.row.module or "model"


def _layer_of(cost: KernelCost) -> str:
    parts = cost.row.module.split(".")
    return ".".join(parts[:2])


def _cost_record(phase: Phase, name: str, costs: list[KernelCost]) -> Record:
    kernels = [cost.kernel for cost in costs]
    flops, reads, writes, device_s, launches = (
        sum(getattr(cost, field) for cost in costs)
        for field in ("flops", "read_bytes", "write_bytes", "device_s", "count")
    )
    slowest = max(costs, key=lambda cost: float(cost.device_s))
    moved = reads + writes
    return {
        "name": name,
        "op": kernels[0].op if len(costs) == 1 else None,
        "kind": kernels[0].kind if len({kernel.kind for kernel in kernels}) == 1 else "mixed",
        "count": launches,
        "flops": flops,
        "read_bytes": reads,
        "write_bytes": writes,
        "device_s": device_s,
        "share": device_s / phase.totals.device_s,
        "bound": slowest.bound,
        "arithmetic_intensity": flops / moved if moved else 0.0,
    }


def _formulas(cost: KernelCost) -> Record:
    kernel = cost.kernel
    return {
        "flops_formula": str(kernel.flops * cost.row.count),
        "read_formula": str(kernel.reads * cost.row.count),
        "write_formula": str(kernel.writes * cost.row.count),
        "source": str(kernel.source),
    }


def flat_records(prediction: Prediction, group: str = "kernel") -> Iterator[Record]:
    """One flat row a kernel and phase, every input and the phase's main results echoed: for CSV and JSON lines."""
    settings = _settings_record(prediction)
    inputs = {"model": prediction.model.name, "gpu": prediction.hardware.name}
    inputs |= {f"input_{name}" if name.endswith("_len") else name: value for name, value in settings.items()}
    for phase in prediction.phases:
        sizes = {"phase": phase.phase, "seq_len": phase.seq_len, "cache_len": phase.cache_len, "kv_len": phase.kv_len}
        totals = phase.totals
        results = {
            "pass_latency_s": totals.latency_s,
            "pass_latency_low_s": totals.latency_low_s,
            "pass_latency_high_s": totals.latency_high_s,
            "pass_bound": totals.bound,
        }
        for record in cost_records(phase, group):
            yield {**inputs, **sizes, **record, **results}


# ---------------------------------------------------------------------------------------------- predict


def render_prediction(page: Page, document: Record) -> None:
    """A prediction: the settings, a table a phase, and a summary to act on."""
    model, hardware, settings = document["model"], document["hardware"], document["settings"]
    cached = "" if settings["use_cache"] else ", no KV cache"
    page.line(
        f"{model['name']} ({format_quantity(model['parameters'], '')} parameters) on {hardware['name']}",
        f", {settings['dtype']}, {settings['attn']} attention, {settings['runtime']} runtime{cached}",
        f"; logits of {settings['logits']} positions; {document['flops_convention']}",
    )
    page.line(_memory_summary(document["memory"]))
    pairs = [
        (phase, [grid(columns, phase["kernels"]) for columns in _cost_layouts(phase["kernels"])])
        for phase in document["phases"]
    ]
    fits = max(first_fit(layouts, page.width) for _, layouts in pairs)  # one for all phases
    for phase, layouts in pairs:
        totals = phase["totals"]
        sizes = f"{settings['batch_size']} x {phase['seq_len']} new tokens on {phase['cache_len']} cached"
        page.line(f"\n{phase['phase']}: {sizes}, {totals['launches']} launches\n", style="bold")
        page.table(layouts[fits])
        if "explanation" in phase:
            _render_explanation(page, phase["explanation"])
    page.line()
    for phase in document["phases"]:
        page.line(_phase_summary(phase, hardware["calibration"]))


def _render_explanation(page: Page, explanation: Record) -> None:
    slowest, sensitivity = explanation["slowest"], explanation["sensitivity"]
    divisor, unit = scale_for([float(record["device_s"]) for record in slowest], "s")

    def seconds(label: str, key: str) -> Column:
        return Column(label, lambda record: short_number(float(record[key]) / divisor))

    columns = [
        Column("slowest kernels", lambda record: record["name"].removeprefix("transformer."), "left"),
        seconds("total", "device_s"),
        seconds("least", "speed_of_light_s"),
        Column("gap", lambda record: f"{short_number(record['gap'])}x"),
        seconds("compute", "compute_s"),
        seconds("waves", "wave_s"),
        seconds("memory", "memory_s"),
        seconds("launch", "launch_s"),
        seconds("host", "host_s"),
    ]
    page.line(f"\nwhere the time goes, in {unit}; terms overlap; least: speed of light; gap: total over least\n")
    page.table(grid(columns, slowest))
    page.line()
    for change in sensitivity:
        faster = f"{change['speedup']:.2f}x as fast" if change["speedup"] >= 1.005 else "no faster"
        page.line(f"with {change['change']}: {format_quantity(change['latency_s'], 's')}, {faster}")


def _cost_layouts(records: list[Record]) -> list[list[Column]]:
    """The columns of a cost table, the fullest layout first."""
    name = Column("kernel", lambda record: record["name"].removeprefix("transformer."), "left")
    share = Column("share", lambda record: f"{100 * record['share']:.1f}%")
    head = [name, Column("count", lambda record: f"{record['count']}"), scaled_column("", "FLOP", records, "flops")]
    tail = [scaled_column("", "s", records, "device_s"), share, text_column("bound", "bound")]
    intensity = Column("FLOP/B", lambda record: short_number(record["arithmetic_intensity"]))
    apart = [scaled_column("read", "B", records, "read_bytes"), scaled_column("written", "B", records, "write_bytes")]
    moved = scaled_column("", "B", records, lambda record: record["read_bytes"] + record["write_bytes"])
    source = [text_column("source", "source")] if records and "source" in records[0] else []
    return [
        [*head, *apart, intensity, *tail, *source],
        [*head, moved, *tail, *source],
        [*head, moved, *tail],
    ]


def _phase_summary(phase: Record, calibration: str) -> str:
    totals = phase["totals"]
    low, high = (format_quantity(totals[f"latency_{end}_s"], "s") for end in ("low", "high"))
    slowest = max(phase["kernels"], key=lambda record: float(record["device_s"]))
    name = slowest["name"].removeprefix("transformer.")
    busy = min(1.0, totals["device_s"] / totals["latency_s"])
    advice = {
        "host": f"the GPU is busy {busy:.0%} of the time; a larger batch or cuda-graph uses it",
        "compute": f"{totals['flops_utilization']:.0%} of peak FLOP/s; {slowest['share']:.0%} of it in {name}",
        "memory": f"{totals['bandwidth_utilization']:.0%} of peak bandwidth; {slowest['share']:.0%} of it in {name}",
        "launch": f"{totals['launches']} short kernels; fusing them (compile) or a larger batch helps",
    }[totals["bound"]]
    return (
        f"{phase['phase']}: {format_quantity(totals['latency_s'], 's')} ({low} to {high}, {calibration}),"
        f" {format_quantity(totals['tokens_per_s'], '')} tokens/s, {totals['bound']}-bound: {advice}"
    )


def _memory_summary(memory: Record) -> str:
    parts = {name: format_quantity(memory[f"{name}_bytes"], "B") for name in ("weights", "kv_cache", "activations")}
    fits = "fits" if memory["fits"] else "does NOT fit"
    total, capacity = (format_quantity(memory[f"{name}_bytes"], "B") for name in ("total", "capacity"))
    return (
        f"memory: {total} of {capacity}, {fits} (weights {parts['weights']}, KV cache {parts['kv_cache']},"
        f" activations {parts['activations']})"
    )
