"""Many predictions at once: a row per point of a grid, evaluated by broadcasting, block by block in constant memory.

A block is one choice of everything but sizes, over a part of the sizes.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gpt2cost.checks import check_flag
from gpt2cost.device.catalog import change_hardware, load_hardware
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.blocks import BLOCK_ROWS, Block, Column, Rows, Task, whole
from gpt2cost.prediction.energy import ENERGY_COLUMNS, check_board_power
from gpt2cost.prediction.grid import Axis, Grid, distinct, make_grid
from gpt2cost.prediction.one_pass import uncapturable
from gpt2cost.prediction.predict import Phase, Prediction, passes_of, predict_run
from gpt2cost.prediction.settings import How, Sizes, check_cached, check_device, check_sizes, is_decode, one_at_a_time
from gpt2cost.prediction.shard import WHOLE, Shard, parse_shard, within
from gpt2cost.prediction.what_ifs import changed_by_each, check_changes, is_list_of
from gpt2cost.table.config import Model, change_model, load_model
from gpt2cost.timing.kernel import BOUNDS, bound_seconds, index_of_largest

INPUTS = (
    "model", "batch_size", "seq_len", "cache_len", "gpu", "dtype", "attn", "runtime", "logits", "use_cache",
    "cache_type",
)  # fmt: skip
COLUMNS = (
    *INPUTS, "phase", "kv_len", "latency_s", "latency_low_s", "latency_high_s", "trust", "trust_from", "device_s",
    "host_s", "flops", "read_bytes", "write_bytes", "launches", "bound", "tokens_per_s", "total_bytes", "fits", "valid",
    "impl", "parameters", "kv_cache_bytes", "kv_bytes_per_token", "flops_per_token",
)  # fmt: skip
"""A row per point. `seq_len` and `cache_len` are the run's; `kv_len` is the phase's. `total_bytes` is memory in use.
`flops_per_token`: of the tokens that the phase brings."""
KERNEL_COLUMNS = (
    *INPUTS, "phase", "kv_len", "name", "op", "kind", "count", "flops", "read_bytes", "write_bytes", "device_s",
    "share", "bound", "arithmetic_intensity", "pass_latency_s", "trust", "trust_from", "total_bytes", "fits", "valid",
    "impl",
)  # fmt: skip
"""A row per kernel and point; figures are totals over its `count` launches."""


@dataclass(frozen=True)
class Choice:
    """One choice of everything but sizes."""

    model: Model
    hardware: Hardware
    how: How


@dataclass(frozen=True, eq=False, repr=False)
class Sweep(Rows):
    """What `sweep` returns."""

    inputs = INPUTS

    grid: Grid
    choices: tuple[Choice, ...]
    kernels: bool
    only_fitting: bool
    only_valid: bool
    warnings: tuple[str, ...]
    shard: Shard = WHOLE
    energy: bool = False

    def __post_init__(self) -> None:
        if self.energy and self.kernels:
            raise InputError("energy: of whole passes, and kernels makes a row per kernel")
        if self.energy:
            check_board_power(choice.hardware for choice in self.choices)

    def tasks(self) -> Iterator[Task]:
        """A shard evaluates the same blocks as the whole, so that its rows are the same to the last digit."""
        limit = BLOCK_ROWS // (64 if self.kernels else 1)
        first, (low, end) = 0, self.bounds
        for choice in self.choices:
            for part in _parts(self.grid, limit):
                points = math.prod(map(len, part))
                if first < end and first + points > low:
                    yield choice, part, first
                first += points

    def block(self, task: Task) -> Block:
        choice, part, first = task
        return within(_block(choice, self, part), first, self.bounds, of_points=3)

    @property
    def names(self) -> tuple[str, ...]:
        """The keys of the rows."""
        return KERNEL_COLUMNS if self.kernels else (*COLUMNS, *ENERGY_COLUMNS) if self.energy else COLUMNS


def sweep(
    model: object,
    gpu: object,
    *,
    batch: object = 1,
    seq: object = 128,
    cache: object = 0,
    dtype: object = None,
    attn: object = None,
    runtime: object = "eager",
    phase: str = "prefill",
    logits: str = "all",
    use_cache: bool = True,
    cache_type: str = "dynamic",
    impl: object = None,
    kernels: bool = False,
    only_fitting: bool = False,
    only_valid: bool = False,
    model_changes: Mapping[str, Any] | None = None,
    hw_changes: Mapping[str, Any] | None = None,
    shard: str = "1/1",
    energy: bool = False,
) -> Sweep:
    """Predict every point of a grid: rows with the keys of `COLUMNS`, or of `KERNEL_COLUMNS` with `kernels`; with
    `energy` those of `ENERGY_COLUMNS` too.

    Each of `model` ... `runtime` and `impl` is one value, a list, or text such as `"1,2,8"`, `"1-64*2"` or
    `"128-1024+128"`. Seconds, bytes and FLOPs. The order is that of nested loops over model, gpu, dtype, attn, runtime,
    impl, batch, seq and cache; values of `model_changes` and `hw_changes` may be lists, which are loops inside those of
    model and gpu. With phase `both` a point has two rows, or one where the pass is itself a decode step. A choice that
    the device cannot run is left out, with a warning, and so is a row of which no CUDA graph can be captured. `shard`,
    such as `"3/16"`, evaluates a part of the points. The grid is checked at the call; `InputError` for what is wrong in
    it, and where nothing runs.
    """
    grid = make_grid(
        model=model, gpu=gpu, batch=batch, seq=seq, cache=cache, dtype=dtype, attn=attn, runtime=runtime, phase=phase,
        logits=logits, use_cache=use_cache, cache_type=cache_type, impl=impl,
    )  # fmt: skip
    choices, warnings = plan(grid, model_changes, hw_changes)
    models = dict.fromkeys(choice.model for choice in choices)
    warnings += [f"{model.name}: {note}" for model in models for note in one_at_a_time(model, grid.batch)]
    flags = {"kernels": kernels, "only_fitting": only_fitting, "only_valid": only_valid, "energy": energy}
    checked = {name: check_flag(name, value) for name, value in flags.items()}
    return Sweep(grid, tuple(choices), **checked, warnings=tuple(warnings), shard=parse_shard(shard))


def plan(
    grid: Grid, model_changes: Mapping[str, Any] | None = None, hw_changes: Mapping[str, Any] | None = None
) -> tuple[list[Choice], list[str]]:
    """The choices that run, and warnings. Raises `InputError` for what cannot be loaded, and where none runs."""
    notes = list(grid.notes)
    models, devices = loaded_axes(grid.model, grid.gpu, model_changes, hw_changes, notes)
    check_sizes(*_broadcastable(grid.batch, grid.seq, grid.cache), grid.use_cache)
    running: list[Choice] = []
    reasons, partly = [], []
    sizes = Sizes(*_broadcastable(grid.batch, grid.seq, grid.cache))
    heads = {model.head for model in models}
    without = [model.name for model in models if model.head != "lm"] if grid.logits == "last" and "lm" in heads else []
    if without:
        notes.append(f"logits: last is of models with head lm: all that {', '.join(without)} gives is computed")
    for model, hardware, dtype, attn, runtime, impl in itertools.product(
        models, devices, grid.dtype, grid.attn, grid.runtime, grid.impl
    ):
        logits = "all" if model.name in without else grid.logits
        asked = How(dtype, attn, runtime, logits, grid.use_cache, cache_type=grid.cache_type, impl=impl)
        try:
            how = asked.on(model)
            choice = Choice(model, hardware, replace(how, use_cache=grid.use_cache))
            check_cached(model, how, sizes)
            check_device(hardware, how, model.head_dim)
            if why := _cannot_capture(choice, sizes, grid.phase):
                partly.append(why)
        except InputError as error:
            reasons.append(str(error))
        else:
            running.append(choice)
    if not running:
        raise InputError("; ".join(dict.fromkeys(reasons)))
    if reasons:
        notes.append(f"skipped {len(reasons)} of {len(reasons) + len(running)}: {'; '.join(dict.fromkeys(reasons))}")
    notes += [f"rows are left out: {why}" for why in dict.fromkeys(partly)]
    return running, [note for model in models for note in model.notes] + notes


def _cannot_capture(choice: Choice, sizes: Sizes, phase: str) -> str:
    """Why some of the passes cannot be captured in a CUDA graph; empty if all can. Raises `InputError` if none can."""
    how = choice.how.on(choice.model)
    fails = [uncapturable(choice.model, how, own) for _, own in passes_of(sizes, phase, how.use_cache)]
    if all(np.all(where) for where, _ in fails):
        raise InputError(fails[0][1])
    return next((why for where, why in fails if np.any(where)), "")


def loaded_axes(
    model_names: Iterable[Any], gpus: Iterable[Any], model_changes: Mapping[str, Any] | None,
    hw_changes: Mapping[str, Any] | None, notes: list[str],
) -> tuple[list[Model], list[Hardware]]:  # fmt: skip
    """The models and devices of two axes, changed; `notes` are told which names say the same."""
    of_models, of_devices = check_changes("set", model_changes), check_changes("hw-set", hw_changes)

    def changed_models() -> Iterator[Model]:
        for model in map(load_model, model_names):
            yield from changed_by_each(model, of_models, change_model, notes, lambda key: False)

    def changed_devices() -> Iterator[Hardware]:
        for device in map(load_hardware, gpus):
            yield from changed_by_each(device, of_devices, change_hardware, notes, partial(is_list_of, device))

    return _loaded("model", changed_models(), notes), _loaded("gpu", changed_devices(), notes)


def _loaded(name: str, named: Iterable[Any], notes: list[str]) -> list[Any]:
    """Models or devices, each once: two names may be one's, and two of them may have one name."""
    items = distinct(named, notes, lambda item: f"{name}: {item.name} is given twice, under two names, and counts once")
    repeated = [item for item, count in Counter(item.name for item in items).items() if count > 1]
    notes += [f"{name}: {item} names several; their rows look alike" for item in repeated]
    return items


