"""The kernels of training on GPUs beside published times: backward products and attention, and what moves bytes.

Each group prints its errors. In sample are the cross-entropy, the embedding and AdamW on the A100, and the A5000's
attention; all else is predicted from constants of inference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from gpt2cost import load_hardware
from gpt2cost.table.builders import tensor
from gpt2cost.table.citations import Citation
from gpt2cost.table.formula import formula
from gpt2cost.table.kernel import Foreach, FusedAttention, Gemm, Kernel, Parameter
from gpt2cost.table.symbols import f32
from gpt2cost.timing.gpu_attention import attention_terms
from gpt2cost.timing.gpu_gemm import gemm_terms
from gpt2cost.timing.kernel import kernel_terms

NOWHERE = Citation("", "", "")
LIGER = "linkedin/Liger-Kernel@ead96b6: PyTorch in fp32, medians"
KITTENS = "code index id 55561960129: a tuned program in bf16 on an RTX 5090, 65,536 tokens of 768"


def seconds(
    gpu: str, op: str, read: list[int], written: list[int], size: int = 4, columns: int = 1,
    kind: str = "elementwise", **more: object,
) -> float:  # fmt: skip
    """One launch of a kernel that reads and writes tensors of so many elements of `size` bytes, all of them cold."""
    inputs, outputs = (
        tuple(tensor(f"{side}{n}", elements, element=f32) for n, elements in enumerate(counts))
        for side, counts in (("in", read), ("out", written))
    )
    kernel = Kernel("k", op, kind, inputs, outputs, formula(0), NOWHERE, columns=formula(columns), **more)  # type: ignore[arg-type]
    hw = load_hardware(gpu)
    return float(kernel_terms(kernel, {"stat_bytes": size}, hw, "fp32", False, [math.inf] * len(read)).device_s)


def check(group: str, predicted: Mapping[str, float], measured: Mapping[str, float], mean: float, worst: float) -> None:
    """Print each error, and hold the group's mean and worst absolute ones to what is known of the form."""
    errors = {name: predicted[name] / measured[name] - 1.0 for name in measured}
    print(f"\n{group}: " + ", ".join(f"{name} {error:+.1%}" for name, error in errors.items()))
    absolute = np.abs([*errors.values()])
    assert absolute.mean() < mean, group
    assert absolute.max() < worst, group


CROSS_ENTROPY = {32768: (5.317e-3, 15.486e-3), 65536: (10.615e-3, 30.778e-3), 131072: (20.73e-3, 60.44e-3)}
"""Vocabulary -> seconds of forward, and of both, for 16,384 tokens on an A100. LIGER."""


def test_cross_entropy_over_a_vocabulary() -> None:
    tokens = 16384
    predicted: dict[str, float] = {}
    measured: dict[str, float] = {}
    for vocabulary, (forward_s, both_s) in CROSS_ENTROPY.items():
        logits = tokens * vocabulary
        measured |= {f"forward {vocabulary}": forward_s, f"backward {vocabulary}": both_s - forward_s}
        predicted[f"forward {vocabulary}"] = seconds("a100", "_log_softmax", [logits], [logits], columns=vocabulary)
        predicted[f"backward {vocabulary}"] = seconds("a100", "nll_loss_backward", [tokens], [logits]) + seconds(
            "a100", "_log_softmax_backward_data", [logits, logits], [logits], columns=vocabulary
        )
    check("cross-entropy, in sample", predicted, measured, 0.04, 0.08)


LAYER_NORM = {
    ("a100", 1024): (0.034e-3, 0.085e-3), ("a100", 4096): (0.122e-3, 0.309e-3), ("a100", 16384): (0.507e-3, 1.114e-3),
    ("h100", 1024): (0.0236e-3, 0.0605e-3), ("h100", 4096): (0.0662e-3, 0.1788e-3),
    ("h100", 16384): (0.3068e-3, 0.6424e-3),
}  # fmt: skip
"""Device and columns -> seconds of forward and backward of 4096 rows in fp32. LIGER."""


def test_backward_of_layer_norm() -> None:
    predicted = {
        f"{gpu} {columns}": seconds(
            gpu, "native_layer_norm_backward", [4096 * columns] * 2, [4096 * columns], columns=columns
        )
        for gpu, columns in LAYER_NORM
    }
    measured = {f"{gpu} {columns}": backward_s for (gpu, columns), (_, backward_s) in LAYER_NORM.items()}
    check("layer norm backward", predicted, measured, 0.15, 0.3)


