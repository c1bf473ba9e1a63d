"""Names as drivers write them, from `nvidia-smi` and traces, and the devices that they mean."""

from __future__ import annotations

import pytest

from gpt2cost.device.catalog import list_hardware
from gpt2cost.device.driver_names import device_called

NAMES = {
    "NVIDIA A100-SXM4-80GB": "a100-sxm-80gb", "A100-SXM4-40GB": "a100-sxm-40gb",
    "NVIDIA A100 80GB PCIe": "a100-pcie-80gb", "NVIDIA A100-PCIE-40GB": "a100-pcie-40gb",
    "NVIDIA H100 80GB HBM3": "h100-sxm-80gb", "NVIDIA H100 PCIe": "h100-pcie-80gb", "NVIDIA H100 NVL": "h100-nvl-94gb",
    "NVIDIA H200": "h200-sxm-141gb", "NVIDIA B200": "b200-sxm-180gb", "Tesla T4": "t4", "NVIDIA L4": "l4",
    "NVIDIA L40": "l40", "NVIDIA L40S": "l40s", "NVIDIA A10": "a10", "NVIDIA A40": "a40",
    "Tesla V100-SXM2-32GB": "v100-sxm-32gb", "Tesla V100-PCIE-32GB": "v100-pcie-32gb",
    "NVIDIA GeForce RTX 4090": "rtx4090", "GeForce RTX 3090": "rtx3090", "NVIDIA GeForce RTX 5090": "rtx5090",
    "NVIDIA GeForce RTX 3080 Ti Laptop GPU": "rtx3080ti-laptop", "NVIDIA RTX A6000": "rtx-a6000",
    "NVIDIA GeForce RTX 4060 Laptop GPU": "rtx4060-laptop", "NVIDIA RTX 6000 Ada Generation": "rtx-6000-ada",
}  # fmt: skip
UNKNOWN = ["", "AMD Instinct MI300X", "NVIDIA GeForce GTX 1080", "Tesla P100-PCIE-16GB", "x" * 9999]


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_a_driver_s_name_is_a_device_s(name: str, expected: str) -> None:
    device = device_called(name)
    assert device is not None
    assert device.name == expected


@pytest.mark.parametrize(
    "name", ["", "AMD Instinct MI300X", "NVIDIA GeForce GTX 1080", "Tesla P100-PCIE-16GB", "x" * 9999]
)
def test_a_device_that_there_is_no_file_of(name: str) -> None:
    assert device_called(name) is None


def test_every_device_is_called_by_its_own_names() -> None:
    for device in list_hardware():
        for name in device.names:
            called = device_called(name)
            assert called is not None
            assert called.name == device.name, name
