"""Many predictions at once: a row a point of a grid, evaluated by broadcasting, block by block in constant memory.

A block is one choice of everything but sizes, over a part of the sizes. Its columns keep the shape that they depend on
until they are written: `host_s` of a block of (batch, seq, cache) may be an array of (1, seq, cache), a name just text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from gpt2cost.device.catalog import change_hardware, load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.grid import Grid, Sizes, make_grid
from gpt2cost.prediction.predict import Phase, Prediction, predict_run
from gpt2cost.prediction.settings import check_device, check_settings
from gpt2cost.table.config import Model, change_model, load_model
from gpt2cost.timing.kernel import BOUNDS, bound_seconds, index_of_largest

Column: TypeAlias = Any
"""A scalar, or an array that broadcasts to its block's shape."""


BLOCK_ROWS = 1 << 15
"""Rows that are evaluated together: enough for numpy, and little memory."""


INPUTS = ("model", "batch_size", "seq_len", "cache_len", "gpu", "dtype", "attn", "runtime")


COLUMNS = (
    *INPUTS, "phase", "kv_len", "latency_s", "latency_low_s", "latency_high_s", "device_s", "host_s", "flops",
    "read_bytes", "write_bytes", "launches", "bound", "tokens_per_s", "total_bytes", "fits", "valid",
)  # fmt: skip
"""A row a point. `seq_len` and `cache_len` are the run's; `kv_len` is the phase's. `total_bytes` is memory in use."""


KERNEL_COLUMNS = (
    *INPUTS, "phase", "kv_len", "name", "op", "kind", "count", "flops", "read_bytes", "write_bytes", "device_s",
    "share", "bound", "arithmetic_intensity", "pass_latency_s", "total_bytes", "fits", "valid",
)  # fmt: skip
"""A row a kernel and point; figures are totals over its `count` launches."""


@dataclass(frozen=True)
class Block:
    """Rows in the order of the flattened `shape`, without those where `keep` is false. `points`: of the grid."""

    columns: Mapping[str, Column]
    shape: tuple[int, ...]
    keep: Any
    points: int

    def flat(self, name: str) -> Any:
        """A column as an array of one element a row."""
        return self.spread(np.asarray(self.columns[name]))

    def spread(self, values: Any) -> Any:
        """An array that broadcasts to `shape`, as one element a row."""
        full = np.broadcast_to(values, self.shape)
        return full.ravel() if self.keep is True else full[np.broadcast_to(self.keep, self.shape)]

    @property
    def rows(self) -> int:
        return int(np.sum(np.broadcast_to(self.keep, self.shape)))


@dataclass(frozen=True)
class Combination:
    """One choice of everything but sizes."""

    model: Model
    gpu: Hardware
    dtype: str
    attn: str
    runtime: str


