"""`Prediction` to plain rows: the only list of output fields. Everything that prints a figure takes it from here.

Keys carry their unit (`_s`, `_bytes`, `_per_s`); values are SI. A row's figures are totals over its `count` launches,
so rows sum to the totals, and its formulas, evaluated with the phase's `symbols`, give the figures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, TypeAlias

from gpt2cost import __version__
from gpt2cost.citations import transformers_version
from gpt2cost.explain import explain
from gpt2cost.formula import Formula, formula
from gpt2cost.hardware import Hardware
from gpt2cost.kernels import Kernel, Row
from gpt2cost.model import Model
from gpt2cost.passes import KernelCost
from gpt2cost.predict import Phase, Prediction
from gpt2cost.single_kernel import KernelLatency
from gpt2cost.uncertainty import spread

SCHEMA_VERSION = 1
FLOPS_CONVENTION = "1 FMA = 2 FLOPs"
GROUPS = ("kernel", "module", "layer")

Record: TypeAlias = dict[str, Any]


def envelope() -> Record:
    """What every JSON document begins with."""
    return {"schema_version": SCHEMA_VERSION, "gpt2cost_version": __version__}


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


def model_record(model: Model) -> Record:
    """A model's dimensions under GPT2Config's names, and its parameters."""
    fields = ("name", "n_layer", "n_head", "n_embd", "n_inner", "vocab_size", "n_positions", "activation_function")
    switches = ("tie_word_embeddings", "reorder_and_upcast_attn")
    return {name: getattr(model, name) for name in (*fields, *switches)} | {"parameters": model.parameters}


def calibration(hardware: Hardware, dtype: str | None = None) -> str:
    """`calibrated` where whole passes measured on the device (in this dtype) are in its file, or kernels were by
    `gpt2cost calibrate`; else `uncalibrated`."""
    known = () if hardware.calibration is None or hardware.changes else hardware.calibration.residuals
    if dtype is None:
        measured = bool(hardware.evidence or known)
    else:
        measured = spread(hardware, dtype).basis == "evidence" or any(kind.endswith(dtype) for kind in known)
    return "calibrated" if measured else "uncalibrated"


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


# ---------------------------------------------------------------------------------------------- the table


def table_records(rows: Iterable[Row], symbols: dict[str, int] | None = None) -> Iterator[Record]:
    """One record a kernel of the cost table: its formulas and, where the symbols have values, its numbers."""
    for row in rows:
        if not isinstance(row.step, Kernel):
            continue
        kernel = row.step
        costs: dict[str, Formula] = {"flops": kernel.flops, "read": kernel.reads, "write": kernel.writes}
        record = {
            "module": row.module,
            "name": row.path,
            "op": kernel.op,
            "kind": kernel.kind,
            "count_formula": str(row.count),
            "when": str(kernel.when),
            **{f"{name}_formula": str(cost * row.count) for name, cost in costs.items()},
            "source": str(kernel.source),
        }
        if symbols:
            launched = int(kernel.when.evaluate(symbols)) * row.count
            names = {
                "count": formula(1),
                "flops": kernel.flops,
                "read_bytes": kernel.reads,
                "write_bytes": kernel.writes,
            }
            record |= {name: (cost * launched).evaluate(symbols) for name, cost in names.items()}
        yield record


# ---------------------------------------------------------------------------------------------- single kernels


def kernel_record(latency: KernelLatency) -> Record:
    """One kernel on its own."""
    terms = dataclasses.asdict(latency.terms)
    del terms["device_s"]
    return {
        "kind": latency.kind,
        "hardware": latency.hardware,
        "dtype": latency.dtype,
        **latency.shape,
        "flops": int(latency.flops),
        "read_bytes": int(latency.read_bytes),
        "write_bytes": int(latency.write_bytes),
        "device_s": float(latency.device_s),
        **{name: float(seconds) for name, seconds in terms.items()},
        "bound": latency.bound,
    }


# ---------------------------------------------------------------------------------------------- devices


def hardware_summary(hardware: Hardware) -> Record:
    """A device's main rates: one row of `hardware list`."""
    peaks = hardware.compute.peak_flop_per_s
    return {
        "name": hardware.name,
        "aliases": list(hardware.aliases),
        "vendor": hardware.vendor,
        "architecture": hardware.architecture,
        "memory_bytes": hardware.memory.capacity_bytes,
        "bandwidth_bytes_per_s": hardware.memory.bandwidth_bytes_per_s,
        **{f"{dtype}_flop_per_s": peaks.get(dtype) for dtype in ("fp32", "tf32", "fp16", "bf16")},
        "calibration": calibration(hardware),
    }


def hardware_record(hardware: Hardware) -> Record:
    """Everything that a device's file says, in SI units."""
    record = dataclasses.asdict(hardware)
    return {**record, "calibration": calibration(hardware), "calibration_run": record["calibration"]}
