"""Quantised weights beside transformers and bitsandbytes: bytes of the real model, launches of the CUDA backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import values

from gpt2cost.device.catalog import list_hardware, load_hardware
from gpt2cost.errors import InputError
from gpt2cost.prediction.one_pass import quantization, table_options, weights_bytes
from gpt2cost.prediction.settings import check_how
from gpt2cost.table.citations import resolve
from gpt2cost.table.config import Model, change_model, list_models, load_model
from gpt2cost.table.fused_4bit import MOST, fused_rows
from gpt2cost.table.gpt2 import cost_table
from gpt2cost.table.heads import CLASSES
from gpt2cost.table.kernel import Free, Kernel, walk
from gpt2cost.table.quantization import layers_of

oracle = pytest.importorskip("oracle_bitsandbytes")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

BITS8: dict[str, Any] = {"load_in_8bit": True}
BITS4: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
HALF = BITS4 | {"bnb_4bit_compute_dtype": "float16"}
DOUBLE = HALF | {"bnb_4bit_use_double_quant": True}
WEIGHTS = [
    BITS8, BITS8 | {"llm_int8_threshold": 0.0}, BITS4, HALF, DOUBLE, DOUBLE | {"bnb_4bit_quant_type": "fp4"},
    BITS4 | {"bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}, {"load_in_4bit": True},
]  # fmt: skip
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
SIZES = {"n_layer": 2, "n_head": 4, "n_embd": 128, "n_positions": 64, "vocab_size": 97}
OPS = {
    "cint8_vector_quant": "int8_vectorwise_quant", "cigemmlt_32": "int8_linear_matmul",
    "cdequant_mm_int32_fp16": "int8_mm_dequant",
    **{f"cgemm_4bit_{dtype}": "gemm_4bit" for dtype in DTYPES},
    **{f"cdequantize_blockwise_{dtype}": "dequantize_blockwise" for dtype in DTYPES},
    **{f"cdequantize_blockwise_{dtype}_{kind}": "dequantize_4bit" for dtype in DTYPES for kind in ("nf4", "fp4")},
    "to": "_to_copy", "linear": "addmm",
}  # fmt: skip
"""A function of bitsandbytes' library -> the op of the table."""


def config(**keys: Any) -> Any:
    last = SIZES["vocab_size"] - 1
    return transformers.GPT2Config(**{**SIZES, "bos_token_id": last, "eos_token_id": last, **keys})


def real(
    folder: Path, dtype: str, head: str = "lm", quantised: dict[str, Any] = BITS8, **keys: Any
) -> tuple[Any, Model]:
    """The model as transformers loads it, and as its own config.json is read."""
    made = oracle.quantised(config(**keys), folder, DTYPES[dtype], CLASSES[head], **quantised)  # type: ignore[index]
    made.save_pretrained(folder)
    return made, load_model(folder)


def run(model: Any, batch: int = 1, seq: int = 5) -> Any:
    more = {}
    if model.config.add_cross_attention:
        more["encoder_hidden_states"] = torch.randn(batch, 3, model.config.n_embd).to(model.dtype)
    with torch.no_grad():
        return model(torch.full((batch, seq), 3), **more)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quantised", WEIGHTS, ids=str)
