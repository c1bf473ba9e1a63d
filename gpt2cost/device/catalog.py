"""How a name finds its device: files read, sections borrowed, variants made, constants changed."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from gpt2cost.device.hardware import BOARD_POWER, Hardware
from gpt2cost.errors import InputError, InputWarning, echo, nearest, plain
from gpt2cost.files import data_dir, is_folder, read_text
from gpt2cost.schema import build, change, check_mapping
from gpt2cost.yaml_text import read_yaml, yaml_value

SHARED_SECTIONS = ("model", "host", "launch", "interconnect")
"""Sections that a file may borrow from another device."""
CHANGEABLE = ("memory", "compute", "launch", "host", "model", "interconnect", BOARD_POWER)
"""Sections whose constants `change_hardware` may set, and a constant in none."""
HOST_FACTOR = "host_factor"
"""What `change_hardware` takes beside their paths: a factor on all times of the host."""
PATH_VARIABLE = "GPT2COST_HARDWARE_PATH"
"""Environment variable with folders of the user's own hardware files, separated as in PATH."""

T = TypeVar("T")


def load_hardware(gpu: str | Path | Hardware) -> Hardware:
    """The device of this name or alias (in any case), or of this file; a `Hardware` is itself.

    A path is a `Path`, or text that holds a separator or ends in .yaml or .yml. A name is looked up in the folders of
    $GPT2COST_HARDWARE_PATH, among the shipped files, and at last as a file. Files are parsed once while they stay
    unchanged. Raises InputError for an unknown name, with the nearest ones, and for a file that is wrong, if it was
    asked for by its path or name; warns (`InputWarning`) of another such file in those folders, and goes on without.
    """
    if isinstance(gpu, Hardware):
        return gpu
    if isinstance(gpu, Path) or (isinstance(gpu, str) and _looks_like_a_path(gpu)):
        return validate_file(gpu, pipes=True)[0]
    if not isinstance(gpu, str):
        raise InputError(f"hardware: expected a name or a path, got {echo(gpu)}")
    key = gpu.casefold()
    for folder in _folders():
        for path in _candidates(folder, key):
            if path.stem.casefold() == key:
                return validate_file(path)[0]
            for candidate in _unless_bad(path, validate_file) or ():
                if key in map(str.casefold, candidate.names):
                    return candidate
    if _is_file(gpu):
        return validate_file(gpu, pipes=True)[0]
    if key == "cpu":
        raise InputError(
            "hardware: a CPU is measured first: gpt2cost calibrate --device cpu -o my-cpu.yaml, then --gpu my-cpu.yaml"
        )
    hint = f", {nearest(gpu, hardware_names())}".rstrip(", ")
    raise InputError(
        f"unknown hardware {echo(gpu)}{hint} (`gpt2cost hardware list` shows all; a path to a YAML file is fine too)"
    )


def validate_file(path: str | Path, pipes: bool = False) -> tuple[Hardware, ...]:
    """The device of a file and then its variants; `pipes`: see `read_text`.

    Raises InputError that lists what is wrong with the file.
    """
    try:
        stat = Path(path).stat()
        stamp = (stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError):
        stamp = (0, 0)  # reading it says what is wrong
    return _load_file(Path(path), stamp, pipes)


def change_hardware(hardware: Hardware, changes: Mapping[str, object]) -> Hardware:
    """`hardware` with constants set: `{"memory.bandwidth": "2 TB/s"}`, paths and values as its file has them.

    `{"host_factor": 1.4}` is for a machine whose CPU takes 1.4 times as long as the file's for everything. The name
    says what was changed, and the evidence goes: it was measured on the device as it is. Raises `InputError` for an
    unknown path, with the nearest, and for a value that a file could not have there.
    """
    check_mapping("hw-set", changes)
    if not changes:
        return hardware
    changed = hardware
    for path, value in changes.items():
        if path == HOST_FACTOR:
            changed = dataclasses.replace(changed, host=changed.host.scaled(_factor(value)))
            continue
        if path.partition(".")[0] not in CHANGEABLE:
            hint = nearest(path.partition(".")[0], CHANGEABLE) or f"known: {', '.join(CHANGEABLE)}"
            raise InputError(f"hw-set: {plain(path)}: unknown key; {hint}")
        tree = yaml_value(value, f"hw-set: {plain(path)}") if isinstance(value, str) else value
        changed = change(changed, path, tree, "hw-set")
    written: dict[str, str | float] = {path: str(value) for path, value in changes.items()}
    if HOST_FACTOR in written:
        written[HOST_FACTOR] = float(f"{_factor(changes[HOST_FACTOR]) * hardware.host_factor:g}")
    said = (f"host x{value:g}" if path == HOST_FACTOR else f"{path}={value}" for path, value in written.items())
    name = f"{hardware.name}[{';'.join(said)}]"  # no comma: names stand in CSV
    changes_in_all = {**hardware.changes, **written}
    return dataclasses.replace(
        changed, name=name, aliases=(), evidence=(), changes=changes_in_all, unchanged=hardware.unchanged or hardware
    )


