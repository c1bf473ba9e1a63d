"""Records of measured passes: how each was run, whether it is asked for, and as a hardware file's evidence."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import yaml

from gpt2cost.checks import check_flag
from gpt2cost.device.hardware import Evidence
from gpt2cost.errors import InputError, echo
from gpt2cost.measure.records import Measurement, is_time, named, of_kind
from gpt2cost.prediction.settings import LEAST, How, Sizes, check_how, check_sizes
from gpt2cost.table.config import load_model
from gpt2cost.units import format_quantity

PASSES = {"pass": "", "pass_graph": "cuda-graph", "pass_compile": "compile"}
"""Kinds of records of whole passes -> the runtime that they are of; empty if the record says it, or it is eager."""


def run_of(record: Measurement) -> tuple[How, Sizes]:
    """How the pass of a record was run, and its sizes. Raises `InputError` for what is missing or wrong."""
    kind, mode = str(record["kind"]), record.get("mode", "default")
    runtime = PASSES[kind] if PASSES.get(kind) else str(record.get("runtime", "eager"))
    if runtime == "compile" and mode == "reduce-overhead":
        runtime = str(mode)
    try:
        sizes, choices = (record["batch"], record["seq"], record["cache"]), (record["dtype"], record["attn"])
        for key in ("model", "dtype", "attn"):
            if not isinstance(record[key], str):
                raise InputError(f"{key}: expected a name, got {echo(record[key])}")
        if any(isinstance(size, list) for size in sizes):
            raise InputError(f"batch, seq, cache: expected integers, got {echo(sizes)}")
        use_cache = check_flag("use_cache", record.get("use_cache", True))
        return check_how(*choices, runtime, "all", use_cache), check_sizes(*sizes, use_cache)
    except KeyError as error:
        raise InputError(f"{named(record)}: expected {error.args[0]!r}, which it lacks") from None
    except InputError as error:
        raise InputError(f"{named(record)}: {error}") from None


def is_asked_for(
    record: Measurement,
    cases: Collection[tuple[int, int, int]],
    axes: Mapping[str, Collection[object]],
    uncached: bool,
) -> bool:
    """Whether a record is of a pass, or the profile of one: of a size in `cases` or on the axes, and with one of the
    values of an axis.

    `axes`: model, dtype, attn, runtime, batch, seq, cache; one that is missing takes every value. `cases`: sizes
    (batch, seq, cache). `uncached`: only passes without a KV cache.
    """
    if record["kind"] not in (*PASSES, "profile"):
        return False
    how, sizes = run_of(record)
    size = sizes.batch_size, sizes.seq_len, sizes.cache_len
    on_axes = [value in axes[name] for name, value in zip(LEAST, size, strict=True) if name in axes]
    fits = size in cases or (all(on_axes) if on_axes else not cases)
    names = {"model": _name_of(record["model"]), "dtype": how.dtype, "attn": how.attn, "runtime": how.runtime}
    chosen = all(name in axes[axis] for axis, name in names.items() if axis in axes)
    return chosen and fits and not (uncached and how.use_cache)


def _name_of(model: str) -> str:
    """A model's name; of one that is not at hand, what the record calls it."""
    try:
        return load_model(model).name
    except InputError:
        return model


def as_evidence(record: Measurement, source: str) -> Evidence:
    """A measured pass as a hardware file's evidence. Raises `InputError` for a record without a time."""
    how, sizes = run_of(record)
    name = "graph_us" if record["kind"] == "pass_graph" else "wall_us"
    value = record.get(name)
    if not is_time(value):
        raise InputError(f"{named(record)}: {name}: expected a time above 0, got {echo(value)}")
    return Evidence(
        source=source,
        model=record["model"],
        batch=sizes.batch_size,
        seq=sizes.seq_len,
        cache=sizes.cache_len,
        dtype=how.dtype,  # type: ignore[arg-type]
        attn=how.attn,  # type: ignore[arg-type]
        use_cache=how.use_cache,
        runtime=how.runtime,  # type: ignore[arg-type]
        latency_s=1e-6 * value,
    )


def evidence_yaml(records: Iterable[Measurement], source: str) -> str:
    """The measured passes among `records` as the list under `evidence:` of a hardware file."""
    names = ("model", "batch", "seq", "cache", "dtype", "attn", "use_cache", "runtime")
    rows = []
    for row in (as_evidence(record, source) for record in of_kind(records, *PASSES)):
        latency = format_quantity(row.latency_s, "s", 5)
        rows.append({**{name: getattr(row, name) for name in names}, "latency": latency, "source": source})
    return yaml.safe_dump(rows, sort_keys=False, width=110, default_flow_style=None)


def source_of(machine: Measurement) -> str:
    """What was measured on, when and with what, from the record of kind `machine`: the `source` of evidence."""
    device = machine.get("gpu") or machine.get("cpu_model") or machine.get("device", "unknown device")
    threads = f"{machine['threads']} threads" if machine.get("device") == "cpu" and "threads" in machine else ""
    versions = [f"{name} {machine[name]}" for name in ("torch", "transformers") if machine.get(name)]
    return ", ".join(filter(None, ("gpt2cost measure", machine.get("date", ""), device, threads, *versions)))
