"""What torch.compile saves between forward and backward, against the rules of `training_fusion`.

The oracle is its own partitioner, run with Inductor's decompositions on a tiny modular GPT on the CPU; what the forward
pass's graph returns is counted by storage.
"""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from helpers import values
from nanogpt_model import GPT, GPTConfig
from nanogpt_oracle import model_of, tiny
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table

from gpt2cost.table.options import TableOptions
from gpt2cost.table.training import saved, training_table
from gpt2cost.table.training_fusion import fuse_training


def saved_by_torch(config: GPTConfig, batch: int, seq: int) -> int:
    """Bytes of the storages that the compiled forward pass hands to the backward one, its inputs left out."""
    kept: dict[int, int] = {}

    def forward(graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            results = graph.forward(*args)
            own = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, torch.Tensor)}
            for result in results:
                if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in own:
                    kept[result.untyped_storage().data_ptr()] = result.untyped_storage().nbytes()
            run.results = results  # type: ignore[attr-defined]  # alive, so that no storage takes another's place
            return results

        return run

    backend = aot_autograd(
        fw_compiler=forward,
        bw_compiler=lambda graph, inputs: graph.forward,
        partition_fn=min_cut_rematerialization_partition,
        decompositions=select_decomp_table(),
    )
    torch._dynamo.reset()
    ids = torch.zeros(batch, seq, dtype=torch.long)
    loss = torch.compile(GPT(config).train(), backend=backend)(ids, ids)[1]
    loss.backward()
    return sum(kept.values())


@pytest.mark.filterwarnings("ignore:Your compiler for AOTAutograd")
@pytest.mark.parametrize(("n_layer", "bias"), [(2, True), (3, False)])
def test_what_is_saved_is_what_torch_saves(n_layer: int, bias: bool) -> None:
    """But for a row of position embeddings, and a number or two of each row. A layer norm's input is saved as it is
    here, and as its normalised self there. (With attention by hand in float32, torch also keeps the scores of each
    layer, though it has the probabilities.)"""
    config = tiny(n_layer=n_layer, n_head=2, n_embd=64, vocab_size=97, bias=bias)
    batch, seq = 4, 64
    options = TableOptions(impl="nanogpt", bias=bias, use_cache=False)
    compiled = fuse_training(training_table(options), a_bytes=4)
    sizes = values(model_of(config), "fp32", batch, seq, 0)
    inputs = {"idx", "targets"}  # of the compiled function
    predicted = sum(
        one.count.evaluate(sizes) * one.tensor.bytes.evaluate(sizes) * one.when.evaluate(sizes)
        for one in saved(compiled)
        if one.tensor.name not in inputs
    )
    assert predicted == pytest.approx(saved_by_torch(config, batch, seq), rel=0.02)