def _factor(value: object) -> float:
    """A host factor, a number or text. Raises `InputError` for what is no number above 0."""
    try:
        factor = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        factor = math.nan
    if not 0 < factor < math.inf:
        raise InputError(f"host-factor: expected a number above 0, got {echo(value)}")
    return factor


def list_hardware() -> list[Hardware]:
    """All devices, variants included, by name: the user's own and the shipped. A name found twice counts once.

    Warns (`InputWarning`) of a file that is wrong, and goes on without it.
    """
    by_name: dict[str, Hardware] = {}
    for folder in _folders():
        for path in _files(folder):
            for device in _unless_bad(path, validate_file) or ():
                by_name.setdefault(device.name.casefold(), device)
    return [by_name[key] for key in sorted(by_name, key=_natural_order)]


def hardware_names() -> list[str]:
    """All names and aliases that `load_hardware` knows, sorted. Of the user's own files only the file names."""
    own = {path.stem for folder in _folders()[:-1] for path in _files(folder)}
    shipped = {name for path in _files(_folders()[-1]) for device in validate_file(path) for name in device.names}
    return sorted(own | shipped, key=_natural_order)


def _natural_order(name: str) -> list[tuple[int, str]]:
    """Sorts l4 before l40s, and m1-max-24c before m1-max-32c."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]


def _looks_like_a_path(text: str) -> bool:
    return os.sep in text or bool(os.altsep and os.altsep in text) or text.lower().endswith((".yaml", ".yml"))


def _is_file(text: str) -> bool:
    try:
        return Path(text).exists() and not Path(text).is_dir()
    except (OSError, ValueError):  # no possible file name
        return False


def _unless_bad(path: Path, read: Callable[[Path], T]) -> T | None:
    """What `read` makes of a file that nobody asked for; None, and a warning, where the file is wrong."""
    try:
        return read(path)
    except InputError as error:
        warnings.warn(f"skipped: {error}", InputWarning, stacklevel=3)
        return None


def _folders() -> list[Path]:
    """Where names are looked up, in order; the shipped folder is last."""
    own = [Path(folder) for folder in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if folder]
    for folder in own:
        if not is_folder(folder):
            warnings.warn(f"{PATH_VARIABLE}: no folder {plain(str(folder))}", InputWarning, stacklevel=3)
    return [*own, data_dir("hardware")]


def _files(folder: Path) -> list[Path]:
    """The YAML files of a folder, without hidden ones, as an editor's lock is; none if there is no such folder."""
    try:
        named = (path for path in folder.iterdir() if path.suffix.lower() in (".yaml", ".yml"))
        return sorted(path for path in named if not path.name.startswith("."))
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
        text = (_unless_bad(path, read_text) or "").casefold()
        if key not in text:
            continue
        lines = [line for line in text.splitlines() if mention.search(line)]
        if any("aliases:" in line for line in lines):
            yield path
        elif lines:
            elsewhere.append(path)
    yield from elsewhere


@lru_cache(maxsize=256)
def _load_file(path: Path, stamp: tuple[int, int], pipes: bool) -> tuple[Hardware, ...]:
    """See `validate_file`. `stamp` (time of change, size) tells a changed file from a cached one."""
    where, tree = plain(str(path)), _read(path, pipes)
    variants = tree.pop("variants", {})
    check_mapping(f"{where}: $.variants", variants)
    devices = [_device(tree, where, tuple(variants))]
    base = {key: value for key, value in tree.items() if key not in ("aliases", "evidence")}
    for name, changes in variants.items():
        here = f"{where}: variant {plain(name)}"
        if not isinstance(changes, dict) or "name" in changes:
            raise InputError(f"{here}: expected a mapping of what differs, without a name, got {echo(changes)}")
        tree_of_variant = {**_merge(base, changes), "name": name}
        tree_of_variant["provenance"] = _provenance_of_variant(devices[0], changes)
        devices.append(_device(tree_of_variant, here, ()))
    return tuple(devices)


def _provenance_of_variant(device: Hardware, changes: Mapping[Any, Any]) -> Any:
    """What was measured on the file's own device is borrowed in a variant that does not state its own source; what the
    variant has not, has none."""
    own = changes.get("provenance", {})
    if not isinstance(own, dict):
        return own
    borrowed = {
        path: f"borrowed from {device.name}: {text}"
        for path, text in device.provenance.items()
        if path.partition(".")[0] in ("model", "interconnect") and text.startswith(("measured", "fitted"))
    }
    kept = {path: text for path, text in device.provenance.items() if changes.get(path, text) is not None}
    return {**kept, **borrowed, **own}


def _read(path: Path, pipes: bool = False) -> dict[Any, Any]:
    tree = read_yaml(path, pipes)
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
