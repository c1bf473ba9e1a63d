"""The hardware files that ship: each constant is plausible, as the datasheet has it, and has a source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import SHIPPED

from gpt2cost.device.catalog import hardware_names, list_hardware, load_hardware, validate_file
from gpt2cost.device.gpu_constants import MEMORY_KINDS
from gpt2cost.files import data_dir
from gpt2cost.prediction.trust import provenance_of

CANONICAL = [
    "a100-sxm-40gb",
    "a100-sxm-80gb",
    "a100-pcie-40gb",
    "a100-pcie-80gb",
    "h100-sxm-80gb",
    "h100-pcie-80gb",
    "h100-nvl-94gb",
    "h200-sxm-141gb",
    "b200-sxm-180gb",
    "rtx4090",
    "rtx3090",
    "rtx3080ti-laptop",
    "rtx5090",
    "rtx4080",
    "rtx4070",
    "rtx4060-laptop",
    "rtx3080-10gb",
    "rtx3060",
    "rtx-a6000",
    "rtx-pro-6000-server",
    "rtx-6000-ada",
    "l40",
    "a40",
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
        assert 6e9 <= memory.capacity_bytes <= 1e12
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
        assert 0.4e9 < peak["fp32"] / lanes < 2.9e9, "clock"


@pytest.mark.parametrize(
    ("name", "capacity", "bandwidth", "units", "fp32", "fp16"),
    [
        ("a100-sxm-40gb", 42.3e9, 1555e9, 108, 19.5e12, 312e12),
        ("a100-sxm-80gb", 85.096e9, 2039e9, 108, 19.5e12, 312e12),
        ("a100-pcie-80gb", 85.1e9, 1935e9, 108, 19.5e12, 312e12),
        ("h100-sxm-80gb", 85.018e9, 3350e9, 132, 66.9e12, 989e12),
        ("h100-pcie-80gb", 85e9, 2039e9, 114, 51.2e12, 756e12),
        ("h200-sxm-141gb", 150.1e9, 4800e9, 132, 66.9e12, 989e12),
        ("b200-sxm-180gb", 191.5e9, 8000e9, 148, 80e12, 2250e12),
        ("rtx4090", 25.4e9, 1008e9, 128, 82.6e12, 165.2e12),
        ("rtx3090", 25.4e9, 936e9, 82, 35.6e12, 71.2e12),
        ("l40s", 47.7e9, 864e9, 142, 91.6e12, 362e12),
        ("l40", 47.7e9, 864e9, 142, 90.5e12, 181e12),
        ("rtx-6000-ada", 51e9, 960e9, 142, 91.1e12, 364.2e12),
        ("rtx-2000-ada", 16.9e9, 224e9, 22, 12e12, 48e12),
        ("rtx-a6000", 51e9, 768e9, 84, 38.7e12, 154.8e12),
        ("rtx-a5000", 25.4e9, 768e9, 64, 27.8e12, 111.1e12),
        ("rtx-a4500", 21.1e9, 640e9, 56, 23.7e12, 94.6e12),
        ("rtx-a4000", 16.9e9, 448e9, 48, 19.2e12, 76.7e12),
        ("l4", 23.7e9, 300e9, 58, 30.3e12, 121e12),
        ("a10", 23.6e9, 600e9, 72, 31.2e12, 125e12),
        ("t4", 15.816e9, 320e9, 40, 8.1e12, 65e12),
        ("v100-sxm-32gb", 34.1e9, 900e9, 80, 15.7e12, 125e12),
        ("v100-pcie-32gb", 34.1e9, 900e9, 80, 14.1e12, 112e12),
        ("m1", 17.18e9, 68.25e9, 8, 2.62e12, 2.62e12),
        ("m1-max-24c", 68.72e9, 409.6e9, 24, 7.96e12, 7.96e12),
        ("m3-pro", 38.65e9, 153.6e9, 18, 6.44e12, 6.44e12),
        ("m3-max", 137.4e9, 409.6e9, 40, 14.3e12, 14.3e12),
        ("m3-max-30c", 137.4e9, 307.2e9, 30, 10.7e12, 10.7e12),
        ("m4-max", 137.4e9, 546e9, 40, 16.2e12, 16.2e12),
        ("m4-max-32c", 137.4e9, 410e9, 32, 12.9e12, 12.9e12),
    ],
)
def test_datasheet(name: str, capacity: float, bandwidth: float, units: int, fp32: float, fp16: float) -> None:
    device = load_hardware(name)
    assert (device.memory.capacity_bytes, device.memory.bandwidth_bytes_per_s) == (capacity, bandwidth)
    assert device.compute.units == units
    assert (device.compute.peak_flop_per_s["fp32"], device.compute.peak_flop_per_s["fp16"]) == (fp32, fp16)


@pytest.mark.parametrize(
    ("name", "reported"),
    [("a100", 85_095_874_560), ("h100", 85_018_279_936), ("t4", 15_816_216_576), ("4090", 25.39e9), ("a10", 23.6e9)],
)
def test_capacity_is_what_drivers_report(name: str, reported: float) -> None:
    """`total_memory` of torch.cuda.get_device_properties: not the number on the box, and neither its GB nor its GiB."""
    memory = load_hardware(name).memory
    assert memory.capacity_bytes == pytest.approx(reported, rel=2e-3)
    assert 0.4e9 <= memory.capacity_bytes - memory.usable_bytes <= 0.6e9


@pytest.mark.parametrize(
    ("name", "recommended"),
    [("m1", 11453.25e6), ("m1-pro", 22906.50e6), ("m1-max", 51539.61e6), ("m2-ultra", 154618.82e6)],
)
def test_a_macs_gpu_may_have_a_share(name: str, recommended: float) -> None:
    """Metal's recommendedMaxWorkingSetSize of Macs with 16, 32, 64 and 192 GB, as llama.cpp logs it."""
    assert load_hardware(name).memory.usable_bytes == pytest.approx(recommended, rel=2e-3)


