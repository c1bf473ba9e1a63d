"""Hardware files: every shipped one is right, and every wrong one is refused in one line."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2cost.device import catalog, hardware
from gpt2cost.device.catalog import hardware_names, list_hardware, load_hardware, validate_file
from gpt2cost.device.gpu_constants import KindConstants
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError, InputWarning
from gpt2cost.files import SIZE_LIMIT, data_dir

SHIPPED = sorted(data_dir("hardware").glob("*.yaml"))
CANONICAL = [
    "a100-sxm-40gb",
    "a100-sxm-80gb",
    "a100-pcie-40gb",
    "a100-pcie-80gb",
    "h100-sxm-80gb",
    "h100-pcie-80gb",
    "h200-sxm-141gb",
    "b200-sxm-180gb",
    "rtx4090",
    "rtx3090",
    "rtx3080ti-laptop",
    "rtx5090",
    "l40s",
    "l4",
    "a10",
    "t4",
    "v100-sxm-32gb",
    "v100-pcie-32gb",
    "m1",
    "m1-pro",
    "m1-max",
    "m1-ultra",
    "m2",
    "m2-pro",
    "m2-max",
    "m2-ultra",
    "m3",
    "m3-pro",
    "m3-max",
    "m3-ultra",
    "m4",
    "m4-pro",
    "m4-max",
]
GOOD = """
name: my-gpu
vendor: nvidia
architecture: ampere_sm80
compute_capability: 8.0
memory: {capacity: 80 GB, bandwidth: 2 TB/s, l2: 40 MB, l2_bandwidth: 5 TB/s}
compute: {units: 108, peak: {fp32: 19.5 TFLOP/s, fp16: 312 TFLOP/s}}
launch: {like: a100-sxm-80gb}
host: {like: a100-sxm-80gb}
model: {like: a100-sxm-80gb}
provenance: {memory: datasheet}
"""


@pytest.fixture(autouse=True)
def no_user_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(catalog.PATH_VARIABLE, raising=False)


def write(folder: Path, text: str | bytes, name: str = "case.yaml") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    return path


def refusal(path: Path) -> str:
    """The message, less the path before it, with which a file is refused."""
    with pytest.raises(InputError) as caught:
        validate_file(path)
    message = str(caught.value)
    assert message.isprintable(), "one line"
    assert message.startswith(f"{path}: ")
    assert len(message) < 5000
    return message.removeprefix(f"{path}: ")


# --- the shipped files


def test_all_devices_are_there() -> None:
    assert sorted(path.stem for path in SHIPPED) == sorted(CANONICAL)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_file(path: Path) -> None:
    base, *variants = validate_file(path)
    assert base.name == path.stem
    assert base.variants == tuple(variant.name for variant in variants)
    for device in (base, *variants):
        peak, memory = device.compute.peak_flop_per_s, device.memory
        nvidia, capability = device.vendor == "nvidia", device.compute_capability or 0.0
        assert 8e9 <= memory.capacity_bytes <= 1e12
        assert 50e9 < memory.bandwidth_bytes_per_s < 10e12
        assert 1e6 < memory.l2_bytes < 0.01 * memory.capacity_bytes
        l2_copy = device.model.memory.l2_copy_bytes_per_s
        assert memory.bandwidth_bytes_per_s < l2_copy <= memory.l2_bandwidth_bytes_per_s
        assert peak["fp16"] >= peak["fp32"]
        assert ("tf32" in peak) == (nvidia and capability >= 8)
        assert ("bf16" in peak) == (capability >= 8 or (device.vendor == "apple" and not device.name.startswith("m1")))
        assert peak.get("bf16", peak["fp16"]) == peak["fp16"]
        assert peak["fp32"] <= peak.get("tf32", peak["fp32"]) <= peak["fp16"]
        assert nvidia == (device.compute_capability is not None)
        if nvidia:
            assert device.architecture.endswith(f"_sm{10 * capability:.0f}")
        assert 0.5e-6 < device.launch.graph_floor_s <= device.launch.stream_floor_s < 20e-6
        assert device.host.view_s < device.host.op_s <= device.host.module_s < 50e-6
        lanes = 2 * device.compute.units * 128  # most fp32 FLOPs a clock; sm70, sm75 and sm80 have half of it
        assert 0.4e9 < peak["fp32"] / lanes < 2.6e9, "clock"


@pytest.mark.parametrize(
    ("name", "capacity", "bandwidth", "units", "fp32", "fp16"),
    [
        ("a100-sxm-40gb", 40e9, 1555e9, 108, 19.5e12, 312e12),
        ("a100-sxm-80gb", 80e9, 2039e9, 108, 19.5e12, 312e12),
        ("a100-pcie-80gb", 80e9, 1935e9, 108, 19.5e12, 312e12),
        ("h100-sxm-80gb", 80e9, 3350e9, 132, 66.9e12, 989e12),
        ("h100-pcie-80gb", 80e9, 2039e9, 114, 51.2e12, 756e12),
        ("h200-sxm-141gb", 141e9, 4800e9, 132, 66.9e12, 989e12),
        ("b200-sxm-180gb", 180e9, 8000e9, 148, 80e12, 2250e12),
        ("rtx4090", 24e9, 1008e9, 128, 82.6e12, 165.2e12),
        ("rtx3090", 24e9, 936e9, 82, 35.6e12, 71.2e12),
        ("l40s", 48e9, 864e9, 142, 91.6e12, 362e12),
        ("l4", 24e9, 300e9, 58, 30.3e12, 121e12),
        ("a10", 24e9, 600e9, 72, 31.2e12, 125e12),
        ("t4", 16e9, 320e9, 40, 8.1e12, 65e12),
        ("v100-sxm-32gb", 32e9, 900e9, 80, 15.7e12, 125e12),
        ("v100-pcie-32gb", 32e9, 900e9, 80, 14.1e12, 112e12),
        ("m1", 16e9, 68.25e9, 8, 2.62e12, 2.62e12),
        ("m1-max-24c", 64e9, 409.6e9, 24, 7.96e12, 7.96e12),
        ("m3-pro", 36e9, 153.6e9, 18, 6.44e12, 6.44e12),
        ("m3-max", 128e9, 409.6e9, 40, 14.3e12, 14.3e12),
        ("m3-max-30c", 128e9, 307.2e9, 30, 10.7e12, 10.7e12),
        ("m4-max", 128e9, 546e9, 40, 16.2e12, 16.2e12),
        ("m4-max-32c", 128e9, 410e9, 32, 12.9e12, 12.9e12),
    ],
)
def test_datasheet(name: str, capacity: float, bandwidth: float, units: int, fp32: float, fp16: float) -> None:
    device = load_hardware(name)
    assert (device.memory.capacity_bytes, device.memory.bandwidth_bytes_per_s) == (capacity, bandwidth)
    assert device.compute.units == units
    assert (device.compute.peak_flop_per_s["fp32"], device.compute.peak_flop_per_s["fp16"]) == (fp32, fp16)


@pytest.mark.parametrize("name", ["m1", "m1-max", "m2-pro", "m3", "m3-ultra", "m4-max"])
def test_gpu_core_bins_differ_in_their_cores_only(name: str) -> None:
    full, bin_ = validate_file(data_dir("hardware") / f"{name}.yaml")
    cores = bin_.compute.units / full.compute.units
    assert bin_.name == f"{name}-{bin_.compute.units}c"
    assert bin_.compute.peak_flop_per_s["fp32"] == pytest.approx(cores * full.compute.peak_flop_per_s["fp32"], rel=0.02)
    assert bin_.model.gemm == full.model.gemm
    assert (bin_.evidence, bin_.variants) == ((), ())
    assert not set(bin_.aliases) & set(full.aliases)


def test_names_are_unique() -> None:
    names = [name.casefold() for device in list_hardware() for name in device.names]
    assert len(names) == len(set(names))
    assert sorted(hardware_names()) == sorted(names)


def leaves(tree: Any, path: str = "") -> list[str]:
    """Paths of a tree's scalars."""
    if not isinstance(tree, dict):
        return [path]
    return [leaf for key, value in tree.items() for leaf in leaves(value, f"{path}.{key}" if path else key)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_constant_has_a_source(path: Path) -> None:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    sections = {key: tree[key] for key in ("memory", "compute", "launch", "host", "model")}
    constants, provenance = leaves(sections), tree["provenance"]
    assert constants
    assert provenance
    words = ("datasheet", "measured: ", "fitted: ", "borrowed from ", "assumed: ")
    for key, source in provenance.items():
        assert source.startswith(words), key
        assert any(leaf == key or leaf.startswith(key + ".") for leaf in constants), (
            f"{key} is no constant of this file"
        )
    for leaf in constants:
        assert any(leaf == key or leaf.startswith(key + ".") for key in provenance), f"{leaf} has no source"
    for key, section in sections.items():
        if "like" in section:
            assert provenance[key].startswith(f"borrowed from {section['like']}: ")


# --- names


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("a100", "a100-sxm-80gb"),
        ("A100", "a100-sxm-80gb"),
        ("a100-SXM-40GB", "a100-sxm-40gb"),
        ("h100", "h100-sxm-80gb"),
        ("h200", "h200-sxm-141gb"),
        ("b200", "b200-sxm-180gb"),
        ("4090", "rtx4090"),
        ("RTX-4090", "rtx4090"),
        ("geforce-rtx-4090", "rtx4090"),
        ("3090", "rtx3090"),
        ("rtx-3090", "rtx3090"),
        ("v100", "v100-sxm-32gb"),
        ("m1-max-32c", "m1-max"),
        ("M1-Max-24c", "m1-max-24c"),
    ],
)
def test_alias(name: str, canonical: str) -> None:
    assert load_hardware(name).name == canonical


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        load_hardware("rtx4900")
    assert str(caught.value).startswith("unknown hardware 'rtx4900', did you mean 'rtx4090'")
    assert "gpt2cost hardware list" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", " ", "x" * 100_000, "a\0b", "a\nb", "\ud800", "a100\n", "..", ".", "*", "[", "a/\0", "\ud800/"]
)
def test_odd_names(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_hardware(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_list_is_in_natural_order() -> None:
    names = [device.name for device in list_hardware()]
    assert names.index("l4") < names.index("l40s")
    assert names.index("m1-max") < names.index("m1-max-24c") < names.index("m2")
    assert len(names) == len(CANONICAL) + 15


def test_file_beats_folder_beats_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    write(own, GOOD + "aliases: [Mine, t4]\n", "my-gpu.yaml")
    write(other, GOOD.replace("my-gpu", "second") + "aliases: [mine]\n", "l4.yml")
    folders = os.pathsep.join(map(str, (own, tmp_path / "missing", other, "")))
    monkeypatch.setenv(catalog.PATH_VARIABLE, folders)
    assert load_hardware("MY-GPU").name == load_hardware("mine").name == load_hardware("T4").name == "my-gpu"
    assert load_hardware("l4").name == load_hardware("second").name == "second"
    assert load_hardware("a100").name == "a100-sxm-80gb"
    assert {"my-gpu", "second", "t4"} <= {device.name for device in list_hardware()}
    monkeypatch.chdir(other)
    assert load_hardware("l4.yml").name == load_hardware("./l4.yml").name == "second"
    assert load_hardware(Path("l4.yml")) is load_hardware("l4.yml")


def test_a_stray_file_does_not_hide_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a100", "strange"):
        write(tmp_path, GOOD, name)
    assert load_hardware("a100").name == "a100-sxm-80gb"
    assert load_hardware("./a100").name == load_hardware(Path("a100")).name == "my-gpu"
    assert load_hardware("strange").name == "my-gpu", "no device has this name"


@pytest.mark.parametrize("bad", ["syntax", "schema", "NUL", "link", "folder", "fifo"])
def test_a_bad_file_among_the_users_own_is_skipped(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bad.yaml"
    match bad:
        case "link":
            path.symlink_to(tmp_path / "nowhere")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            write(tmp_path, {"syntax": "aliases: [t4", "schema": "aliases: [t4]", "NUL": "\0t4"}[bad], "bad.yaml")
    write(tmp_path, GOOD, "good.yaml")
    monkeypatch.setenv(catalog.PATH_VARIABLE, str(tmp_path))
    for find in (lambda: load_hardware("t4"), list_hardware):
        with pytest.warns(InputWarning, match=r"bad\.yaml: ") as seen:
            find()
        assert len(seen) == 1
        assert str(seen[0].message).isprintable()
    with pytest.warns(InputWarning):
        assert {"my-gpu", "t4"} <= {device.name for device in list_hardware()}
    assert "bad" in hardware_names(), "of the user's own files only the file names are looked at"
    for asked in ("bad", str(path)):
        with pytest.raises(InputError, match=r"bad\.yaml: "):
            load_hardware(asked)


def test_a_device_stands_for_itself_and_is_a_key() -> None:
    device = load_hardware("a100")
    catalog._load_file.cache_clear()
    again = load_hardware("a100")
    assert load_hardware(device) is device
    assert again is not device
    assert again == device
    assert {device: 1}[again] == 1
    faster = catalog.change_hardware(device, {"memory.bandwidth": "9 TB/s"})
    assert faster != device
    assert dataclasses.replace(device, provenance={}) != device


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    first = load_hardware(str(path))
    assert load_hardware(str(path)) is first
    write(tmp_path, GOOD.replace("units: 108", "units: 1080"))
    assert load_hardware(str(path)).compute.units == 1080


# --- borrowed sections and variants


def test_like_takes_a_section_whole_with_overrides(tmp_path: Path) -> None:
    lender = load_hardware("a100-sxm-80gb")
    changes = (
        "gemm: {fp16: {launch: 9 us}}, memory: {l2_copy: 1 TB/s, kinds: {copy: {like: none, dram_efficiency: 0.5}}}"
    )
    text = GOOD.replace("model: {like: a100-sxm-80gb}", f"model: {{like: a100-sxm-80gb, {changes}}}")
    (device,) = validate_file(write(tmp_path, text))
    assert device.launch == lender.launch
    assert device.host == lender.host
    assert device.model.memory.l2_copy_bytes_per_s == 1e12
    assert device.model.memory.kinds == {**lender.model.memory.kinds, "copy": KindConstants(dram_efficiency=0.5)}
    assert device.model.gemm["fp16"] == dataclasses.replace(lender.model.gemm["fp16"], launch_s=9e-6)
    assert device.model.gemm["fp32"] == lender.model.gemm["fp32"]
    assert device.borrowed == {"model": "a100-sxm-80gb", "host": "a100-sxm-80gb", "launch": "a100-sxm-80gb"}
    assert lender.borrowed == {}


def test_like_goes_along_a_chain_but_not_in_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = (data_dir("hardware") / "a100-sxm-80gb.yaml").read_text(encoding="utf-8")
    write(tmp_path, full, "a100-sxm-80gb.yaml")
    for name, like in {"b": "a100-sxm-80gb", "c": "b", "x": "y", "y": "z", "z": "x"}.items():
        write(
            tmp_path,
            GOOD.replace("my-gpu", name).replace("model: {like: a100-sxm-80gb", f"model: {{like: {like}"),
            f"{name}.yaml",
        )
    monkeypatch.setattr(catalog, "data_dir", lambda kind: tmp_path)
    assert load_hardware("c").model == load_hardware("a100-sxm-80gb").model
    assert load_hardware("c").borrowed["model"] == "b"
    assert refusal(tmp_path / "x.yaml") == "$.model.like: goes in a circle: y -> z -> x -> y"


@pytest.mark.parametrize("like", ["a100", "nowhere", "1", "[a]", "null", "../a100-sxm-80gb"])
def test_like_names_a_shipped_file(tmp_path: Path, like: str) -> None:
    message = refusal(write(tmp_path, GOOD.replace("host: {like: a100-sxm-80gb}", f"host: {{like: {like}}}")))
    assert message.startswith("$.host.like: expected the name of a shipped device, got ")


def test_variants(tmp_path: Path) -> None:
    text = GOOD + "variants: {small: {aliases: [tiny], memory: {capacity: 1 GB}}, odd: {}}\naliases: [big]\n"
    base, small, odd = validate_file(write(tmp_path, text))
    assert (base.names, small.names, odd.names) == (("my-gpu", "big"), ("small", "tiny"), ("odd",))
    assert small.memory.capacity_bytes == 1e9
    assert small.memory.bandwidth_bytes_per_s == base.memory.bandwidth_bytes_per_s
    assert base.variants == ("small", "odd")


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("[a]", "$.variants: expected a mapping"),
        ("{1: {}}", "$.variants: expected a mapping"),
        ("{a: 1}", "variant a: expected a mapping"),
        ("{a: {name: b}}", "variant a: expected a mapping of what differs, without a name"),
        ("{a: {memory: {capacity: 1}}}", "variant a: $.memory.capacity: expected a size"),
        ("{a: {variants: {}}}", "variant a: $.variants: unknown key"),
    ],
)
def test_wrong_variants(tmp_path: Path, variants: str, message: str) -> None:
    assert refusal(write(tmp_path, GOOD + f"variants: {variants}\n")).startswith(message)


# --- what is refused


def test_good(tmp_path: Path) -> None:
    (device,) = validate_file(write(tmp_path, "\ufeff" + GOOD))
    assert device.memory == hardware.Memory(80e9, 2e12, 40e6, 5e12)


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = (
        GOOD.replace("bandwidth: 2 TB/s", "bandwith: 3.35 TFLOP/s").replace("units: 108, ", "").replace("40 MB", "40")
    )
    assert refusal(write(tmp_path, text)) == (
        "$.memory.bandwidth: missing; $.memory.bandwith: unknown key, "
        "did you mean 'bandwidth', 'l2_bandwidth'?; "
        "$.memory.l2: expected a size such as '80 GB', got 40; $.compute.units: missing"
    )


EVIDENCE = "{source: s, model: gpt2, batch: 1, seq: 8, dtype: fp32, attn: sdpa, latency: 1 ms"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2 TB/s", "2 TFLOP/s", "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got '2 TFLOP/s'"),
        ("2 TB/s", "0 TB/s", "$.memory.bandwidth: expected a byte rate"),
        ("2 TB/s", "-2 TB/s", "$.memory.bandwidth: expected a byte rate"),
        ("2 TB/s", "nan TB/s", "$.memory.bandwidth: expected a byte rate"),
        ("2 TB/s", ".nan", "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got nan"),
        ("2 TB/s", ".inf", "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got inf"),
        ("2 TB/s", "{a: 1}", "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got a mapping"),
        ("2 TB/s", "9" * 3000, "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got a very large number"),
        ("2 TB/s", "0x" + "f" * 9000, "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got a very large"),
        ("2 TB/s", "9" * 9000, "not valid YAML: "),
        ("2 TB/s", "2001-99-99", "not valid YAML: "),
        ("units: 108", "units: 108.0", "$.compute.units: expected a whole number above 0, got 108.0"),
        ("units: 108", "units: true", "$.compute.units: expected a whole number above 0, got True"),
        ("units: 108", "units: 0", "$.compute.units: expected a whole number above 0, got 0"),
        ("units: 108", "units: 0x" + "f" * 9000, "$.compute.units: expected a whole number above 0, got a very large"),
        ("fp32: 19.5 TFLOP/s, ", "", "$.compute.peak.fp32: missing"),
        (
            "fp32: 19.5 TFLOP/s",
            "fp32: 19.5 TFLOP/s, fp64: 9 TFLOP/s",
            "$.compute.peak.fp64: unknown key, did you mean ",
        ),
        ("compute_capability: 8.0", "", "$: an nvidia device needs compute_capability, such as 8.0"),
        (
            "compute_capability: 8.0",
            "compute_capability: .nan",
            "$.compute_capability: expected a plain number above 0",
        ),
        (
            "compute_capability: 8.0",
            "compute_capability: 1" + "0" * 400,
            "$.compute_capability: expected a plain number",
        ),
        ("vendor: nvidia", "vendor: amd", "$.vendor: expected one of nvidia, apple, cpu, got 'amd'"),
        ("vendor: nvidia", "vendor: [nvidia]", "$.vendor: expected one of nvidia, apple, cpu, got a list"),
        ("vendor: nvidia", "vendor: nvidia\nvendor: nvidia", "line 4: the key 'vendor' is given twice"),
        ("vendor: nvidia", "vendor: nvidia\n1: 2", "$: expected printable text as a key, got 1"),
        ("vendor: nvidia", "vendor: nvidia\n? [a]\n: 2", "line 4: a key must be a plain name"),
        ("vendor: nvidia", "vendor: nvidia\nborrowed: {}", "$.borrowed: unknown key"),
        ("vendor: nvidia", "vendor: &v nvidia", "line 3: anchors and aliases"),
        ("vendor: nvidia", "vendor: *v", "line 3: anchors and aliases"),
        ("vendor: nvidia", "vendor: !!python/object:os.system nvidia", "line 3: tags (!) are not allowed"),
        ("vendor: nvidia", "vendor: !!str nvidia", "line 3: tags (!) are not allowed"),
        ("vendor: nvidia", "vendor: [a b: c: d", "line 3: not valid YAML: "),
        ("vendor: nvidia", "vendor: =", "line 3: not valid YAML: "),
        ("vendor: nvidia", "vendor: nvidia\n---\na: 1", "line 4: not valid YAML: "),
        ("vendor: nvidia", "vendor: " + "[" * 100_000, "line 3: nested deeper than 20 levels"),
        ("vendor: nvidia", "vendor: " + "{a: " * 100_000, "line 3: nested deeper than 20 levels"),
        ("vendor: nvidia", "\n".join(" " * i + "- " for i in range(900)), "line 3: not valid YAML: "),
        ("name: my-gpu", "name: a\0b", "holds a NUL character"),
        ("name: my-gpu", "name: \ud800", "not UTF-8 text"),
        ("name: my-gpu", 'name: "\\ud800"', "line 2: not valid YAML: "),
        ("name: my-gpu", 'name: "\\0"', "$.name: expected a line of text, got '\\x00'"),
        ("name: my-gpu", 'name: "a\\nb"', "$.name: expected a line of text"),
        ("name: my-gpu", "name: \x07", "not valid YAML: "),
        ("name: my-gpu", "name: ''", "$: name and aliases must not be empty"),
        ("name: my-gpu", "name: my-gpu\naliases: [4090]", "$.aliases[0]: expected a line of text, got 4090"),
        ("name: my-gpu", "name: my-gpu\naliases: big", "$.aliases: expected a list, got 'big'"),
        (
            "launch: {like: a100-sxm-80gb}",
            "launch: {}",
            "$.launch.stream_floor: missing; $.launch.graph_floor: missing",
        ),
        ("launch: {like: a100-sxm-80gb}", "launch:", "$.launch: expected a mapping, got nothing"),
        ("launch: {like: a100-sxm-80gb}", "", "$.launch: missing"),
        (
            "model: {like: a100-sxm-80gb}",
            "model: {like: m1, memory: {kinds: {copy: {dram_efficiency: 1.5}}}}",
            "$.model.memory.kinds.copy.dram_efficiency: expected a plain number above 0 and at most 1, such as 0.85",
        ),
        ("model: {like: a100-sxm-80gb}", "model: {like: t4, gemm: {fp8: {}}}", "$.model.gemm.fp8: unknown key"),
        ("fp16: 312 TFLOP/s", "bf16: 312 TFLOP/s}}\nx: {y: {", "$.x: unknown key"),
        ("provenance: {memory: datasheet}", "provenance: {memory: 1}", "$.provenance.memory: expected a line of text"),
        ("provenance:", f"evidence: [{EVIDENCE}, batch: 0}}]\nprovenance:", "line 11: the key 'batch' is given twice"),
        (
            "provenance:",
            f"evidence: [{EVIDENCE}, cache: -1}}]\nprovenance:",
            "$.evidence[0].cache: expected a whole number",
        ),
        ("provenance:", f"evidence: [{EVIDENCE}, runtime: x}}]\nprovenance:", "$.evidence[0].runtime: expected one of"),
    ],
)
def test_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    path = write(tmp_path, GOOD.replace(old, new, 1))
    assert refusal(path).startswith(message)


