"""A device: YAML to a frozen `Hardware` in SI units, and how a name finds its file.

One file a device, in the shipped folder or in the user's own. Two rules keep constants in one place:

* A section `model`, `host` or `launch` may be borrowed whole from a shipped device, with overrides beside it:
  `model: {like: a100-sxm-80gb, masked_attention: 0.4}`. `Hardware.borrowed` records it. Mappings inside are laid over
  the borrowed ones key by key, unless they say `like: none`.
* A file may hold `variants`, a mapping from a variant's name to what differs from the file's own device. A variant does
  not inherit aliases or evidence.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from gpt2cost.constants import POSITIVE, MachineConstants
from gpt2cost.cpu_constants import CpuConstants
from gpt2cost.data import data_dir, read_text
from gpt2cost.errors import InputError, echo, nearest, plain
from gpt2cost.kernels import KERNEL_VARIANTS
from gpt2cost.schema import build, change, read_yaml, yaml_value

DTYPES = ("fp32", "tf32", "fp16", "bf16")
"""Names of the arithmetic modes. `tf32` is fp32 storage with products on the tensor cores."""
SHARED_SECTIONS = ("model", "host", "launch")
"""Sections that a file may borrow from another device."""
CHANGEABLE = ("memory", "compute", "launch", "host", "model")
"""Sections whose constants `change_hardware` may set."""
PATH_VARIABLE = "GPT2COST_HARDWARE_PATH"
"""Environment variable with folders of the user's own hardware files, separated as in PATH."""


@dataclass(frozen=True)
class Memory:
    """DRAM and last-level cache. Rates are peaks; `l2_bandwidth` is that of reads, measured where known."""

    capacity_bytes: float
    bandwidth_bytes_per_s: float
    l2_bytes: float
    l2_bandwidth_bytes_per_s: float


@dataclass(frozen=True)
class Compute:
    """`units`: SMs or GPU cores. `peak`: dtype -> dense rate, fp32 accumulation; what is absent is not supported."""

    units: int = field(metadata=POSITIVE)
    peak_flop_per_s: dict[str, float] = field(metadata={"keys": DTYPES, "required": ("fp32",)})


@dataclass(frozen=True)
class Launch:
    """Shortest time of one kernel on a busy device: back to back in a stream, and as a node of a CUDA graph."""

    stream_floor_s: float
    graph_floor_s: float