@pytest.mark.parametrize("name", ["m1", "m1-max", "m2-pro", "m3", "m3-ultra", "m4-max"])
def test_gpu_core_bins_differ_in_their_cores_only(name: str) -> None:
    full, bin_ = validate_file(data_dir("hardware") / f"{name}.yaml")
    cores = bin_.compute.units / full.compute.units
    assert bin_.name == f"{name}-{bin_.compute.units}c"
    assert bin_.compute.peak_flop_per_s["fp32"] == pytest.approx(cores * full.compute.peak_flop_per_s["fp32"], rel=0.02)
    assert bin_.model.gemm == full.model.gemm
    assert (bin_.evidence, bin_.variants) == ((), ())
    assert not set(bin_.aliases) & set(full.aliases)


def test_every_gpu_of_the_training_survey_is_there() -> None:
    names = ["a100", "a100-pcie-80gb", "h100", "h100-pcie", "h100-nvl", "5090", "rtx-pro-6000-ws", "l40s", "l40", "l4"]
    names += [f"rtx-{n}-ada" for n in (6000, 4000, 2000)] + [f"rtx-a{n}" for n in (6000, 5000, 4500, 4000)]
    names += ["a40", "3090ti", "3090ti-nvlink", "3060-laptop", "v100", "4090"]
    assert all(load_hardware(name).interconnect is not None or name == "3060-laptop" for name in names)


@pytest.mark.parametrize(
    ("name", "watts"),
    [
        *[("a10", 150), ("a40", 300), ("a100-pcie-40gb", 250), ("a100-pcie-80gb", 300), ("a100-sxm-80gb", 400)],
        *[("b200", 1000), ("h100-nvl", 400), ("h100-pcie", 350), ("h100", 700), ("h200", 700), ("l4", 72)],
        *[("l40", 300), ("l40s", 350), ("t4", 70), ("v100", 300), ("v100-pcie", 250), ("v100-sxm-16gb", 300)],
        *[("3090", 350), ("3090ti", 450), ("4060", 115), ("4090", 450), ("5090", 575), ("rtx5090-400w", 400)],
        *[("rtx-a6000", 300), ("rtx-a4000", 140), ("rtx-2000-ada", 70), ("rtx-pro-6000", 600), ("m1", 39)],
    ],
)
def test_board_power_is_the_vendors(name: str, watts: float) -> None:
    assert load_hardware(name).board_power_w == watts


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_board_power_has_a_source_or_is_left_out(path: Path) -> None:
    """A variant's is its own. What watts a description names are these. Laptops' makers choose, and of a Mac's bins of
    fewer cores there is no figure."""
    for device in validate_file(path):
        source = device.provenance.get("board_power", "")
        if device.board_power_w is None:
            assert source == ""
            assert device.vendor == "apple" or "Laptop" in device.description or device.name == "h20"
            continue
        assert source.startswith(("datasheet: ", "measured: "))
        assert (device.vendor == "apple") == ("the whole machine's" in source)
        assert 20 <= device.board_power_w <= 1000
        for watts in re.findall(r"(\d+) W\b", device.description):
            assert device.board_power_w == float(watts)


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
    sections = {
        key: tree[key]
        for key in ("board_power", "memory", "compute", "launch", "host", "model", "interconnect")
        if key in tree
    }
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
        if isinstance(section, dict) and "like" in section:
            assert provenance[key].startswith(f"borrowed from {section['like']}: ")


NAMES_OF_KINDS = {"gelu": "GELU", "layer_norm": "layer norm", "elementwise": "element-wise"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_a_source_calls_assumed_or_borrowed_is_not_said_to_be_measured(path: Path) -> None:
    """The first words of the longest path that has a source decide. Catches a kind, or a rate, of which the source of
    the whole section says in passing that nobody has measured it."""
    device = load_hardware(path.stem)
    for section, text in device.provenance.items():
        if not (section.startswith(("model.memory", "model.attention")) and text.startswith(("measured", "fitted"))):
            continue
        for clause in text.split("; "):
            if not re.search("assumed|borrowed", clause):
                continue
            assert not re.search("the (rest|other kinds)", clause), (section, clause)
            named = [kind for kind in MEMORY_KINDS if re.search(rf"\b{NAMES_OF_KINDS.get(kind, kind)}\b", clause)]
            own = [f"model.memory.kinds.{kind}" for kind in named if "rows beyond" not in clause]
            own += [f"{section}.{rate}" for rate in re.findall(r"\b(?:fp32_)?unit_rate\b", clause)]
            for each in own:
                assert not provenance_of(device, each).startswith(("measured", "fitted")), (each, clause)