def test_the_constants_of_any_gpu_may_be_borrowed(tmp_path: Path) -> None:
    """Catches a file that is refused, or loses constants, where it takes another vendor's."""
    (device,) = validate_file(write(tmp_path, GOOD.replace("model: {like: a100-sxm-80gb}", "model: {like: m1}")))
    assert device.model == load_hardware("m1").model
    assert device.borrowed["model"] == "m1"


def test_every_peak_needs_its_constants(tmp_path: Path) -> None:
    gemm = "{like: none, fp32: {tiles: [64x64], efficiency: 0.9, dram_efficiency: 0.8, launch: 2 us}}"
    text = GOOD.replace("model: {like: a100-sxm-80gb}", f"model: {{like: a100-sxm-80gb, gemm: {gemm}}}")
    assert refusal(write(tmp_path, text)) == "$: model has no products in fp16, for which compute.peak has a rate"


def test_many_problems_stay_short(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, GOOD + "".join(f"{'k' * 300}{i}: 1\n" for i in range(1000))))
    assert message.endswith("; and 980 more")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a mapping with name, vendor, memory, ..., got nothing"),
        (b"- a\n", "expected a mapping with name, vendor, memory, ..., got a list"),
        (b"hello\n", "expected a mapping with name, vendor, memory, ..., got 'hello'"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not UTF-8 text (byte 0); is it a binary file?"),
        (b"\0\0\0\0", "holds a NUL character; is it a binary file?"),
        (b"# " + b"x" * SIZE_LIMIT, "larger than 1 MB, so it is not such a file"),
        (
            b"a: &a [x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\n",
            "line 1: anchors and aliases (& and *) are not allowed",
        ),
    ],
)
def test_refused_content(tmp_path: Path, content: bytes, message: str) -> None:
    assert refusal(write(tmp_path, content)).startswith(message)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml") == "cannot read this file: No such file or directory"
    assert refusal(tmp_path) == "cannot read this file: Is a directory"
    with pytest.raises(InputError, match="cannot read this file"):
        load_hardware(str(tmp_path / "none.yaml"))


