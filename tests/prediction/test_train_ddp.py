"""What several GPUs cost a step, beside what was measured: the time of a step on several, less that on one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpt2cost import train


def waited_ms(model: str, gpu: str, gpus: int, **flags: Any) -> tuple[float, float]:
    """Milliseconds that a step of several GPUs takes longer than one GPU's, and those that communication is exposed."""
    inside = {"compile_inside_ddp": True, "runtime": "compile", "seq": 1024}
    one = train(model, gpu, **{**inside, **flags})
    several = train(model, gpu, gpus=gpus, **{**inside, **flags})
    longer_s = float(several.step.step_s) - float(one.step.step_s)
    return 1e3 * longer_s, 1e3 * float(several.step.exposed_communication_s)


def test_eight_a100() -> None:
    """build-nanogpt, compiled inside DDP: 370 ms, of which 15 ms are DDP's."""
    longer_ms, exposed_ms = waited_ms("gpt2", "a100", 8, micro_batch=16, grad_accum=4)
    assert longer_ms == pytest.approx(15, rel=0.3)
    assert 5 < exposed_ms < longer_ms


def test_two_4090() -> None:
    """PCIe without peer access: 44 to 62 ms for 498 MB at 8 to 11.2 GB/s, of a step of 1191 ms."""
    longer_ms, exposed_ms = waited_ms("gpt2", "4090", 2, micro_batch=32, grad_accum=4, optimizer="adamw-fused")
    assert 44 <= exposed_ms <= longer_ms <= 62


@pytest.mark.parametrize(("gpu", "measured_ms"), [("3090ti-nvlink", 325.9 - 294.2), ("3090ti", 467.7 - 294.2)])
def test_two_3090ti(gpu: str, measured_ms: float) -> None:
    """gpt2-medium by Megatron-LM, which overlaps nothing; the rate without peer access is from this very run."""
    longer_ms, exposed_ms = waited_ms("gpt2-medium", gpu, 2, micro_batch=5, precision="fp16-mixed")
    assert exposed_ms == pytest.approx(measured_ms, rel=0.3)
    assert longer_ms > exposed_ms


def test_overlap_hides_most() -> None:
    """An eager backward pass of eight GPUs waits for little more than its last bucket."""
    flags: dict[str, Any] = {"gpus": 8, "micro_batch": 16, "seq": 1024}
    eager = train("gpt2", "a100", **flags)
    inside = train("gpt2", "a100", **flags, runtime="compile", compile_inside_ddp=True)
    last = eager.buckets[-1]
    last_s = float(last.end_s) - float(last.start_s)
    assert 0.999 * last_s < float(eager.step.exposed_communication_s) < 1.5 * last_s + 1e-3
    assert float(eager.step.communication_s) == pytest.approx(float(inside.step.communication_s))
    assert float(inside.step.exposed_communication_s) >= 0.999 * float(inside.step.communication_s)


MPT = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 2048, "vocab_size": 50368, "bias": False, "dropout": 0}
TOKENS_PER_S = {8: 136334, 16: 130535, 32: 127122, 64: 125234, 128: 123936}
"""Of each of so many A100 of 40 GB, eight in a node: llm-foundry's table of MPT-125M (FSDP, FULL_SHARD, T=2048)."""


def test_sixteen_nodes(tmp_path: Path) -> None:
    """Within 10 % each. Of the 9.1 % that 16 nodes lose, 6.8 are met; of the 6.8 and 8.1 of 4 and 8 nodes, 4 are
    not: a bound on the time of FSDP's collectives explains the end of the curve better than its middle.

    One node accumulated three micro-batches of 26; the others none, and as many sequences are assumed.
    """
    path = tmp_path / "mpt-125m.json"
    path.write_text(json.dumps(MPT), "utf-8")
    found = {
        gpus: train(
            str(path), "a100-40gb", gpus=gpus, nodes=gpus // 8, micro_batch=26, seq=2048,
            grad_accum=3 if gpus == 8 else 1, zero="fsdp",
        ).step.tokens_per_s_per_gpu
        for gpus in TOKENS_PER_S
    }  # fmt: skip
    assert found == pytest.approx(TOKENS_PER_S, rel=0.1)
    lost = {gpus: 100 * (1 - found[gpus] / found[8]) for gpus in found}
    measured = {gpus: 100 * (1 - each / TOKENS_PER_S[8]) for gpus, each in TOKENS_PER_S.items()}
    assert lost[128] == pytest.approx(measured[128], abs=3)
    assert lost == pytest.approx(measured, abs=4.2)
    assert list(lost.values()) == sorted(lost.values())
