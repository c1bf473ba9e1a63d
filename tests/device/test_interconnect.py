"""The `interconnect` section of a hardware file: read, borrowed, written, changed, refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import MY_GPU, file_refusal, write_yaml

from gpt2cost.device.catalog import change_hardware, load_hardware, validate_file
from gpt2cost.device.interconnect import AllReduceTable, Interconnect, Links, Network
from gpt2cost.device.to_yaml import hardware_yaml
from gpt2cost.errors import InputError

SECTION = """
interconnect:
  links: {kind: pcie, gpus: 4, latency: 15 us, all_reduce: {"2": {sizes: [1 MB, 8 MB], times: [60 us, 400 us]}}}
  network: {nics: 1, bus_bandwidth: 12 GB/s, latency: 100 us}
"""
TABLE = AllReduceTable(sizes_bytes=(1e6, 8e6), times_s=(60e-6, 400e-6))
LINKS = Links(kind="pcie", gpus=4, latency_s=15e-6, all_reduce={"2": TABLE})


def test_a_section(tmp_path: Path) -> None:
    (device,) = validate_file(write_yaml(tmp_path, MY_GPU + SECTION))
    network = Network(nics=1, bus_bandwidth_bytes_per_s=12e9, latency_s=100e-6)
    assert device.interconnect == Interconnect(links=LINKS, network=network)
    assert validate_file(write_yaml(tmp_path, MY_GPU))[0].interconnect is None


@pytest.mark.parametrize("name", ["h100", "rtx4090", "b200", "m1"])
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    device = load_hardware(name)
    (again,) = validate_file(write_yaml(tmp_path, hardware_yaml(device)))
    assert hardware_yaml(again) == hardware_yaml(device)
    assert (again.interconnect is None) == (device.interconnect is None)


def test_a_section_is_borrowed(tmp_path: Path) -> None:
    own = 'interconnect: {like: a100-sxm-80gb, network: null, links: {all_reduce: {"2": {latency: 9 us}}}}\n'
    (device,) = validate_file(write_yaml(tmp_path, MY_GPU + own))
    lender = load_hardware("a100").interconnect
    assert device.borrowed["interconnect"] == "a100-sxm-80gb"
    assert device.interconnect is not None
    assert lender is not None
    assert device.interconnect.network is None
    assert device.interconnect.links.all_reduce["2"].latency_s == 9e-6
    assert device.interconnect.links.all_reduce["8"] == lender.links.all_reduce["8"]


def test_a_constant_is_changed() -> None:
    slow = change_hardware(load_hardware("h100"), {"interconnect.network.latency": "1 ms"})
    assert slow.interconnect is not None
    assert slow.interconnect.network is not None
    assert slow.interconnect.network.latency_s == 1e-3
    with pytest.raises(InputError, match="either bus_bandwidth or tables in all_reduce"):
        change_hardware(load_hardware("h100"), {"interconnect.links.bus_bandwidth": "50 GB/s"})
    with pytest.raises(InputError, match="is not set"):
        change_hardware(load_hardware("m1"), {"interconnect.links.gpus": 2})


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: pcie", "kind: ethernet", ".links.kind: expected one of nvlink, pcie, got 'ethernet'"),
        ("gpus: 4", "gpus: 1", ".links.gpus: expected a whole number from 2 to 1024, got 1"),
        ("gpus: 4", "gpu: 4", ".links.gpus: missing"),
        ("latency: 15 us", "latency: 15", ".links.latency: expected a time such as '2.4 us', got 15"),
        ("latency: 15 us", "latency: 15 us, bus_bandwidth: 9 GB/s", ".links: expected either bus_bandwidth or tables"),
        ('all_reduce: {"2"', 'all_reduce: {"5"', ".links: all_reduce: expected a number from 2 to 4 as a key, got '5'"),
        ('all_reduce: {"2"', 'all_reduce: {"02"', ".links: all_reduce: expected a number from 2 to 4 as a key"),
        ('all_reduce: {"2"', 'all_reduce: {"two"', ".links: all_reduce: expected a number from 2 to 4 as a key"),
        ("sizes: [1 MB, 8 MB]", "sizes: [1 MB]", ".links.all_reduce.2: expected as many times as sizes"),
        ("sizes: [1 MB, 8 MB]", "sizes: [8 MB, 8 MB]", ".links.all_reduce.2: sizes: expected each above the one"),
        ("sizes: [1 MB, 8 MB]", "sizes: [1, 8 MB]", ".links.all_reduce.2.sizes[0]: expected a size such as"),
        ("60 us, 400 us", "600 us, 400 us", ".links.all_reduce.2: times: expected none below the one before"),
        ("60 us, 400 us]", "60 us, 400 us], latency: 70 us", ".links.all_reduce.2: times: expected none below the one"),
        ("nics: 1", "nics: 0", ".network.nics: expected a whole number from 1 to 1024, got 0"),
        ("nics: 1", "cards: 1", ".network.nics: missing; $.interconnect.network.cards: unknown key"),
    ],
)
def test_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in SECTION
    refused = file_refusal(write_yaml(tmp_path, MY_GPU + SECTION.replace(old, new)))
    assert refused.startswith(f"$.interconnect{message}")
