"""A config as it lies about: what is heard of it, beside what `GPT2Config.from_pretrained` makes of the same file."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, process

from gpt2cost.errors import InputError
from gpt2cost.table import hub
from gpt2cost.table.config import Model, load_model

CASES = ROOT.parent / "shared" / "field-cases" / "configs"
OLD = {"n_embd": 48, "n_head": 4, "n_layer": 3, "n_ctx": 64, "n_positions": 64, "vocab_size": 100}
"""As transformers before 2.2.2 wrote them."""
GPT2 = {"model_type": "gpt2", **OLD}

SIZES = ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions", "activation_function", "scale_attn_weights",
         "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "tie_word_embeddings", "use_cache")  # fmt: skip


def loaded(folder: Path, config: dict[str, Any]) -> Model:
    (folder / "config.json").write_text(json.dumps(config))
    return load_model(folder)


def refusal(folder: Path, config: dict[str, Any] | str) -> str:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(InputError) as caught:
        load_model(folder)
    return str(caught.value)


def assert_as_transformers_takes_it(model: Model, path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    real = transformers.GPT2Config.from_pretrained(path)
    assert {name: getattr(model, name) for name in SIZES} == {name: getattr(real, name) for name in SIZES}
    assert model.n_inner == (real.n_inner if real.n_inner is not None else 4 * real.n_embd)


def test_the_cases_from_the_field() -> None:
    if not CASES.is_dir():
        pytest.skip("the measurements are not shipped with this checkout")
    notes = {
        "no-model-type": ["taken as gpt2"], "no-model-type-architectures": ["taken as gpt2"], "pruned-heads-empty": [],
        "pad-token": [], "n-inner-below-n-embd": [], "llama-names": ["n_inner", "activation_function"],
    }  # fmt: skip
    refused = {
        "multi-query-custom-code": "multi-query", "vision-encoder-decoder": "jq .decoder", "two-documents": "two doc",
    }  # fmt: skip
    for path in sorted(CASES.glob("*.json")):
        if path.stem in refused:
            with pytest.raises(InputError, match=refused[path.stem]):
                load_model(path)
            continue
        model, said = load_model(path), notes.get(path.stem)
        assert_as_transformers_takes_it(model, path)
        if said is not None:
            assert len(model.notes) == len(said)
            assert all(word in note for word, note in zip(said, model.notes, strict=True))


@pytest.mark.parametrize(
    "config",
    [
        OLD,
        {"architectures": ["GPT2LMHeadModel"], "n_layer": 2},
        {"model_type": "gpt2", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 5, "n_inner": None},
        {"model_type": "gpt2", "max_position_embeddings": 99, "num_labels": 7, "torch_dtype": "float32"},
        {**GPT2, "activation_function": "relu", "tie_word_embeddings": False, "reorder_and_upcast_attn": True},
    ],
)  # fmt: skip
def test_a_file_is_taken_as_transformers_takes_it(config: dict[str, Any], tmp_path: Path) -> None:
    assert_as_transformers_takes_it(loaded(tmp_path, config), tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"n_layer": 2},
        {**OLD, "afn": "gelu"},  # GPT-1
        {**OLD, "architectures": ["OpenAIGPTLMHeadModel"]},
    ],
)  # fmt: skip
def test_what_may_be_another_model_is_not_taken_for_gpt2(config: dict[str, Any], tmp_path: Path) -> None:
    assert "model_type: missing" in refusal(tmp_path, config)


@pytest.mark.parametrize(
    ("key", "value", "dtype"),
    [("dtype", "bfloat16", "bf16"), ("torch_dtype", "float32", "fp32"), ("torch_dtype", "torch.float16", "fp16"),
     ("dtype", "auto", ""), ("torch_dtype", None, "")],
)  # fmt: skip
def test_the_dtype_of_the_weights_is_heard(key: str, value: Any, dtype: str, tmp_path: Path) -> None:
    model = loaded(tmp_path, {**GPT2, key: value})
    assert (model.dtype, model.notes) == (dtype, ())


def test_what_is_not_modelled_is_named(tmp_path: Path) -> None:
    for key, value in (("dtype", "float64"), ("torch_dtype", 3), ("attn_implementation", "flex_attention")):
        model = loaded(tmp_path, {**GPT2, key: value})
        assert (model.dtype, model.attn) == ("", "")
        assert str(value) in model.notes[0]


def test_the_dtype_of_a_live_config_is_heard() -> None:
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    config = transformers.GPT2Config(dtype=torch.bfloat16, attn_implementation="eager")
    model = load_model(config)
    assert (model.dtype, model.attn) == ("bf16", "eager")


def test_a_prediction_runs_as_the_config_says(gpt2cost: Any, tmp_path: Path) -> None:
    config = {**GPT2, "torch_dtype": "float32", "attn_implementation": "eager"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    flags = ("--model", str(tmp_path), "--gpu", "a100", "--seq", "8")
    own = ("--dtype", "fp32", "--attn", "eager")
    for command in (("predict",), ("generate", "--prompt", "8"), ("fit",), ("tree",), ("table",), ("explain", "mlp")):
        taken = tuple(flag for flag in flags if not (command[0] == "generate" and flag in ("--seq", "8")))
        taken = taken[:2] + taken[4:] if command[0] == "table" else taken
        said, heard = gpt2cost(*command, *taken, *own), gpt2cost(*command, *taken)
        assert said.code == heard.code == 0, said.err
        assert said == heard
    (row,) = json.loads(gpt2cost("sweep", *flags, "--format", "json").out)["rows"]
    assert (row["dtype"], row["attn"]) == ("fp32", "eager")
    assert "fp32, eager attention" in gpt2cost("predict", *flags).out
    assert "fp32" not in gpt2cost("predict", *flags, "--dtype", "fp16").out.splitlines()[0]


PRETRAINED = """
    return_dict output_hidden_states output_attentions torchscript torch_dtype use_bfloat16 tf_legacy_loss
    pruned_heads tie_word_embeddings is_encoder_decoder is_decoder cross_attention_hidden_size add_cross_attention
    finetuning_task tie_encoder_decoder max_length min_length do_sample early_stopping num_beams num_beam_groups
    diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    problem_type prefix encoder_no_repeat_ngram_size bad_words_ids num_return_sequences chunk_size_feed_forward
    output_scores id2label return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
    architectures label2id exponential_decay_length_penalty suppress_tokens begin_suppress_tokens tokenizer_class
    bos_token_id pad_token_id eos_token_id sep_token_id decoder_start_token_id task_specific_params _name_or_path
    _attn_implementation_autoset transformers_version num_labels xla_device gradient_checkpointing
    quantization_config n_ctx n_special predict_special_tokens output_past attention_probs_dropout_prob
    hidden_dropout_prob layer_norm_eps resid_pdrop summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj summary_activation initializer_range layer_norm_epsilon vocab_size n_positions use_cache
    embd_pdrop attn_pdrop classifier_dropout dtype
