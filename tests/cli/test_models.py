"""--model: presets by their names, config files good and bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import SMALL, Result, assert_calm, assert_refused, process
from hypothesis import given
from hypothesis import strategies as st

from gpt2cost.cli import app as cli

GOOD_CONFIG = {"model_type": "gpt2", "n_layer": 3, "n_embd": 48, "n_head": 4, "vocab_size": 100, "n_inner": 50}


@pytest.mark.parametrize("alias", ["distilbert/distilgpt2", "DistilGPT2"])
def test_aliases_of_models(alias: str, gpt2cost: Any) -> None:
    named = [alias if argument == "distilgpt2" else argument for argument in SMALL]
    assert gpt2cost(*named) == gpt2cost(*SMALL)


def config(**changes: Any) -> str:
    return json.dumps({**GOOD_CONFIG, **changes})


BAD_CONFIGS = {
    "empty": ("", "JSON"),
    "truncated": (config()[:-5], "JSON"),
    "a list": ("[1, 2]", "object"),
    "no model_type": ('{"n_layer": 2}', "model_type"),
    "llama": (config(model_type="llama"), "llama"),
    "770/12": (config(n_embd=770, n_head=12), "770"),
    "negative": (config(n_layer=-1), "n_layer"),
    "zero": (config(n_head=0), "n_head"),
    "fraction": (config(n_embd=48.5), "n_embd"),
    "text": (config(vocab_size="many"), "vocab_size"),
    "null": (config(n_layer=None), "n_layer"),
    "true": (config(n_layer=True), "n_layer"),
    "absurd": (config(n_embd=10**30), "n_embd"),
    "huge": ('{"model_type": "gpt2", "n_embd": ' + "9" * 6000 + "}", "not valid JSON"),
    "NaN": (config(n_embd=float("nan")), "n_embd"),
    "infinity": (config(n_inner=float("inf")), "n_inner"),
    "inner": (config(n_inner=-4), "n_inner"),
    "activation": (config(activation_function="swoosh"), "swoosh"),
    "activation list": (config(activation_function=["relu"]), "activation_function"),
    "switch": (config(reorder_and_upcast_attn="yes"), "reorder_and_upcast_attn"),
    "nested": ("[" * 100_000, "nested too deeply"),
    "NUL": ("\0", "NUL character"),
}


def write_config(folder: Path, text: str | bytes) -> str:
    path = folder / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return str(path)


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configs_are_one_line(case: str, gpt2cost: Any, tmp_path: Path) -> None:
    text, named = BAD_CONFIGS[case]
    result = gpt2cost("predict", "--gpu", "a100", "--model", write_config(tmp_path, text))
    assert_refused(result, named)
    assert str(tmp_path) in result.err


def test_files_that_are_no_configs(gpt2cost: Any, tmp_path: Path) -> None:
    binary = write_config(tmp_path, bytes(range(256)))
    (tmp_path / "folder").mkdir()
    sparse = tmp_path / "large.json"
    with sparse.open("wb") as file:
        file.truncate(100_000_000)
    for model, says in {
        binary: "not UTF-8 text",
        str(tmp_path / "folder"): "cannot read this file",
        str(sparse): "larger than 1 MB",
        str(tmp_path / "missing.json"): "cannot read this file",
        "/dev/null": "expected a regular file",
    }.items():
        result = gpt2cost("predict", "--gpu", "a100", "--model", model)
        assert_refused(result, says)
        assert model in result.err


def test_an_odd_config_works(gpt2cost: Any, tmp_path: Path) -> None:
    text = config(activation_function="relu", tie_word_embeddings=False, n_positions=2048, reorder_and_upcast_attn=True)
    folder = tmp_path / "my-model"
    folder.mkdir()
    for model in (write_config(folder, text), str(folder)):
        result = gpt2cost("predict", "--gpu", "a100", "--attn", "eager", "--format", "json", "--model", model)
        assert (result.code, result.err) == (0, "")
        found = json.loads(result.out)["model"]
        assert (found["name"], found["n_inner"], found["activation_function"]) == ("my-model", 50, "relu")


def test_a_misspelt_key_is_a_warning(gpt2cost: Any, tmp_path: Path) -> None:
    result = gpt2cost("predict", "--gpu", "a100", "--model", write_config(tmp_path, config(n_layers=5)))
    assert result.code == 0
    assert result.err.count("\n") == 1
    assert "n_layers" in result.err
    assert "n_layer" in result.err


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    ["model_type", "n_layer", "n_head", "n_embd", "n_inner", "vocab_size", "n_positions", "activation_function",
     "scale_attn_weights", "reorder_and_upcast_attn", "tie_word_embeddings", "add_cross_attention", "use_cache",
     "hidden_size", "attn_pdrop", "bos_token_id", "dtype", "architectures", "id2label", "transformers_version",
     "torch_dtype", "attn_implementation", "num_labels", "pad_token_id", "auto_map", "multi_query", "decoder",
     "quantization_config", "pruned_heads", "encoder_len", "intermediate_size", "head", "summary_type"]
)  # fmt: skip


@given(
    changes=st.dictionaries(keys | st.text(max_size=8), json_values, max_size=4),
    cut=st.integers(0, 400),
    truncated=st.booleans(),
)
def test_fuzzed_configs(
    changes: dict[str, Any], cut: int, truncated: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = config(**changes)
    path = write_config(tmp_path, text[:cut] if truncated else text)
    capsys.readouterr()
    code = cli.run(["predict", "--gpu", "a100", "--format", "json", "--model", path])
    assert_calm(Result(code, *capsys.readouterr()))


WITHOUT_TORCH = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] == "torch" else found(name, *rest)
sys.modules["torch"] = None
from gpt2cost.cli.app import main
main(sys.argv[1:])
"""


def test_a_config_without_torch_brings_no_advice(tmp_path: Path) -> None:
    path = write_config(tmp_path, config())
    done = process(["-c", WITHOUT_TORCH, "predict", "--gpu", "a100", "--model", path])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
