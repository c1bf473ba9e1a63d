"""Buckets and copies beside torch's own: its assignment, and a DistributedDataParallel of one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nanogpt_oracle
import pytest
import torch
import torch.distributed as dist
from helpers import values
from hypothesis import given, settings
from hypothesis import strategies as st
from nanogpt_model import GPT
from oracle import build, stored_bytes, tensors, tiny
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from gpt2cost.table.citations import resolve
from gpt2cost.table.config import load_model
from gpt2cost.table.ddp import BUCKET_BYTES, FIRST_BUCKET_BYTES, buckets, copy_rows, gradients, volumes
from gpt2cost.table.kernel import Kernel
from gpt2cost.table.optimizer import parameters
from gpt2cost.table.options import TableOptions
from gpt2cost.table.training import training_table
from gpt2cost.timing.overlap import ready_times


def assigned(sizes: list[int]) -> list[list[int]]:
    """torch's own assignment of gradients of so many bytes in this order."""
    made = [torch.empty(size, dtype=torch.uint8, device="meta") for size in sizes]
    return dist._compute_bucket_assignment_by_size(made, [FIRST_BUCKET_BYTES, BUCKET_BYTES])[0]


@given(st.lists(st.integers(1, 40 * 2**20), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_buckets_are_those_of_torch(sizes: list[int]) -> None:
    assert [list(places) for places in buckets(sizes)] == assigned(sizes)


def test_the_caps_are_those_of_torch() -> None:
    from torch.nn.parallel import distributed

    assert dist._DEFAULT_FIRST_BUCKET_BYTES == FIRST_BUCKET_BYTES
    assert distributed._DEFAULT_BUCKET_CAP_MB * 2**20 == BUCKET_BYTES


def in_order_of_arrival(name: str) -> list[int]:
    """Bytes of a model's fp32 gradients: the last layer's first, the tied embedding's last."""
    model = load_model(name)
    sizes = values(model, "fp32", 1, 1, 0)
    every = {p.name: 4 * p.elements.evaluate(sizes) for p in parameters(TableOptions())}
    embeddings = [every.pop(f"transformer.{name}.weight") for name in ("wte", "wpe")]
    last = [size for key, size in every.items() if "ln_f" in key]
    layer = [size for key, size in reversed(every.items()) if "{i}" in key]
    return [*last, *layer * model.n_layer, *reversed(embeddings)]


@pytest.mark.parametrize(
    ("name", "count", "last_mb", "total_mb"),
    [("gpt2", 13, 176.4, 497.8), ("gpt2-medium", 37, 226.9, 1419), ("gpt2-large", 109, 262.6, 3096),
     ("gpt2-xl", 145, 328.2, 6230)],
)  # fmt: skip
def test_buckets_of_the_presets(name: str, count: int, last_mb: float, total_mb: float) -> None:
    """As they were seen with torch 2.13: gpt2's are of 9.4, 11 times 28.4, and 176.4 MB."""
    sizes = in_order_of_arrival(name)
    found = [sum(sizes[place] for place in places) / 1e6 for places in buckets(sizes)]
    assert len(found) == count
    assert found[-1] == pytest.approx(last_mb, abs=0.06)
    assert sum(found) == pytest.approx(total_mb, rel=5e-4)
    if name == "gpt2":
        assert found[0] == pytest.approx(9.4, abs=0.06)
        assert found[1:-1] == pytest.approx([28.4] * 11, abs=0.06)


class Ops(TorchDispatchMode):
    """The ops that a backward pass calls, with the bytes that they write."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.written.append((func.overloadpacket.__name__, sum(map(stored_bytes, tensors(out)[:1]))))
        return out


@pytest.fixture
def one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def rebuilt_buckets(parallel: DistributedDataParallel) -> list[list[int]]:
    """The places of the parameters in each bucket, in the order in which their gradients came in the first step."""
    places = parallel._get_ddp_logging_data()["rebuilt_per_bucket_param_indices"]
    return [[int(place) for place in bucket.split()] for bucket in places.split(",")]


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_come_in_torchs_order(one_process: None, autocast: bool) -> None:
    """Of an nn.Linear, the bias's first; under autocast that of what was cast last, the weight's."""
    config = nanogpt_oracle.tiny(n_layer=2, n_embd=240, vocab_size=1000)
    real = GPT(config).train()
    parallel, tokens = DistributedDataParallel(real, bucket_cap_mb=1), torch.zeros(2, 8, dtype=torch.long)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            _, loss = parallel(tokens, tokens)
        loss.backward()
    names = [name for name, _ in real.named_parameters()]
    options = TableOptions(impl="nanogpt", use_cache=False, train=True, autocast=autocast)
    sizes = values(nanogpt_oracle.model_of(config), "fp32", 2, 8, 0)
    found = gradients(training_table(options).backward, options, True, sizes)
    assert [gradient.name for gradient in found] == [names[place] for b in rebuilt_buckets(parallel) for place in b]


def test_a_real_data_parallel_step(one_process: None) -> None:
    """Its buckets, once they are rebuilt, and the copies into them and out of them."""
    config = tiny(n_layer=3, n_embd=256, n_head=2, vocab_size=1000)
    model = build(config, "eager", torch.float32)
    real = type(model)(config).train()
    parallel = DistributedDataParallel(real, bucket_cap_mb=1)
    tokens = torch.zeros(2, 8, dtype=torch.long)
    for _ in range(3):
        loss = parallel(input_ids=tokens, labels=tokens).loss
        with Ops() as ops:
            loss.backward()
    arrived = rebuilt_buckets(parallel)
    named = [(name, stored_bytes(p)) for name, p in real.named_parameters()]
    sizes = [named[i][1] for places in arrived for i in places]
    assert [len(places) for places in buckets(sizes, 2**20, 2**20)] == [len(places) for places in arrived]
    own, rows = load_model(config), copy_rows(TableOptions())
    sizes_of = values(own, "fp32", 2, 8, 0)
    options = TableOptions(attn="eager", train=True)
    ours = gradients(training_table(options).backward, options, True, sizes_of)
    assert [(g.name, g.size_bytes) for g in ours] == [named[i] for places in arrived for i in places]

    for op, made in zip(("mul", "copy_"), rows, strict=True):
        seen = Counter(written for name, written in ops.written if name == op and written in sizes)
        ours: Counter[int] = Counter()
        for row in made:
            assert isinstance(row.step, Kernel)
            assert row.step.op == op
            assert row.step.reads == row.step.writes
            ours[row.step.writes.evaluate(sizes_of)] += row.count.evaluate(sizes_of)
        assert ours == Counter(sizes)
        assert all(seen[size] >= count for size, count in ours.items())
    assert sum(name == "copy_" for name, _ in ops.written) == len(named)


def test_a_row_completes_each_gradient() -> None:
    """Also with autocast, whose casts come last: each gradient is written by the row that it names."""
    model = load_model("gpt2")
    sizes = values(model, "fp32", 1, 8, 0)
    for autocast in (False, True):
        options = TableOptions(train=True, autocast=autocast)
        rows = training_table(options).backward
        found = gradients(rows, options, True, sizes)
        assert len(found) == 148
        assert sum(gradient.size_bytes for gradient in found) == 4 * model.parameters
        assert [found[0].name, found[-1].name] == ["transformer.ln_f.weight", "transformer.wte.weight"]
        layers = [int(gradient.name.split(".")[2]) for gradient in found if ".h." in gradient.name]
        assert layers == sorted(layers, reverse=True)
        times = ready_times(rows, [1.0] * len(rows), sizes, found)
        assert times == sorted(times)
        assert times[-1] == sum(row.count.evaluate(sizes) * row.step.when.evaluate(sizes) for row in rows)


def test_where_the_reducer_is_made() -> None:
    for row in copy_rows(TableOptions())[0]:
        assert isinstance(row.step, Kernel)
        assert resolve(row.step.source, Path(torch.__file__).parent) > 1000


def test_volumes() -> None:
    """ZeRO's paper: stage 1 and 2 send as much as DDP without accumulation; stage 3 half as much again."""
    ddp, one, two, three = (volumes(stage, 1, 4e9, 4e9) for stage in range(4))
    total = ddp.reduce_scatter_bytes + ddp.all_gather_bytes
    assert one == two == ddp
    assert three.reduce_scatter_bytes + three.all_gather_bytes == 1.5 * total
    assert volumes(2, 8, 4e9, 4e9).reduce_scatter_bytes == 8 * 4e9
    assert volumes(1, 8, 4e9, 2e9) == volumes(1, 1, 4e9, 2e9)
    assert volumes(3, 8, 4e9, 2e9).all_gather_bytes == 16 * 2e9


def test_parameters_of_cross_attention_are_in_the_models_order() -> None:
    config = tiny(n_layer=2, add_cross_attention=True)
    sizes = values(load_model(config), "fp32", 1, 1, 0)
    listed = [(p.name, p.elements.evaluate(sizes)) for p in parameters(TableOptions(encoder=True))]
    named = [(name, p.numel()) for name, p in build(config, "eager", torch.float32).named_parameters()]
    assert listed == [(name.replace(".h.0.", ".h.{i}."), size) for name, size in named if ".h.1." not in name]


def test_gradients_of_cross_attention_come_in_torchs_order(one_process: None) -> None:
    config = tiny(n_layer=2, n_embd=192, n_head=2, vocab_size=1000, add_cross_attention=True)
    model = type(build(config, "eager", torch.float32))(config).train()
    parallel = DistributedDataParallel(model, bucket_cap_mb=1)
    tokens, states = torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 5, 192)
    for _ in range(3):
        parallel(input_ids=tokens, labels=tokens, encoder_hidden_states=states).loss.backward()
    named = [(name, stored_bytes(p)) for name, p in model.named_parameters()]
    options = TableOptions(attn="eager", train=True, encoder=True)
    sizes = {**values(load_model(config), "fp32", 2, 8, 0), "encoder_len": 5}
    found = gradients(training_table(options).backward, options, True, sizes)
    arrived = [named[place] for bucket in rebuilt_buckets(parallel) for place in bucket]
    assert [(gradient.name, gradient.size_bytes) for gradient in found] == arrived