# --- fuzz: a file is a valid device or one InputError, nothing else

COUNTER = itertools.count()
FUZZ = settings(max_examples=100)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
QUANTITIES = st.sampled_from(
    ["1 GB", "1 us", "3 TB/s", "2 TFLOP/s", "0 GB", "a100-sxm-80gb", "like", "m1", "", "1e400 s"]
)
KEYS = st.sampled_from(["like", "name", "memory", "gemm", "fp32", "variants", "evidence", "<<"]) | SCALARS.filter(
    lambda x: x == x
)
TREES = st.recursive(
    SCALARS | QUANTITIES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def accept_or_refuse(folder: Path, content: bytes) -> None:
    path = write(folder, content, f"{next(COUNTER)}.yaml")
    try:
        devices = validate_file(path)
    except InputError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 10_000
    else:
        assert all(isinstance(device, Hardware) for device in devices)
    finally:
        path.unlink()


def dump(tree: object) -> bytes:
    text: str = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    return text.encode("utf-8", "surrogatepass")


@FUZZ
@given(st.binary(max_size=200) | st.text(alphabet="ab:{}[],-&*!|>'\"\\ \n\t#?%@<=.0189\0\ud800é", max_size=60).map(
    lambda text: text.encode("utf-8", "surrogatepass")
))  # fmt: skip
def test_fuzz_bytes(folder: Path, content: bytes) -> None:
    accept_or_refuse(folder, content)


@FUZZ
@given(TREES)
def test_fuzz_trees(folder: Path, tree: object) -> None:
    accept_or_refuse(folder, dump(tree))


@FUZZ
@given(st.data())
def test_fuzz_changed_values(folder: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(SHIPPED))
    tree = copy.deepcopy(yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    for _ in range(data.draw(st.integers(1, 3))):
        node: Any = tree
        while True:  # walk down to a random key, and replace, add or remove there
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and data.draw(st.booleans()):
                node = node[key]
                continue
            change = data.draw(st.sampled_from(["replace", "remove", "add"]))
            if change == "replace":
                node[key] = data.draw(TREES)
            elif change == "remove":
                del node[key]
            elif isinstance(node, dict):
                node[data.draw(KEYS)] = data.draw(TREES)
            else:
                node.append(data.draw(TREES))
            break
    accept_or_refuse(folder, dump(tree))


@FUZZ
@given(st.sampled_from(SHIPPED), st.floats(0, 1), st.integers(0, 20), st.binary(max_size=6))
def test_fuzz_changed_bytes(folder: Path, path: Path, where: float, removed: int, added: bytes) -> None:
    content = path.read_bytes()
    at = int(where * len(content))
    accept_or_refuse(folder, content[:at] + added + content[at + removed :])


# --- start-up


def test_import_is_light() -> None:
    """What this module itself needs: the package is a bare stand-in, because its own `__init__` imports more."""
    root = ROOT
    code = (
        "import sys, types; package = types.ModuleType('gpt2cost'); package.__path__ = ['gpt2cost']; "
        "sys.modules['gpt2cost'] = package; import gpt2cost.device.catalog as c; c.load_hardware('a100'); "
        "print([m for m in ('numpy', 'torch', 'transformers', 'rich', 'typer', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "files"), [("a100-sxm-80gb", 1), ("a100", 1), ("h100", 2), ("4090", 1), ("m1-max-24c", 1)]
)
def test_few_files_are_parsed(name: str, files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog._load_file.cache_clear()
    load_hardware(name)
    assert catalog._load_file.cache_info().misses <= files


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("dtype: bf16, attn: sdpa", "evidence in bf16, for which compute.peak has no rate"),
        ("dtype: fp32, attn: sdpa, kernels: {skale: div}", r"\$\.evidence\[0\]\.kernels\.skale: unknown key"),
        ("dtype: fp32, attn: sdpa, kernels: {scale: zzz}", "kernels.scale: expected one of mul, div, got 'zzz'"),
        (
            "dtype: fp16, attn: flash_attention_2",
            "evidence with flash_attention_2 in fp16, which the device cannot run",
        ),
        ("dtype: fp32, attn: sdpa, use_cache: false, cache: 7", "cache: expected 0 where use_cache is false"),
    ],
)
def test_evidence_that_the_device_cannot_have(row: str, message: str, tmp_path: Path) -> None:
    text = next(path for path in SHIPPED if path.stem == "t4").read_text("utf-8")
    case = f"evidence:\n  - {{source: me, model: gpt2, batch: 1, seq: 8, latency: 1 ms, {row}}}\n"
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("evidence:\n", case, 1), "utf-8")
    with pytest.raises(InputError, match=message):
        validate_file(path)
