"""Which attention kernel runs: the rules of PyTorch's `sdp_utils`, written out case by case."""

from __future__ import annotations

import pytest

from gpt2cost import InputError, load_hardware
from gpt2cost.device.sdpa import check_attention_kernel, sdpa_kernel


@pytest.mark.parametrize(
    ("gpu", "dtype", "head_dim", "masked", "kernel"),
    [
        ("a100", "fp16", 64, False, "flash2"),
        ("h100", "bf16", 64, False, "cudnn"),  # as profiled on one
        ("h100", "fp16", 64, True, "cudnn"),
        ("b200", "bf16", 128, False, "cudnn"),
        ("h100", "fp32", 64, False, "efficient"),
        ("h100", "bf16", 256, False, "flash2"),  # FlashAttention-3 is not in PyTorch's wheels
        ("h100", "fp16", 36, False, "flash2"),  # cuDNN takes no head that is not aligned
        ("rtx5090", "bf16", 64, False, "flash2"),  # sm120
        ("rtx4090", "fp16", 80, False, "flash2"),
        ("rtx5090", "bf16", 36, False, "flash2"),  # PyTorch pads heads to a multiple of 8 for flash
        ("a100", "fp16", 264, False, "efficient"),  # flash ends at 256
        ("a100", "fp16", 64, True, "efficient"),  # flash takes no mask tensor
        ("a100", "fp32", 64, False, "efficient"),
        ("a100", "tf32", 64, True, "efficient"),
        ("t4", "fp16", 64, False, "efficient"),  # flash begins at sm80
        ("v100", "fp32", 63, False, "efficient"),  # no tensor cores in fp32 before sm80, so no alignment
        ("t4", "fp16", 36, False, "math"),  # 16 bytes: 8 elements
        ("a100", "fp16", 36, True, "math"),
        ("a100", "fp32", 36, False, "efficient"),  # 16 bytes: 4 elements
        ("a100", "fp32", 38, False, "math"),
        ("a100", "bf16", 300, False, "math"),
        ("m3-max", "fp16", 64, True, "mps"),
    ],
)
def test_sdpa_takes_the_first_that_can(gpu: str, dtype: str, head_dim: int, masked: bool, kernel: str) -> None:
    assert sdpa_kernel(load_hardware(gpu), dtype, head_dim, masked) == kernel


@pytest.mark.parametrize(
    ("gpu", "kernel", "dtype", "head_dim", "masked", "message"),
    [
        ("a100", "cudnn", "fp16", 64, False, "no constants of 'cudnn'; it has flash2, efficient, math"),
        ("t4", "flash2", "fp16", 64, False, "compute capability 8.0"),
        ("h100", "flash3", "fp32", 64, False, "fp16 or bf16"),
        ("h100", "flash3", "fp16", 257, False, "up to 256, got head_dim 257"),
        ("h100", "flash2", "fp16", 64, True, "no explicit mask; cudnn, efficient and math do"),
        ("b200", "flash3", "fp16", 64, False, "compute capability 9.0"),
        ("m1", "flash2", "fp16", 64, False, "it has mps, math"),
        ("h100", "efficient", "fp16", 65, False, "multiples of 8 in fp16, got head_dim 65"),
        ("a100", "efficient", "fp32", 66, True, "multiples of 4 in fp32, got head_dim 66"),
        ("h100", "cudnn", "bf16", 36, False, "multiples of 8 in bf16, got head_dim 36"),
    ],
)
def test_a_kernel_that_cannot_run(gpu: str, kernel: str, dtype: str, head_dim: int, masked: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_attention_kernel(load_hardware(gpu), kernel, dtype, head_dim, masked)