@dataclass(frozen=True)
class Host:
    """Host time of one thing in eager mode, on the CPU that `cpu` states.

    `synchronous`: the host runs the kernels itself, as a CPU does: no queue, and every cost adds up.
    `op`: an op that launches a kernel. `module`: the call of a linear or layer-norm module. `view`: a view-type op.
    `dropout`: a dropout module in eval mode. `launch_latency`: from issue to the kernel's start. `sync`: one wait for
    the device. `graph_replay`: one CUDA-graph replay. `compiled_op`: a kernel in compiled code.
    """

    cpu: str
    op_s: float
    module_s: float
    view_s: float
    call_s: float
    launch_latency_s: float
    sync_s: float
    graph_replay_s: float
    compiled_op_s: float
    synchronous: bool = False

    def scaled(self, factor: float) -> Host:
        """A host that takes `factor` times as long for everything."""
        seconds = (field.name for field in dataclasses.fields(self) if field.name.endswith("_s"))
        return dataclasses.replace(self, **{name: factor * getattr(self, name) for name in seconds})


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A measured latency that this device's predictions are judged by.

    `kernels` names kernel variants where the measured code differs from ours, such as `{scale: div, mask: where}`.
    """

    source: str
    model: str
    batch: int = field(metadata=POSITIVE)
    seq: int = field(metadata=POSITIVE)
    cache: int = field(default=0, metadata={"bound": "natural"})
    dtype: Literal["fp32", "tf32", "fp16", "bf16"]
    attn: Literal["sdpa", "eager", "flash_attention_2"]
    use_cache: bool = True
    runtime: Literal["eager", "compile", "cuda-graph"] = "eager"
    phase: Literal["prefill", "decode"] = "prefill"
    latency_s: float
    kernels: dict[str, str] = field(default_factory=dict, metadata={"keys": tuple(KERNEL_VARIANTS)})
    note: str = ""

    def __post_init__(self) -> None:
        for name, op in self.kernels.items():
            if op not in KERNEL_VARIANTS[name]:
                raise InputError(f"kernels.{name}: expected one of {', '.join(KERNEL_VARIANTS[name])}, got {echo(op)}")
        if not self.use_cache and self.cache:
            raise InputError("cache: expected 0 where use_cache is false")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """When and how `gpt2cost calibrate` measured a machine, and how well the fit reproduces what it measured.

    `residuals`: kind of kernel -> median of |log(predicted / measured)|. `noise`: by how much two halves of
    the measurements of one kernel differ, as a median; None if each was measured once. `reference_s`: what a product
    took that is always the same, to tell the machine's speed at another time from its speed then.
    """

    date: str
    software: str  # versions
    clock: str  # of the processor and its memory, and the threads or the power limit
    count: int = field(metadata=POSITIVE)  # kernels measured
    noise: float | None = field(default=None, metadata={"bound": "natural"})
    reference_s: float | None = None
    residuals: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One device. All quantities in SI units; FLOP rates count one fused multiply-add as 2.

    `provenance`: path of a constant or section -> where it comes from. `borrowed`: section -> the device it was taken
    from. `variants`: names of the other devices in this file. `changes`: path -> what `change_hardware` set it to.
    """

    name: str
    aliases: tuple[str, ...] = ()
    description: str = ""
    vendor: Literal["nvidia", "apple", "cpu"]
    architecture: str
    compute_capability: float | None = field(default=None, metadata=POSITIVE)
    memory: Memory
    compute: Compute
    launch: Launch
    host: Host
    model: MachineConstants | CpuConstants
    calibration: Calibration | None = None
    evidence: tuple[Evidence, ...] = ()
    provenance: dict[str, str]
    borrowed: dict[str, str] = field(default_factory=dict, metadata={"derived": True})
    variants: tuple[str, ...] = field(default=(), metadata={"derived": True})
    changes: dict[str, str] = field(default_factory=dict, metadata={"derived": True})

    def __post_init__(self) -> None:
        if not all(name.strip() for name in self.names):
            raise InputError("name and aliases must not be empty")
        if self.vendor == "nvidia" and self.compute_capability is None:
            raise InputError("an nvidia device needs compute_capability, such as 8.0")
        for row in self.evidence:
            if row.dtype not in self.compute.peak_flop_per_s:
                raise InputError(f"evidence in {row.dtype}, for which compute.peak has no rate")
            if row.attn == "flash_attention_2" and not self.has_flash_attention(row.dtype):
                raise InputError(f"evidence with flash_attention_2 in {row.dtype}, which the device cannot run")
        is_cpu = self.vendor == "cpu"
        if isinstance(self.model, CpuConstants) != is_cpu or self.host.synchronous != is_cpu:
            raise InputError("vendor: cpu goes with a CPU's model (products, kinds, ...) and host.synchronous: true")
        if lacking := [dtype for dtype in self.compute.peak_flop_per_s if not self.model.has_products(dtype)]:
            raise InputError(f"model has no products in {', '.join(lacking)}, for which compute.peak has a rate")

    @property
    def gpu_model(self) -> MachineConstants:
        """The constants of a GPU."""
        assert isinstance(self.model, MachineConstants)
        return self.model

    @property
    def cpu_model(self) -> CpuConstants:
        """The constants of a CPU."""
        assert isinstance(self.model, CpuConstants)
        return self.model

    def has_flash_attention(self, dtype: str) -> bool:
        """Whether flash attention's kernels run: in 16 bit, on NVIDIA devices from sm80 on."""
        return dtype in ("fp16", "bf16") and (self.compute_capability or 0) >= 8

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical name and the aliases."""
        return (self.name, *self.aliases)


def load_hardware(name_or_path: str) -> Hardware:
    """The device of this name or alias (in any case), or of this file.

    A path is what holds a separator, ends in .yaml or .yml, or exists as a file. A name is looked up in the folders of
    $GPT2COST_HARDWARE_PATH and then among the shipped files. Files are parsed once while they stay unchanged.
    Raises InputError for an unknown name, with the nearest ones, and for a file that is wrong.
    """
    if not isinstance(name_or_path, str):
        raise InputError(f"hardware: expected a name or a path, got {echo(name_or_path)}")
    if _is_path(name_or_path):
        return validate_file(name_or_path)[0]
    key = name_or_path.casefold()
    for folder in _folders():
        for path in _candidates(folder, key):
            devices = validate_file(path)
            if path.stem.casefold() == key:
                return devices[0]
            for device in devices:
                if key in map(str.casefold, device.names):
                    return device
    hint = f", {nearest(name_or_path, hardware_names())}".rstrip(", ")
    raise InputError(
        f"unknown hardware {echo(name_or_path)}{hint} "
        "(`gpt2cost hardware list` shows all; a path to a YAML file is fine too)"
    )


def validate_file(path: str | Path) -> tuple[Hardware, ...]:
    """The device of a file and then its variants. Raises InputError that lists what is wrong with the file."""
    try:
        stat = Path(path).stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError):
        stamp = (0, 0)  # reading it says what is wrong
    return _load_file(Path(path), stamp)


def change_hardware(device: Hardware, changes: Mapping[str, object]) -> Hardware:
    """`device` with constants set: `{"memory.bandwidth": "2 TB/s"}`, paths and values as its file has them.

    The name says so, and the evidence goes: it was measured on the device as it is. Raises `InputError` for an unknown
    path, with the nearest, and for a value that a file could not have there.
    """
    if not changes:
        return device
    changed = device
    for path, value in changes.items():
        if path.partition(".")[0] not in CHANGEABLE:
            hint = nearest(path.partition(".")[0], CHANGEABLE) or f"known: {', '.join(CHANGEABLE)}"
            raise InputError(f"hw-set: {plain(path)}: unknown key; {hint}")
        tree = yaml_value(value, f"hw-set: {plain(path)}") if isinstance(value, str) else value
        changed = change(changed, path, tree, "hw-set")
    written = {path: str(value) for path, value in changes.items()}
    name = f"{device.name}[{','.join(f'{path}={value}' for path, value in written.items())}]"
    return dataclasses.replace(changed, name=name, aliases=(), evidence=(), changes={**device.changes, **written})


def list_hardware() -> list[Hardware]:
    """All devices, variants included, by name: the user's own and the shipped. A name found twice counts once."""
    found: dict[str, Hardware] = {}
    for folder in _folders():
        for path in _files(folder):
            for device in validate_file(path):
                found.setdefault(device.name.casefold(), device)
    return [found[key] for key in sorted(found, key=_natural_order)]