def test_weights_and_scales_have_the_bytes_of_the_real_model(
    quantised: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    there, model = real(tmp_path, dtype, quantised=quantised)
    run(there)  # which leaves the biases in what they are computed in
    assert weights_bytes(model, dtype) == oracle.held_bytes(there)


@pytest.mark.parametrize("head", CLASSES)
@pytest.mark.parametrize("crossed", [False, True])
@pytest.mark.parametrize("quantised", [BITS8, DOUBLE], ids=str)
def test_every_head_keeps_what_transformers_keeps(
    quantised: dict[str, Any], crossed: bool, head: str, tmp_path: Path
) -> None:
    there, model = real(tmp_path, "fp16", head, quantised, add_cross_attention=crossed, pad_token_id=0)
    kinds = {type(module).__name__ for module in there.modules()} & {"Linear8bitLt", "Linear4bit"}
    assert len(kinds) == 1
    kept = {name for name, *_ in layers_of(head, crossed)} - {
        name.removeprefix("transformer.").removeprefix("h.0.")
        for name, module in there.named_modules()
        if type(module).__name__ in kinds
    }
    assert set(model.kept) == kept
    assert weights_bytes(model, "fp16") == oracle.held_bytes(there)


@pytest.mark.parametrize(
    "skipped", [["lm_head", "c_proj"], ["lm_head", "mlp.c_fc"], ["attn", "lm_head"], ["lm_head", "mlp", "transformer"]]
)
def test_skipped_modules_are_those_of_transformers(skipped: list[str], tmp_path: Path) -> None:
    there = oracle.quantised(config(), tmp_path, torch.float16, **HALF, llm_int8_skip_modules=skipped)
    there.save_pretrained(tmp_path)
    assert weights_bytes(load_model(tmp_path), "fp16") == oracle.held_bytes(there)


@pytest.mark.parametrize("gpu", ["h100", "t4"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quantised", WEIGHTS, ids=str)
def test_layers_launch_what_the_cuda_backend_launches(
    quantised: dict[str, Any], dtype: str, gpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hw = load_hardware(gpu)
    there, model = real(tmp_path, dtype, quantised=quantised)
    assert hw.compute_capability is not None
    oracle.on_device(monkeypatch, hw.compute.units, hw.compute_capability)
    run(there)
    for batch, seq in ((1, 1), (1, 5), (2, 20), (8, 50)):
        with oracle.Trace(there) as trace:
            run(there, batch, seq)
        assert_launches(there, trace, model, dtype, hw, batch, seq)


@pytest.mark.parametrize("quantised", [BITS8, DOUBLE], ids=str)
@pytest.mark.parametrize("head", ["token-classification", "double-heads"])
def test_heads_and_cross_attention_launch_it_too(
    quantised: dict[str, Any], head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, model = real(tmp_path, "fp16", head, quantised, add_cross_attention=True)
    oracle.on_device(monkeypatch, 132, 9.0)
    with oracle.Trace(there) as trace:
        run(there, 2, 5)
    model = change_model(model, {"encoder_len": 3})
    assert_launches(there, trace, model, "fp16", load_hardware("h100"), 2, 5, encoder_len=3)


def assert_launches(
    there: Any, trace: Any, model: Model, dtype: str, hw: Any, batch: int, seq: int, **more: int
) -> None:
    """The same ops in the same order with the same operands in every quantised layer of the first block and after."""
    layers = {name for name, module in there.named_modules() if type(module).__name__ in ("Linear8bitLt", "Linear4bit")}
    options = table_options(model, check_how(dtype), hw)
    sizes = {**values(model, dtype, batch, seq, 0), **more}
    own: dict[str, list[tuple[str, int]]] = {}
    syncs = 0
    for row in walk(cost_table(options)):
        step, path = row.step, row.module.replace("h.", "h.0.", 1)
        if path not in layers or not step.when.evaluate(sizes):
            continue
        if isinstance(step, Free):
            syncs += step.op == "sync" and row.count.evaluate(sizes)
        elif isinstance(step, Kernel):
            own.setdefault(path, []).append((step.op, (step.reads + step.writes).evaluate(sizes)))
    found: dict[str, list[tuple[str, int]]] = {}
    for launch in trace.launches:
        if launch.module in layers and ".1." not in launch.module:
            moved = launch.moved_bytes if hasattr(launch, "moved_bytes") else launch.read_bytes + launch.write_bytes
            found.setdefault(launch.module, []).append((OPS.get(launch.op, launch.op), moved))
    assert own == found
    assert own
    assert syncs == trace.syncs


@pytest.mark.parametrize("hw", [hw for hw in list_hardware() if hw.vendor == "nvidia"], ids=lambda hw: hw.name)
def test_where_4_bit_weights_are_unpacked_first_is_the_rule_of_the_backend(
    hw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = oracle.backend()[1]["module"]._gemm_4bit_use_custom_cuda.__wrapped__
    oracle.on_device(monkeypatch, hw.compute.units, hw.compute_capability)
    device = (hw.compute.units, hw.compute_capability)
    for model in list_models():
        numbers = model.symbols()
        for _, n, k, _ in layers_of("lm", False):
            wide, deep = n.evaluate(numbers), k.evaluate(numbers)
            for dtype, name in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
                found = fused_rows(device, dtype != "fp32", dtype == "fp16", wide, deep)
                rows = {m for m in range(1, MOST + 1) if rule(0, name, m, wide, deep)}
                assert {m for run_ in found for m in run_} == (rows if deep % 64 == 0 else set())


def test_citations_of_bitsandbytes_resolve() -> None:
    package = Path(torch.__file__).parents[1] / "bitsandbytes"
    for weights in ("int8", "nf4"):
        model = change_model(load_model("gpt2"), {"weights": weights})
        double = change_model(model, {"bnb_4bit_use_double_quant": True}) if weights == "nf4" else model
        for dtype in ("fp16", "fp32"):
            options = table_options(double, check_how(dtype), load_hardware("a100"))
            cited = [row.step.source for row in walk(cost_table(options)) if isinstance(row.step, Kernel)]
            own = [source for source in cited if source.file.startswith("bnb/")]
            assert own
            assert all(resolve(source, package) for source in own)


CONFIG: dict[str, Any] = {"model_type": "gpt2"}


def read(tmp_path: Path, own: Any) -> Model:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": own}))
    return load_model(tmp_path)


def test_a_config_has_the_defaults_of_transformers(tmp_path: Path) -> None:
    own = transformers.BitsAndBytesConfig(load_in_4bit=True)
    model = read(tmp_path, {"load_in_4bit": True})
    assert model.weights == own.quantization_method()
    assert f"torch.{model.bnb_4bit_compute_dtype}" == str(own.bnb_4bit_compute_dtype)
    assert model.bnb_4bit_use_double_quant == own.bnb_4bit_use_double_quant
    assert read(tmp_path, own.to_dict()) == model
    eight = transformers.BitsAndBytesConfig(load_in_8bit=True)
    assert read(tmp_path, eight.to_dict()).llm_int8_threshold == eight.llm_int8_threshold
    assert read(tmp_path, None) == read(tmp_path, {})


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, "'gptq' is not modelled"),
        ({"quant_method": "awq"}, "'awq' is not modelled"),
        ("int8", "'int8' is not modelled"),
        ({"quant_method": "bitsandbytes"}, "expected one of load_in_8bit and load_in_4bit"),
        ({"load_in_8bit": True, "load_in_4bit": True}, "expected one of load_in_8bit and load_in_4bit"),
        ({"load_in_8bit": True, "llm_int8_has_fp16_weight": True}, "llm_int8_has_fp16_weight is not modelled"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "int4"}, "bnb_4bit_quant_type: expected nf4 or fp4"),
        ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "float64"}, "bnb_4bit_compute_dtype: expected one of"),
        ({"load_in_8bit": True, "llm_int8_threshold": "six"}, "llm_int8_threshold: expected"),
        ({"load_in_8bit": True, "llm_int8_skip_modules": ["c_fc"]}, "expected lm_head among them"),
        ({"load_in_8bit": True, "llm_int8_skip_modules": ["(a+)+$"]}, "expected names of modules"),
        ({"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head", "transformer.h.0"]}, "is in one block"),
        ({"load_in_8bit": True, "llm_int8_skip_modules": "lm_head"}, "expected a list of names"),
    ],
)
def test_what_is_not_modelled_is_refused_by_name(own: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="quantization_config") as caught:
        read(tmp_path, own)
    assert said in str(caught.value)


def test_the_flag_means_weights_that_compute_in_the_dtype(tmp_path: Path) -> None:
    model = read(tmp_path, {"load_in_4bit": True})
    assert change_model(model, {"weights": "nf4"}).bnb_4bit_compute_dtype == "dtype"
    assert change_model(model, {"n_layer": 3}).bnb_4bit_compute_dtype == "float32"
    assert quantization(change_model(model, {"weights": "dtype"}), "fp16") is None
