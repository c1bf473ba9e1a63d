"""Lists in what-ifs and parts of a sweep: every row is that of the single what-if, and the parts are the whole."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpt2cost as package
from gpt2cost import InputError, change_hardware, change_model, load_hardware, load_model, sweep, sweep_training
from gpt2cost.prediction.shard import Shard, parse_shard


def test_lists_sweep() -> None:
    found = list(
        sweep(
            "gpt2", "a100", batch="1,4", phase="both",
            model_changes={"n_layer": [6, "12"], "n_embd": [768, 1536]},
            hw_changes={"memory.bandwidth": ["1 TB/s", "3 TB/s"], "host_factor": 2.0},
        )
    )  # fmt: skip
    expected = []
    for layers, width, bandwidth in product([6, 12], [768, 1536], ["1 TB/s", "3 TB/s"]):
        model = change_model(load_model("gpt2"), {"n_layer": layers, "n_embd": width})
        device = change_hardware(load_hardware("a100"), {"memory.bandwidth": bandwidth, "host_factor": 2.0})
        expected += list(sweep(model, device, batch="1,4", phase="both"))
    assert found == expected
    assert [row["parameters"] for row in found[::8]] == [
        change_model(load_model("gpt2"), {"n_layer": n, "n_embd": d}).parameters
        for n, d in product([6, 12], [768, 1536])
    ]


def test_a_list_of_a_device_is_one_value() -> None:
    tiles = {"model.gemm.fp16.tiles": ["128x128", "64x64"]}
    (row,) = sweep("gpt2", "a100", hw_changes=tiles)
    (other,) = sweep("gpt2", change_hardware(load_hardware("a100"), tiles))
    assert row == other
    assert len(list(sweep("gpt2", "a100", hw_changes={"model.gemm.fp16.efficiency": [0.5, 0.9]}))) == 2


def test_what_is_no_model_is_left_out() -> None:
    found = sweep("gpt2", "a100", model_changes={"n_embd": [768, 770], "n_layer": [2, 3]})
    assert [row["model"] for row in found] == ["gpt2[n_embd=768;n_layer=2]", "gpt2[n_embd=768;n_layer=3]"]
    assert "skipped 2 of 4: set: " in found.warnings[0]
    assert "770 / 12" in found.warnings[0]
    for wrong in ({"n_embd": [770, 771]}, {"n_layer": []}, {"n_lyer": [1, 2]}):
        with pytest.raises(InputError):
            sweep("gpt2", "a100", model_changes=wrong)
    assert len(list(package.sweep_training("gpt2", "a100", model_changes={"n_layer": [2, 3]}))) == 2


# ---------------------------------------------------------------------------------------------- shards


@given(st.integers(0, 1000), st.integers(1, 60))
def test_parts_are_the_whole(count: int, parts: int) -> None:
    items = list(range(count))
    found = [list(Shard(number, parts).of(items)) for number in range(1, parts + 1)]
    assert [item for part in found for item in part] == items
    assert max(map(len, found)) - min(map(len, found)) <= 1


@pytest.mark.parametrize("wrong", ["0/3", "4/3", "3", "1/0", "a/b", "1/2/3", "-1/3", "1.0/2", "", 3, None])
def test_a_bad_part(wrong: Any) -> None:
    with pytest.raises(InputError, match="shard: expected a part such as 3/16"):
        parse_shard(wrong)


AXES: list[dict[str, Any]] = [
    {"gpu": ["a100", "t4"], "batch": "1-7", "seq": "1,64,100", "cache": "0,5", "phase": "both"},
    {"gpu": ["a100"], "batch": "1-3", "seq": "1-40", "cache": "0-299"},  # more than one block
    {"gpu": ["a100", "l4"], "batch": "1,2", "seq": "8,16", "kernels": True},
    {"gpu": ["t4"], "batch": "1-256*4", "seq": "512,1024,2048", "only_fitting": True, "only_valid": True},
    {"gpu": ["a100"], "batch": "1,2", "seq": "1,64", "attn": "flash_attention_2", "runtime": "cuda-graph,eager"},
]


@pytest.mark.parametrize("parts", [2, 3, 7])
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_parts_of_a_sweep_are_the_whole(axes: dict[str, Any], parts: int) -> None:
    """To the last digit."""
    whole = sweep("gpt2-xl", **axes)
    shards = [sweep("gpt2-xl", **axes, shard=f"{number}/{parts}") for number in range(1, parts + 1)]
    assert [row for part in shards for row in part] == list(whole)
    assert sum(part.points for part in shards) == whole.points


def test_parts_of_training_are_the_whole() -> None:
    axes = {"gpus": "1,2,4", "micro_batch": "1-5", "optimizer": "adamw,adamw-fused"}
    whole = list(sweep_training("gpt2", "a100", **axes))
    assert len(whole) == 30
    found = [row for n in range(1, 5) for row in sweep_training("gpt2", "a100", **axes, shard=f"{n}/4")]
    assert found == whole


def test_large_counts_are_written_alike() -> None:
    """Beyond 2^53 a whole number is a float: the rows of a part must not depend on what the part leaves out."""
    axes: dict[str, Any] = {"batch": "4000-4200+50", "seq": 1023}
    rows = [row for n in range(1, 6) for row in sweep("gpt2-xl", "a100", **axes, shard=f"{n}/5")]
    assert [repr(row) for row in rows] == [repr(row) for row in sweep("gpt2-xl", "a100", **axes)]