def test_bytes_of_training_on_an_rtx_5090() -> None:
    """KITTENS. Its bias gradient of 768 columns is left out: 100 MB, which it finds in L2 of 96 MB."""
    wide, tokens = 3072, 65536
    measured = {
        "gelu": 535e-6, "gelu_backward": 799e-6, "sum 2304": 188e-6, "sum 3072": 247e-6, "zeros": 4195e-6,
        "_fused_adamw_": 1856e-6,
    }  # fmt: skip
    weights = Foreach((Parameter("weights", (formula(124_475_904),), formula(1)),), 4)
    predicted = {
        "gelu": seconds("rtx5090", "gelu", [tokens * wide], [tokens * wide], 2),
        "gelu_backward": seconds("rtx5090", "gelu_backward", [tokens * wide] * 2, [tokens * wide], 2),
        "sum 2304": seconds("rtx5090", "sum", [tokens * 2304], [2304], 2),
        "sum 3072": seconds("rtx5090", "sum", [tokens * wide], [wide], 2),
        "zeros": seconds("rtx5090", "zeros", [], [tokens * 50304], 2),
        "_fused_adamw_": seconds(
            "rtx5090", "_fused_adamw_", [124_475_904 * 6], [124_475_904 * 5], 2, shape=weights
        ),
    }  # fmt: skip
    check("bytes on an RTX 5090", predicted, measured, 0.08, 0.15)


ADAMW = {100: (6.46e-3, 2.30e-3), 500: (31.77e-3, 11.2e-3), 1000: (63.3e-3, 22.33e-3)}
"""Millions of parameters -> seconds of foreach AdamW's 80 bytes each, and of one kernel's 28, on an A100 (trinix).
Those of 10 million are left out: 0.2 ms of them are the host's."""


def test_adamw_on_an_a100() -> None:
    predicted: dict[str, float] = {}
    measured: dict[str, float] = {}
    for millions, (foreach_s, fused_s) in ADAMW.items():
        count = millions * 1_000_000
        weights = Foreach((Parameter("weights", (formula(count),), formula(1)),), 4)
        ops = ((1, 1), (2, 1), (1, 1), (2, 1), (1, 1), (1, 1), (1, 1), (3, 1))
        measured |= {f"foreach {millions}": foreach_s, f"fused {millions}": fused_s}
        predicted[f"foreach {millions}"] = sum(
            seconds("a100", "_foreach", [read * count], [written * count], shape=weights) for read, written in ops
        )
        predicted[f"fused {millions}"] = seconds("a100", "_fused_adamw_", [4 * count], [3 * count], shape=weights)
    check("AdamW on an A100, in sample", predicted, measured, 0.06, 0.15)


def test_gradient_of_an_embedding() -> None:
    """16,384 tokens of 768 out of 65,536 on an A100: 1.196 ms for both passes, 0.169 for the forward one. LIGER."""
    predicted = {"backward": seconds("a100", "embedding_dense_backward", [16384 * 768], [65536 * 768], kind="gather")}
    check("embedding, in sample", predicted, {"backward": 1.027e-3}, 0.1, 0.1)


PRODUCTS = {
    (2304, 768): (1037e-6, 1007e-6, 1103e-6), (768, 768): (369e-6, 366e-6, 375e-6),
    (3072, 768): (1490e-6, 1355e-6, 1521e-6), (768, 3072): (1391e-6, 1827e-6, 1470e-6),
    (50304, 768): (22336e-6, 21872e-6, 20894e-6),
}  # fmt: skip
"""(n, k) of a linear layer -> seconds of its forward product and of its gradients. KITTENS: with GELU in one forward
(3072, 768) and its gradient in one input gradient (768, 3072)."""


def test_gradients_of_products_go_by_the_products_form() -> None:
    hw, tokens = load_hardware("rtx5090"), 65536

    def product_s(m: int, n: int, k: int, transposed: bool = False) -> float:
        cold = math.inf
        terms = gemm_terms(
            hw, "bf16", 1.0, m, n, k, 2, weight_reuse=cold, input_reuse=cold, transposed=transposed
        )  # fmt: skip
        return float(terms.device_s)

    predicted: dict[str, float] = {}
    measured: dict[str, float] = {}
    for (n, k), (forward_s, input_s, weight_s) in PRODUCTS.items():
        measured |= {f"{n}x{k}": forward_s, f"{n}x{k} input": input_s, f"{n}x{k} weight": weight_s}
        predicted[f"{n}x{k}"] = product_s(tokens, n, k)
        predicted[f"{n}x{k} input"] = product_s(tokens, k, n)
        predicted[f"{n}x{k} weight"] = product_s(k, n, tokens, transposed=True)
    del measured["768x3072 input"]  # the gradient of GELU is in it
    check("products on an RTX 5090", predicted, measured, 0.08, 0.15)