def hardware_names() -> list[str]:
    """All names and aliases that `load_hardware` knows, sorted. Of the user's own files only the file names."""
    own = {path.stem for folder in _folders()[:-1] for path in _files(folder)}
    shipped = {name for path in _files(_folders()[-1]) for device in validate_file(path) for name in device.names}
    return sorted(own | shipped, key=_natural_order)


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Sorts l4 before l40s, and m1-max-24c before m1-max-32c."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _is_path(text: str) -> bool:
    if os.sep in text or (os.altsep and os.altsep in text) or text.lower().endswith((".yaml", ".yml")):
        return True
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # no possible file name
        return False


def _folders() -> list[Path]:
    """Where names are looked up, in order; the shipped folder is last."""
    own = os.environ.get(PATH_VARIABLE, "").split(os.pathsep)
    return [Path(folder) for folder in own if folder] + [data_dir("hardware")]


def _files(folder: Path) -> list[Path]:
    """The YAML files of a folder; none if there is no such folder."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".yaml", ".yml"))
    except OSError:
        return []


def _candidates(folder: Path, key: str) -> Iterator[Path]:
    """Files of a folder that may hold the device `key`, the likeliest first, so that few are parsed.

    First the file of that name, then those that mention it: on a line of aliases, then anywhere.
    """
    files = _files(folder)
    yield from (path for path in files if path.stem.casefold() == key)
    mention = re.compile(rf"(?<![\w-]){re.escape(key)}(?![\w-])")
    elsewhere = []
    for path in files:
        lines = [line for line in read_text(path).casefold().splitlines() if mention.search(line)]
        if any("aliases:" in line for line in lines):
            yield path
        elif lines:
            elsewhere.append(path)
    yield from elsewhere


@lru_cache(maxsize=256)
def _load_file(path: Path, stamp: tuple[int, int]) -> tuple[Hardware, ...]:
    """See `validate_file`. `stamp` (time of change, size) tells a changed file from a cached one."""
    where, tree = plain(str(path)), _read(path)
    variants = tree.pop("variants", {})
    if not isinstance(variants, dict) or not all(isinstance(name, str) for name in variants):
        raise InputError(f"{where}: $.variants: expected a mapping from names to what differs, got {echo(variants)}")
    devices = [_device(tree, where, tuple(variants))]
    base = {key: value for key, value in tree.items() if key not in ("aliases", "evidence")}
    for name, changes in variants.items():
        here = f"{where}: variant {plain(name)}"
        if not isinstance(changes, dict) or "name" in changes:
            raise InputError(f"{here}: expected a mapping of what differs, without a name, got {echo(changes)}")
        devices.append(_device({**_merge(base, changes), "name": name}, here, ()))
    return tuple(devices)


def _read(path: Path) -> dict[Any, Any]:
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise InputError(f"{plain(str(path))}: expected a mapping with name, vendor, memory, ..., got {echo(tree)}")
    return dict(tree)


@lru_cache
def _read_shipped(path: Path) -> dict[Any, Any]:
    """`_read`, once: several sections and files borrow from the same device."""
    return _read(path)


def _device(tree: dict[Any, Any], where: str, variants: tuple[str, ...]) -> Hardware:
    sections = {key: _section(tree, key, where, ()) for key in SHARED_SECTIONS if key in tree}
    borrowed = {key: tree[key]["like"] for key in sections if isinstance(tree[key], dict) and "like" in tree[key]}
    device = build(Hardware, {**tree, **sections}, where)
    return dataclasses.replace(device, borrowed=borrowed, variants=variants)


def _section(tree: dict[Any, Any], key: str, where: str, trail: tuple[str, ...]) -> object:
    """A section with `like` replaced by what it borrows. `trail`: the devices already followed."""
    section = tree.get(key)
    if not isinstance(section, dict) or "like" not in section:
        return section
    like, shipped = section["like"], {path.stem: path for path in _files(data_dir("hardware"))}
    if not isinstance(like, str) or like not in shipped:
        hint = f", {nearest(like, shipped)}".rstrip(", ") if isinstance(like, str) else ""
        raise InputError(f"{where}: $.{key}.like: expected the name of a shipped device, got {echo(like)}{hint}")
    if like in trail:
        raise InputError(f"{where}: $.{key}.like: goes in a circle: {' -> '.join((*trail, like))}")
    lent = _section(_read_shipped(shipped[like]), key, where, (*trail, like))
    own = {name: value for name, value in section.items() if name != "like"}
    return _merge(lent, own) if isinstance(lent, dict) else lent


def _merge(base: dict[Any, Any], changes: dict[Any, Any]) -> dict[Any, Any]:
    """`base` with `changes` laid over it, mapping by mapping; neither is changed. `like: none` lays nothing under."""
    if changes.get("like") == "none":
        return {key: value for key, value in changes.items() if key != "like"}
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
