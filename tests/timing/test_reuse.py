"""How far back each operand was last touched: beside a walk over every layer of the table, and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gpt2cost import predict
from gpt2cost.prediction.one_pass import symbol_values, table_rows
from gpt2cost.prediction.settings import Sizes
from gpt2cost.table.config import load_model
from gpt2cost.table.kernel import Kernel, Row, Tensor, short_path
from gpt2cost.table.liveness import OLD_CACHE
from gpt2cost.table.options import TableOptions
from gpt2cost.timing.reuse import reuse_bytes

MODEL = load_model("gpt2")


def distances(options: TableOptions, sizes: Sizes, runtime: str = "eager") -> dict[tuple[str, str], float]:
    """(kernel, input) -> bytes."""
    rows = table_rows(options, runtime)
    values = symbol_values(MODEL, "fp16", sizes)
    return {
        (short_path(row.path), tensor.name): distance
        for row, own in zip(rows, reuse_bytes(rows, values), strict=True)
        if isinstance(row.step, Kernel)
        for tensor, distance in zip(row.step.inputs, own, strict=True)
    }


def walked(rows: tuple[Row, ...], values: dict[str, int], layers: int) -> dict[tuple[str, str], float]:
    """The same for the last layer, by going through the kernels of every layer, one after the other."""
    first = next(row.index for row in rows if row.count != 1)
    block = [row for row in rows if row.count != 1]
    order = [(0, row) for row in rows[:first]]
    order += [(layer, row) for layer in range(layers) for row in block]
    order += [(0, row) for row in rows[first + len(block) :]]
    kernels = [(n, row) for n, row in order if isinstance(row.step, Kernel) and row.step.when.evaluate(values)]
    found = {}
    for place, (_, row) in enumerate(kernels):
        for tensor in row.step.inputs:
            names = {tensor.name, tensor.view_of or tensor.name}
            seen: dict[str, Tensor] = {}
            made: set[str] = set()
            for _, other in reversed(kernels[:place]):
                operands = (*other.step.inputs, *other.step.outputs)
                seen |= {operand.name: operand for operand in operands if operand.name not in seen}
                made |= {operand.name for operand in other.step.outputs}
                if not tensor.is_weight and tensor.name not in OLD_CACHE and names & {t.name for t in operands}:
                    own = [t for t in seen.values() if t.name in made or t.view_of not in made]
                    distance = sum(t.bytes.evaluate(values) for t in own)
                    found[short_path(row.path), tensor.name] = distance
                    break
    return found


@pytest.mark.parametrize("sizes", [Sizes(8, 512, 0), Sizes(8, 512, 64), Sizes(4, 1, 900), Sizes(1, 1, 5)])
@pytest.mark.parametrize("attn", ["eager", "sdpa", "flash_attention_2"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_distances_are_those_of_a_walk_through_the_layers(sizes: Sizes, attn: str, use_cache: bool) -> None:
    options = TableOptions(attn=attn, use_cache=use_cache)  # type: ignore[arg-type]
    if not use_cache:
        sizes = Sizes(sizes.batch_size, sizes.seq_len, 0)
    rows, values = table_rows(options, "eager"), symbol_values(MODEL, "fp16", sizes)
    formulas = distances(options, sizes)
    for key, distance in walked(rows, values, layers=3).items():
        assert formulas[key] == pytest.approx(distance, rel=0.01), key


def test_a_fresh_activation_is_near_and_a_weight_is_a_pass_away() -> None:
    found = distances(TableOptions(), Sizes(8, 1, 900))
    x = 8 * 768 * 2
    assert found["h.mlp.act.pow", "mlp.c_fc"] == 2 * 4 * x  # mul before it has read it, and written as much
    assert found["h.ln_1", "hidden_states"] == 3 * x  # the last layer's addition of two such tensors
    weights, cache = 124_439_808 * 2, 12 * 2 * 8 * 900 * 768 * 2
    assert found["h.mlp.c_fc", "mlp.c_fc.weight"] > weights + cache
    assert found["h.attn.cat_key", "past_key"] == found["h.mlp.c_fc", "mlp.c_fc.weight"]
    assert found["h.attn.scaled_dot_product_attention", "value"] == pytest.approx(2 * 8 * 900 * 768 * 2, rel=0.01)


def test_a_mask_of_all_layers_was_last_used_a_layer_ago() -> None:
    found = distances(TableOptions(attn="eager"), Sizes(2, 256, 0))
    layer_weights = 12 * 768 * 768 * 2
    assert layer_weights < found["h.attn.mask", "causal_mask.float"] < found["h.mlp.c_fc", "mlp.c_fc.weight"]


def test_compiled_lm_head_finds_what_the_last_fusion_made() -> None:
    found = distances(TableOptions(), Sizes(8, 512, 0), "compile")
    assert found["lm_head", "ln_f"] < found["lm_head", "lm_head.weight"]


def test_distances_of_a_grid_are_those_of_its_points() -> None:
    cache = np.array([0.0, 64.0])
    rows = table_rows(TableOptions(), "eager")
    grid = reuse_bytes(rows, symbol_values(MODEL, "fp16", Sizes(8, 512, cache)))
    for index, length in enumerate((0, 64)):
        point = reuse_bytes(rows, symbol_values(MODEL, "fp16", Sizes(8, 512, length)))
        assert [[np.broadcast_to(one, cache.shape)[index] for one in own] for own in grid] == list(map(list, point))


@pytest.mark.parametrize("runtime", ["eager", "compile", "cuda-graph"])
def test_the_cache_of_all_layers_does_not_come_from_l2(runtime: str) -> None:
    """What one layer holds fits into an L40S's L2, what 24 hold does not: weights, the old cache and the new one."""
    phase = predict("gpt2-medium", "l40s", batch=16, seq=1, cache=1023, runtime=runtime).phases[0]
    weights, cache = 354_823_168 * 2, 24 * 2 * 16 * 1023 * 1024 * 2
    l2 = 96 * 2**20
    assert phase.totals.device_s >= (weights + 2 * cache - 2 * l2) / 864e9