def test_an_odd_vocabulary_slows_the_gradient_of_the_head() -> None:
    """50257 is the leading dimension of the logits' gradient, which both products read, one of them transposed."""
    hw, tokens = load_hardware("a100"), 16384
    for shape, transposed in (((tokens, 768, 50257), False), ((50257, 768, tokens), True)):
        even = (shape[0] + shape[0] % 2 * 47, 768, shape[2] + shape[2] % 2 * 47)
        odd_s, even_s = (
            gemm_terms(hw, "bf16", 1.0, m, n, k, 2, transposed=transposed).device_s for m, n, k in (shape, even)
        )
        assert odd_s > 1.03 * even_s


def test_gradient_of_an_embedding_is_filled_and_then_grows_with_its_rows() -> None:
    """Compiled code sorts no rows: it takes less than PyTorch does, and no less than to fill and to move them."""

    def gradient_s(op: str, rows: int) -> float:
        return seconds("a100", op, [rows * 768], [65536 * 768], kind="gather")

    filled_s = seconds("a100", "zeros", [], [65536 * 768], kind="fill")
    for rows in (1024, 4096, 16384, 65536):
        moved_s = rows * 768 * 4 * 2 / load_hardware("a100").memory.bandwidth_bytes_per_s
        compiled_s = gradient_s("index_put_", rows)
        assert filled_s + moved_s < compiled_s < gradient_s("embedding_dense_backward", rows)
    assert gradient_s("index_put_", 1024) < 1.3 * filled_s
    assert gradient_s("index_put_", 65536) > 2.0 * filled_s


A5000 = {512: (84.1, 52.9), 1024: (81.0, 62.5), 2048: (81.3, 70.1), 4096: (81.7, 74.8), 8192: (81.9, 77.4)}
"""Tokens -> TFLOP/s of FlashAttention-2 forward and backward, head_dim 64, not causal (gpu-mode/ring-attention#10)."""


def test_backward_of_flash_attention_gains_on_the_forward_with_the_keys() -> None:
    """The ratio of the two is the form's; both run on the same operands."""
    hw = load_hardware("rtx-a5000")
    predicted: dict[str, float] = {}
    measured: dict[str, float] = {}
    for tokens, (forward, backward) in A5000.items():
        shape = (32768.0 / tokens, 16.0, 64.0, float(tokens), 0.0)
        forward_s, backward_s = (
            float(attention_terms(hw, "fp16", "flash2", *shape, 2, causal=False, backward=way).device_s)
            for way in (False, True)
        )
        measured[str(tokens)] = backward / forward
        predicted[str(tokens)] = 2.5 * forward_s / backward_s
    check("attention backward over forward on an A5000, in sample", predicted, measured, 0.03, 0.09)


@pytest.mark.parametrize(("causal", "backward"), [(True, 96.5), (False, 124.8)])
def test_backward_of_flash_attention_on_an_rtx_4090(causal: bool, backward: float) -> None:
    """TFLOP/s at 2048 tokens, head_dim 64, half the square counted where causal (TileLang's table, apache/tvm)."""
    pairs, tokens = 128.0, 2048.0
    flops = 2.5 * 4 * pairs * 64 * tokens**2 * (0.5 if causal else 1.0)
    terms = attention_terms(
        load_hardware("rtx4090"), "fp16", "flash2", pairs, 1.0, 64.0, tokens, 0.0, 2, causal=causal, backward=True
    )
    assert flops / float(terms.device_s) == pytest.approx(1e12 * backward, rel=0.1)


@pytest.mark.parametrize("gpu", ["a100", "h100", "rtx4090", "t4", "v100"])
def test_gradients_of_attention_grow_with_the_tokens(gpu: str) -> None:
    """Also of sequences far shorter than those that were measured, which take little more than the launches."""
    hw, tokens = load_hardware(gpu), np.array([1, 2, 8, 16, 32, 64, 96, 128, 256, 512, 1024, 2048.0])
    kernel = "flash2" if hw.has_flash_attention("fp16") else "efficient"
    forward, backward = (
        attention_terms(hw, "fp16", kernel, 4.0, 12.0, 64.0, tokens, 0.0, 2, backward=way) for way in (False, True)
    )
    assert np.all(np.diff(backward.device_s) > 0)
    assert np.all(backward.device_s < 8 * forward.device_s)


@pytest.mark.parametrize("gpu", ["a100", "h100", "rtx4090", "t4"])
def test_gradients_take_more_than_the_forward(gpu: str) -> None:
    """Of attention in each dtype: at least twice its time, and all of it grows with the batch."""
    hw = load_hardware(gpu)
    sizes = (formula(1), formula(12), formula(64), formula(1024), formula(1024))
    operands = tuple(tensor(name, 12 * 1024 * 64, element=f32) for name in "qkv")
    for dtype in hw.compute.peak_flop_per_s:
        times = []
        for backward in (False, True):
            shape = FusedAttention(*sizes, masked=False, backward=backward)
            kernel = Kernel("attention", "attention", "attention", operands, operands, formula(0), NOWHERE, shape=shape)
            times.append(float(kernel_terms(kernel, {"stat_bytes": 4.0}, hw, dtype, False, [0.0] * 3).device_s))
        assert times[1] > 2.0 * times[0], dtype