def sweep(
    model: object,
    gpu: object,
    batch: object = 1,
    seq: object = 128,
    cache: object = 0,
    dtype: object = "fp16",
    attn: object = "sdpa",
    runtime: object = "eager",
    phase: str = "prefill",
    logits: str = "all",
    use_cache: bool = True,
    *,
    kernels: bool = False,
    only_fitting: bool = False,
    only_valid: bool = False,
    model_changes: Mapping[str, Any] | None = None,
    hw_changes: Mapping[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Predict every point of a grid: rows with the keys of `COLUMNS` (or `KERNEL_COLUMNS`), made as they are asked for.

    Each of `model` ... `runtime` is one value, a list, or text such as `"1,2,8"`, `"1-64*2"` or `"128-1024+128"`.
    Seconds, bytes and FLOPs. The order is that of nested loops over model, gpu, dtype, attn, runtime, batch, seq and
    cache; with phase `both` a point has two rows, or one where the pass is itself a decode step. A combination that the
    device cannot run is left out. The grid is checked at the call; `InputError` for what is wrong in it, and where no
    combination runs.
    """
    grid = make_grid(
        model=model, gpu=gpu, batch=batch, seq=seq, cache=cache, dtype=dtype, attn=attn, runtime=runtime, phase=phase,
        logits=logits, use_cache=use_cache,
    )  # fmt: skip
    combinations, _ = plan(grid, model_changes, hw_changes)
    return itertools.chain.from_iterable(
        block_rows(block) for block in blocks(grid, combinations, kernels, only_fitting, only_valid)
    )


def block_rows(block: Block) -> Iterator[dict[str, Any]]:
    """A block's rows as dictionaries of plain Python values."""
    columns = [block.flat(name).tolist() for name in block.columns]
    return (dict(zip(block.columns, values, strict=True)) for values in zip(*columns, strict=True))


def plan(
    grid: Grid, model_changes: Mapping[str, Any] | None = None, hw_changes: Mapping[str, Any] | None = None
) -> tuple[list[Combination], list[str]]:
    """The combinations that run, and warnings. Raises `InputError` for what cannot be loaded, and where none runs."""
    notes = list(grid.notes)
    models = _distinct("model", (change_model(load_model(name), model_changes or {}) for name in grid.model), notes)
    devices = (load_hardware(gpu) for gpu in grid.gpu)
    gpus = _distinct("gpu", (change_hardware(device, hw_changes or {}) for device in devices), notes)
    sizes = _open(grid.batch, grid.seq, grid.cache)
    check_settings(*sizes, "fp16", "sdpa", "eager", grid.phase, grid.logits, grid.use_cache)
    running, reasons, skipped = [], [], 0
    for choice in itertools.product(models, gpus, grid.dtype, grid.attn, grid.runtime):
        try:
            check_device(*choice[1:])
        except InputError as error:
            reasons.append(str(error))
            skipped += 1
        else:
            running.append(Combination(*choice))
    if not running:
        raise InputError("; ".join(dict.fromkeys(reasons)))
    if skipped:
        notes.append(f"skipped {skipped} of {skipped + len(running)}: {'; '.join(dict.fromkeys(reasons))}")
    return running, [note for model in models for note in model.notes] + notes


def _distinct(name: str, found: Iterable[Any], notes: list[str]) -> list[Any]:
    """Models or devices, each once: two names may be one's."""
    distinct: list[Any] = []
    for each in found:
        if each in distinct:
            notes.append(f"{name}: {each.name} is given twice, under two names, and counts once")
        else:
            distinct.append(each)
    return distinct


def blocks(
    grid: Grid,
    combinations: Sequence[Combination],
    kernels: bool = False,
    only_fitting: bool = False,
    only_valid: bool = False,
) -> Iterator[Block]:
    """The grid's rows, block by block."""
    limit = BLOCK_ROWS // (64 if kernels else 1)
    for choice in combinations:
        for batch, seq, cache in _parts(grid, limit):
            yield _block(choice, grid, (batch, seq, cache), kernels, only_fitting, only_valid)


def _parts(grid: Grid, limit: int) -> Iterator[tuple[Sizes, Sizes, Sizes]]:
    """The sizes in parts of about `limit` points, in order: whole inner axes as long as they fit."""
    batch_step = max(1, limit // (len(grid.seq) * len(grid.cache)))
    seq_step = max(1, limit // len(grid.cache))
    for batch in _slices(grid.batch, batch_step):
        for seq in _slices(grid.seq, seq_step):
            for cache in _slices(grid.cache, limit):
                yield batch, seq, cache


def _open(batch: Sizes, seq: Sizes, cache: Sizes) -> tuple[Sizes, Sizes, Sizes]:
    """The axes in shapes that broadcast to (batch, seq, cache)."""
    return batch[:, None, None], seq[:, None], cache


def _slices(axis: Sizes, step: int) -> Iterator[Sizes]:
    return (axis[start : start + step] for start in range(0, len(axis), step))


def _block(
    choice: Combination,
    grid: Grid,
    sizes: tuple[Sizes, Sizes, Sizes],
    kernels: bool,
    only_fitting: bool,
    only_valid: bool,
) -> Block:
    batch, seq, cache = _open(*sizes)
    settings = check_settings(
        batch, seq, cache, choice.dtype, choice.attn, choice.runtime, grid.phase, grid.logits, grid.use_cache
    )
    prediction = predict_run(choice.model, choice.gpu, settings, grid.phase)
    inputs = {
        "model": choice.model.name, "batch_size": batch[..., None], "seq_len": seq[..., None],
        "cache_len": cache[..., None], "gpu": choice.gpu.name, "dtype": choice.dtype, "attn": choice.attn,
        "runtime": choice.runtime,
    }  # fmt: skip
    figures = _kernel_figures if kernels else _pass_figures
    of_phases = [figures(prediction, phase) for phase in prediction.phases]
    is_decode = (seq == 1) & (cache > 0)
    if prediction.phases[0].phase == "prefill" and np.any(is_decode):  # there the pass is itself the decode step
        of_phases[0]["phase"] = np.where(is_decode, "decode", "prefill")[..., None]
        if len(of_phases) > 1:
            of_phases[0]["keep"] = of_phases[0]["keep"] & ~is_decode[..., None]
    rows = [np.shape(part["flops"])[-1] for part in of_phases]
    columns = {name: _side_by_side([part[name] for part in of_phases], rows) for name in of_phases[0]}
    keep = columns.pop("keep")
    if only_fitting:
        keep = keep & columns["fits"]
    if only_valid:
        keep = keep & columns["valid"]
    shape = (*map(len, sizes), sum(rows))
    order = KERNEL_COLUMNS if kernels else COLUMNS
    columns = {**inputs, **columns}
    everything = bool(np.all(keep))
    return Block({name: columns[name] for name in order}, shape, everything or keep, len(batch) * len(seq) * len(cache))


def _side_by_side(parts: list[Any], rows: list[int]) -> Any:
    """What the phases say of one column, joined along the last axis: `rows` of each a point, or one for all."""
    if len(parts) == 1:
        return parts[0]
    arrays = [np.asarray(part) for part in parts]
    lead = np.broadcast_shapes(*(array.shape[:-1] for array in arrays))
    return np.concatenate(
        [np.broadcast_to(array, (*lead, count)) for array, count in zip(arrays, rows, strict=True)], axis=-1
    )


def _whole(values: Any) -> Any:
    """Floats that are whole numbers, as integers; beyond int64 as Python's."""
    array = np.asarray(values)
    if array.dtype.kind != "f":
        return array
    return array.astype(np.int64) if np.max(array) < 2.0**63 else np.vectorize(int, otypes=[object])(array)


def _common(prediction: Prediction, phase: Phase) -> dict[str, Column]:
    memory = prediction.memory
    return {
        "phase": phase.phase,
        "kv_len": _whole(phase.kv_len)[..., None],
        "total_bytes": _whole(memory.total_bytes)[..., None],
        "fits": np.asarray(memory.fits)[..., None],
        "valid": (np.asarray(phase.kv_len) <= prediction.model.n_positions)[..., None],
        "keep": np.ones(1, bool),
    }


def _pass_figures(prediction: Prediction, phase: Phase) -> dict[str, Column]:
    counts = ("flops", "read_bytes", "write_bytes", "launches")
    others = (
        "latency_s", "latency_low_s", "latency_high_s", "device_s", "host_s", "bound", "tokens_per_s"
    )  # fmt: skip
    return {
        **_common(prediction, phase),
        **{name: _whole(getattr(phase.totals, name))[..., None] for name in counts},
        **{name: np.asarray(getattr(phase.totals, name))[..., None] for name in others},
    }


def _kernel_figures(prediction: Prediction, phase: Phase) -> dict[str, Column]:
    costs, totals, common = phase.kernels, phase.totals, _common(prediction, phase)

    def stacked(values: Iterable[Any]) -> Any:
        return np.stack(np.broadcast_arrays(*values), axis=-1)

    count, flops, reads, writes, device_s = (
        stacked(getattr(cost, name) for cost in costs)
        for name in ("count", "flops", "read_bytes", "write_bytes", "device_s")
    )
    moved = reads + writes
    bounds = [np.asarray(BOUNDS)[index_of_largest(bound_seconds(cost.terms))] for cost in costs]
    count, flops, moved, device_s = np.broadcast_arrays(count, flops, moved, device_s)
    return {
        **common,
        "name": np.array([cost.row.path for cost in costs]),
        "op": np.array([cost.kernel.op for cost in costs]),
        "kind": np.array([cost.kernel.kind for cost in costs]),
        "count": _whole(count),
        "flops": _whole(flops),
        "read_bytes": _whole(reads),
        "write_bytes": _whole(writes),
        "device_s": device_s,
        "share": device_s / np.asarray(totals.device_s)[..., None],
        "bound": stacked(bounds),
        "arithmetic_intensity": np.divide(flops, moved, out=np.zeros(moved.shape), where=moved > 0),
        "pass_latency_s": np.asarray(totals.latency_s)[..., None],
        "keep": count > 0,
    }