"""
"""Keys that transformers 2 to 5 wrote into the config of a GPT-2."""


def test_no_hint_for_what_transformers_writes(tmp_path: Path) -> None:
    heard = {"use_cache", "tie_word_embeddings", "add_cross_attention", "embd_pdrop", "attn_pdrop", "resid_pdrop"}
    written = dict.fromkeys(set(PRETRAINED.split()) - set(GPT2) - heard)
    assert loaded(tmp_path, {**GPT2, **written}).notes == ()
    transformers = pytest.importorskip("transformers")
    transformers.GPT2Config().to_json_file(tmp_path / "config.json", use_diff=False)
    assert load_model(tmp_path).notes == ()


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [("intermediate_size", 100, "n_inner"), ("hidden_act", "relu", "activation_function"), ("n_layers", 2, "n_layer"),
     ("d_model", 64, "n_embd"), ("vocabsize", 7, "vocab_size"), ("activation_func", "relu", "activation_function")],
)  # fmt: skip
def test_a_hint_where_a_key_is_meant(key: str, value: Any, meant: str, tmp_path: Path) -> None:
    (note,) = loaded(tmp_path, {**GPT2, key: value}).notes
    assert repr(key) in note
    assert repr(meant) in note


def test_pruned_heads(tmp_path: Path) -> None:
    (note,) = loaded(tmp_path, {**GPT2, "pruned_heads": {"0": [1]}}).notes
    assert "pruned_heads" in note


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({**GPT2, "multi_query": True}, "multi_query"),
        ({**GPT2, "auto_map": {"AutoModelForCausalLM": "m.M"}}, "auto_map"),
        ({**GPT2, "hidden_size": 64}, "n_embd is set twice"),
        ('{"model_type": "gpt2", "n_layer": 1, "n_layer": 2}', "n_layer is given twice"),
    ],
)  # fmt: skip
def test_what_contradicts_or_is_another_model_is_refused(config: Any, says: str, tmp_path: Path) -> None:
    assert says in refusal(tmp_path, config)


@pytest.mark.parametrize(
    "more", [{"multi_query": False}, {"auto_map": {"AutoTokenizer": ["t.T", None]}}, {"auto_map": {}}]
)
def test_what_does_not_change_the_model_is_silent(more: dict[str, Any], tmp_path: Path) -> None:
    assert loaded(tmp_path, {**GPT2, **more}).notes == ()


# ---------------------------------------------------------------------------------------------- files and names


def test_a_pipe_is_read_once(gpt2cost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(json.dumps(GPT2),), daemon=True)
    monkeypatch.setattr("gpt2cost.files.PIPE_WAIT_S", 100)  # however late it comes
    writer.start()
    result = gpt2cost("predict", "--model", str(pipe), "--gpu", "a100", "--seq", "8")
    writer.join(10)
    assert (result.code, result.err) == (0, "")


@pytest.mark.parametrize("length", [255, 256, 5000])
def test_a_long_name_is_no_model(length: int) -> None:
    with pytest.raises(InputError, match="unknown model"):
        load_model("a" * length)


def test_many_labels_take_no_time(tmp_path: Path) -> None:
    """Transformers makes a name of each, for which there would be no memory."""
    assert loaded(tmp_path, {**GPT2, "num_labels": 10**9, "architectures": ["GPT2Model"]}).parameters


def test_a_mistyped_folder_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its first part is there, nobody is asked."""
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        load_model("out/mymodel")


def test_a_hub_id_that_was_downloaded_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = tmp_path / "hub" / "models--me--mine"
    for name, text in {
        "refs/main": "abc",
        "snapshots/abc/config.json": json.dumps({**GPT2, "dtype": "bfloat16"}),
    }.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(text)
    flags = ("--model", "me/mine", "--gpu", "a100", "--seq", "8")
    done = process(["-m", "gpt2cost", "predict", *flags], {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "bf16" in done.stdout.splitlines()[0]


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    class Silent:
        @staticmethod
        def from_pretrained(name: str) -> None:
            answered.wait(60)

    monkeypatch.setattr(hub, "PATIENCE_S", 0.01)
    with pytest.raises(InputError, match="no answer"):
        hub._asked("me/mine", Silent)
    answered.set()