def test_where_an_operand_lies_transposed_its_rows_are_those_of_m() -> None:
    """Whether they are aligned, m says and not k, as of the gradient of the head's weight."""
    hw = load_hardware("a100")
    operands = tuple(tensor(name, element=f32) for name in "ab")
    transposed_s, other_s = (
        kernel_terms(
            Kernel("lm_head.grad_weight", "mm", "gemm", operands, operands[:1], formula(0), NOWHERE, shape=shape),
            {"stat_bytes": 4.0}, hw, "bf16", False, [math.inf, math.inf],
        ).device_s
        for layout in ("TN", "NN")
        for shape in (Gemm(formula(1), formula(50257), formula(768), formula(16384), layout),)  # type: ignore[arg-type]
    )  # fmt: skip
    assert transposed_s > 1.03 * other_s


def test_load_lowers_the_rate_of_arithmetic_alone() -> None:
    """Products in 16 bit and attention take longer by it, fp32 on CUDA cores by its own; what moves bytes does not."""
    cold, tokens = load_hardware("a100-pcie-80gb"), 65536.0
    warm, share = cold.under_load, cold.compute.sustained
    assert 0.5 < share < 1.0
    assert warm.memory == cold.memory

    def ratio(dtype: str) -> float:
        before, after = (gemm_terms(hw, dtype, 1.0, tokens, 3072.0, 768.0, 2).device_s for hw in (cold, warm))
        return float(before / after)

    assert ratio("fp32") == pytest.approx(cold.compute.sustained_fp32, rel=0.02)
    assert share - 0.01 < ratio("bf16") < 0.5 + 0.5 * share
    assert share - 0.01 < ratio("tf32") < 0.5 + 0.5 * share
    shape = (64.0, 12.0, 64.0, 1024.0, 0.0)
    before, after = (attention_terms(hw, "bf16", "flash2", *shape, 2).device_s for hw in (cold, warm))
    assert share - 0.01 < before / after < 0.5 + 0.5 * share
    assert load_hardware("m1").under_load is load_hardware("m1")


def test_gradients_of_odd_rows_are_slow_unless_a_compiler_pads_them() -> None:
    """In 16 bit, where no 4 bytes at a time can be copied; what is read by rows that are even takes what it did."""
    hw, operands = load_hardware("a100"), tuple(tensor(name, element=f32) for name in "ab")

    def product_s(name: str, layout: str, dtype: str = "bf16", vocabulary: int = 50257, padded: bool = False) -> float:
        sizes = {"grad_input": (16384, 768, vocabulary), "grad_weight": (vocabulary, 768, 16384)}
        shape = Gemm(formula(1), *map(formula, sizes.get(name, (16384, vocabulary, 768))), layout)  # type: ignore[arg-type]
        kernel = Kernel(name, "mm", "gemm", operands, operands[:1], formula(0), NOWHERE, shape=shape, compiled=padded)
        return float(kernel_terms(kernel, {"stat_bytes": 4.0}, hw, dtype, False, [math.inf] * 2).device_s)

    for name, layout in (("grad_input", "NN"), ("grad_weight", "TN")):
        assert product_s(name, layout) > 4 * product_s(name, layout, vocabulary=50304)
        assert product_s(name, layout, padded=True) < 1.3 * product_s(name, layout, vocabulary=50304)
        assert product_s(name, layout, "tf32") < 1.3 * product_s(name, layout, "tf32", 50304)
    assert product_s("", "NT") < 1.3 * product_s("", "NT", vocabulary=50304)


def test_odd_rows_slow_down_arithmetic_and_not_what_moves_bytes() -> None:
    """Products of attention at an odd length move their operands as before, and take no longer than odd arithmetic."""
    hw, operands = load_hardware("a100"), tuple(tensor(name, element=f32) for name in "ab")

    def gradient_s(tokens: int) -> float:
        shape = Gemm(formula(768), formula(tokens), formula(64), formula(tokens), "TN")
        kernel = Kernel("grad_value", "bmm", "bmm", operands, operands[:1], formula(0), NOWHERE, shape=shape)
        return float(kernel_terms(kernel, {"stat_bytes": 4.0}, hw, "bf16", False, [math.inf] * 2).device_s)

    assert gradient_s(1024) < gradient_s(1023) < 6 * gradient_s(1024)