def _parts(grid: Grid, limit: int) -> Iterator[tuple[Axis, Axis, Axis]]:
    """The sizes in parts of about `limit` points, in order: whole inner axes as long as they fit."""
    batch_step = max(1, limit // (len(grid.seq) * len(grid.cache)))
    seq_step = max(1, limit // len(grid.cache))
    for batch in _slices(grid.batch, batch_step):
        for seq in _slices(grid.seq, seq_step):
            for cache in _slices(grid.cache, limit):
                yield batch, seq, cache


def _broadcastable(batch: Axis, seq: Axis, cache: Axis) -> tuple[Axis, Axis, Axis]:
    """The axes in shapes that broadcast to (batch, seq, cache)."""
    return batch[:, None, None], seq[:, None], cache


def _slices(axis: Axis, step: int) -> Iterator[Axis]:
    return (axis[start : start + step] for start in range(0, len(axis), step))


def _block(choice: Choice, sweep: Sweep, axes: tuple[Axis, Axis, Axis]) -> Block:
    grid, how = sweep.grid, choice.how
    batch, seq, cache = _broadcastable(*axes)
    sizes = check_sizes(batch, seq, cache, how.use_cache)
    prediction = predict_run(choice.model, choice.hardware, how, sizes, grid.phase, partly=True)
    inputs = {
        "model": choice.model.name, "batch_size": batch[..., None], "seq_len": seq[..., None],
        "cache_len": cache[..., None], "gpu": choice.hardware.name, "dtype": how.dtype, "attn": how.attn,
        "runtime": how.runtime, "logits": how.logits, "use_cache": prediction.how.use_cache,
        "cache_type": how.cache_type, "impl": how.impl,
    }  # fmt: skip
    figures = _kernel_figures if sweep.kernels else _pass_figures
    of_phases = [figures(prediction, phase) for phase in prediction.phases]
    if sweep.energy:
        for own, bound in zip(of_phases, prediction.energy_bounds(), strict=True):
            own |= {name: np.asarray(getattr(bound, name))[..., None] for name in ENERGY_COLUMNS}
    decoding = is_decode(sizes)
    if prediction.phases[0].phase == "prefill" and np.any(decoding):  # there the pass is itself the decode step
        of_phases[0]["phase"] = np.where(decoding, "decode", "prefill")[..., None]
        if len(of_phases) > 1:
            of_phases[0]["keep"] = of_phases[0]["keep"] & ~decoding[..., None]
    rows = [np.shape(part["flops"])[-1] for part in of_phases]
    columns = {name: _side_by_side([part[name] for part in of_phases], rows) for name in of_phases[0]}
    keep = columns.pop("keep")
    if sweep.only_fitting:
        keep = keep & columns["fits"]
    if sweep.only_valid:
        keep = keep & columns["valid"]
    shape = (*map(len, axes), sum(rows))
    columns = {**inputs, **columns}
    everything = bool(np.all(keep))
    ordered = {name: columns[name] for name in sweep.names}
    return Block(ordered, shape, everything or keep, len(batch) * len(seq) * len(cache))


def _side_by_side(parts: list[Any], rows: list[int]) -> Any:
    """The phases' values of one column, joined along the last axis: `rows` per point of each, or one for all."""
    if len(parts) == 1:
        return parts[0]
    arrays = [np.asarray(part) for part in parts]
    lead = np.broadcast_shapes(*(array.shape[:-1] for array in arrays))
    return np.concatenate(
        [np.broadcast_to(array, (*lead, count)) for array, count in zip(arrays, rows, strict=True)], axis=-1
    )


def _common(prediction: Prediction, phase: Phase) -> dict[str, Column]:
    memory = prediction.memory
    return {
        "phase": phase.phase,
        "kv_len": whole(phase.kv_len)[..., None],
        "total_bytes": whole(memory.total_bytes)[..., None],
        "fits": np.asarray(memory.fits)[..., None],
        "valid": (np.asarray(phase.kv_len) <= prediction.model.n_positions)[..., None],
        "trust": np.asarray(phase.totals.trust)[..., None],
        "trust_from": np.asarray(phase.totals.trust_from)[..., None],
        "parameters": prediction.model.parameters,
        "kv_cache_bytes": whole(memory.kv_cache_bytes)[..., None],
        "kv_bytes_per_token": memory.kv_bytes_per_token,
        "keep": ~np.asarray(uncapturable(prediction.model, prediction.how, phase.sizes)[0])[..., None],
    }


def _pass_figures(prediction: Prediction, phase: Phase) -> dict[str, Column]:
    counts = ("flops", "read_bytes", "write_bytes", "launches")
    others = (
        "latency_s", "latency_low_s", "latency_high_s", "device_s", "host_s", "bound", "tokens_per_s"
    )  # fmt: skip
    return {
        **_common(prediction, phase),
        **{name: whole(getattr(phase.totals, name))[..., None] for name in counts},
        **{name: np.asarray(getattr(phase.totals, name))[..., None] for name in others},
        "flops_per_token": np.asarray(phase.flops_per_token)[..., None],
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
        "count": whole(count),
        "flops": whole(flops),
        "read_bytes": whole(reads),
        "write_bytes": whole(writes),
        "device_s": device_s,
        "share": device_s / np.asarray(totals.device_s)[..., None],
        "bound": stacked(bounds),
        "arithmetic_intensity": np.divide(flops, moved, out=np.zeros(moved.shape), where=moved > 0),
        "pass_latency_s": np.asarray(totals.latency_s)[..., None],
        "keep": count > 0,
    }
