"""Decode steps against what DRAM must move at the least, and beside their neighbours in batch."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2cost import load_hardware, load_model, sweep
from gpt2cost.prediction.one_pass import run_pass
from gpt2cost.prediction.settings import How, Sizes

DEVICES = (
    "a100", "a100-pcie-40gb", "h100", "h200", "b200", "l40s", "l4", "t4", "v100-pcie", "a10", "a40", "rtx3080ti-laptop",
    "rtx3090", "rtx4090", "rtx5090",
)  # fmt: skip
BATCHES, CACHES = range(1, 129), (1, 255, 1023)


@pytest.mark.parametrize(("name", "runtime"), [("gpt2", "cuda-graph"), ("gpt2-xl", "compile")])
def test_no_decode_step_is_faster_than_its_memory_or_jumps(name: str, runtime: str) -> None:
    """Weights and the cache of earlier steps come from DRAM, the new cache goes there: all but what an L2 holds at the
    step's start and at its end. `torch.cat` writes the whole cache anew. No kernel of 16-bit products has a wave of
    tiles so large that one more sequence would cost a third more; but the new keys of several sequences are
    strided, and from two on eager `torch.cat` copies all of the cache element by element, which is left out."""
    model = load_model(name)
    width, layers = model.n_embd, model.n_layer
    weights = 2 * (layers * (12 * width * width + 13 * width) + model.vocab_size * width)
    batch, cache = np.array([BATCHES]).T, np.array([CACHES])
    moved = weights + 2 * 2 * layers * width * batch * (cache + (cache + 1))
    grid = sweep(name, DEVICES, batch=[*BATCHES], seq=1, cache=[*CACHES], dtype="fp16", runtime=runtime)
    for block, gpu in zip(grid.blocks(), DEVICES, strict=True):
        device_s = block.flat("device_s").reshape(moved.shape)
        memory = load_hardware(gpu).memory
        assert (device_s >= (moved - 2 * memory.l2_bytes) / memory.bandwidth_bytes_per_s).all(), gpu
        neighbours = device_s[1:] / device_s[:-1]
        assert neighbours.min() > 0.99 and neighbours[1:].max() < 1.35, gpu
        one, two = _without_cat(name, gpu, runtime)
        assert (two / one < 1.35).all(), gpu


def _without_cat(name: str, gpu: str, runtime: str) -> np.ndarray:
    """Device seconds of one and two sequences, but for the concatenations, by the tokens in the cache."""
    model, hw = load_model(name), load_hardware(gpu)
    sizes = Sizes(np.array([[1], [2]]), 1, np.array([CACHES]))
    kernels = run_pass(model, hw, How("fp16", runtime=runtime).on(model), sizes).kernels
    return sum(kernel.device_s for kernel in kernels if kernel.row.step.op != "cat")
