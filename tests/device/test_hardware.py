"""A hardware file is a device, or is refused in one line that says what is wrong."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import MY_GPU, SHIPPED, file_refusal, write_yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2cost.device import hardware
from gpt2cost.device.catalog import load_hardware, validate_file
from gpt2cost.device.hardware import Hardware
from gpt2cost.errors import InputError
from gpt2cost.files import SIZE_LIMIT


def test_good(tmp_path: Path) -> None:
    (device,) = validate_file(write_yaml(tmp_path, "\ufeff" + MY_GPU))
    assert device.memory == hardware.Memory(80e9, 2e12, 40e6, 5e12)


def test_usable_memory() -> None:
    """The GPU's share, less the reserve; a file need name neither."""
    memory = hardware.Memory(80e9, 2e12, 40e6, 5e12)
    assert memory.usable_bytes == 80e9
    assert dataclasses.replace(memory, reserve_bytes=0.5e9).usable_bytes == 79.5e9
    assert dataclasses.replace(memory, gpu_share=0.75, reserve_bytes=1e9).usable_bytes == 59e9
    assert dataclasses.replace(memory, reserve_bytes=90e9).usable_bytes == 0


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = (
        MY_GPU.replace("bandwidth: 2 TB/s", "bandwith: 3.35 TFLOP/s").replace("units: 108, ", "").replace("40 MB", "40")
    )
    assert file_refusal(write_yaml(tmp_path, text)) == (
        "$.memory.bandwidth: missing; $.memory.bandwith: unknown key, "
        "did you mean 'bandwidth', 'l2_bandwidth'?; "
        "$.memory.l2: expected a size such as '80 GB', got 40; $.compute.units: missing"
    )


EVIDENCE = "{source: s, model: gpt2, batch: 1, seq: 8, dtype: fp32, attn: sdpa, latency: 1 ms"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2 TB/s", "2 TFLOP/s", "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got '2 TFLOP/s'"),
        ("2 TB/s", "0 TB/s", "$.memory.bandwidth: expected a byte rate"),
        ("2 TB/s", "-2 TB/s", "$.memory.bandwidth: expected a byte rate"),
        ("2 TB/s", "nan TB/s", "$.memory.bandwidth: expected a byte rate"),
        ("2 TB/s", ".nan", "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got nan"),
        ("2 TB/s", ".inf", "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got inf"),
        (
            "vendor: nvidia",
            "vendor: nvidia\nboard_power: 400",
            "$.board_power: expected a power such as '400 W', got 400",
        ),
        ("vendor: nvidia", "vendor: nvidia\nboard_power: 0 W", "$.board_power: expected a power"),
        ("vendor: nvidia", "vendor: nvidia\nboard_power: inf W", "$.board_power: expected a power"),
        ("vendor: nvidia", "vendor: nvidia\nboard_power: 4e9 W", "$.board_power: expected a power"),
        ("vendor: nvidia", "vendor: nvidia\nboard_power: 400 mW", "$.board_power: expected a power"),
        ("vendor: nvidia", "vendor: nvidia\nboard_power_w: 400 W", "$.board_power_w: unknown key, did you mean"),
        ("2 TB/s", "{a: 1}", "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got a mapping"),
        ("2 TB/s", "9" * 3000, "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got a very large number"),
        ("2 TB/s", "0x" + "f" * 9000, "$.memory.bandwidth: expected a byte rate such as '3.35 TB/s', got a very large"),
        ("2 TB/s", "9" * 9000, "not valid YAML: "),
        ("2 TB/s", "2001-99-99", "not valid YAML: "),
        ("units: 108", "units: 108.0", "$.compute.units: expected a whole number above 0, got 108.0"),
        ("units: 108", "units: true", "$.compute.units: expected a whole number above 0, got True"),
        ("units: 108", "units: 0", "$.compute.units: expected a whole number above 0, got 0"),
        ("units: 108", "units: 0x" + "f" * 9000, "$.compute.units: expected a whole number above 0, got a very large"),
        ("fp32: 19.5 TFLOP/s, ", "", "$.compute.peak.fp32: missing"),
        (
            "fp32: 19.5 TFLOP/s",
            "fp32: 19.5 TFLOP/s, fp64: 9 TFLOP/s",
            "$.compute.peak.fp64: unknown key, did you mean ",
        ),
        ("compute_capability: 8.0", "", "$: an nvidia device needs compute_capability, such as 8.0"),
        (
            "compute_capability: 8.0",
            "compute_capability: .nan",
            "$.compute_capability: expected a plain number above 0",
        ),
        (
            "compute_capability: 8.0",
            "compute_capability: 1" + "0" * 400,
            "$.compute_capability: expected a plain number",
        ),
        ("vendor: nvidia", "vendor: amd", "$.vendor: expected one of nvidia, apple, cpu, got 'amd'"),
        ("vendor: nvidia", "vendor: [nvidia]", "$.vendor: expected one of nvidia, apple, cpu, got a list"),
        ("vendor: nvidia", "vendor: nvidia\nvendor: nvidia", "line 4: the key 'vendor' is given twice"),
        ("vendor: nvidia", "vendor: nvidia\n1: 2", "$: expected printable text as a key, got 1"),
        ("vendor: nvidia", "vendor: nvidia\n? [a]\n: 2", "line 4: a key must be a plain name"),
        ("vendor: nvidia", "vendor: nvidia\nborrowed: {}", "$.borrowed: unknown key"),
        ("vendor: nvidia", "vendor: &v nvidia", "line 3: anchors and aliases"),
        ("vendor: nvidia", "vendor: *v", "line 3: anchors and aliases"),
        ("vendor: nvidia", "vendor: !!python/object:os.system nvidia", "line 3: tags (!) are not allowed"),
        ("vendor: nvidia", "vendor: !!str nvidia", "line 3: tags (!) are not allowed"),
        ("vendor: nvidia", "vendor: [a b: c: d", "line 3: not valid YAML: "),
        ("vendor: nvidia", "vendor: =", "line 3: not valid YAML: "),
        ("vendor: nvidia", "vendor: nvidia\n---\na: 1", "line 4: not valid YAML: "),
        ("vendor: nvidia", "vendor: " + "[" * 100_000, "line 3: nested deeper than 20 levels"),
        ("vendor: nvidia", "vendor: " + "{a: " * 100_000, "line 3: nested deeper than 20 levels"),
        ("vendor: nvidia", "\n".join(" " * i + "- " for i in range(900)), "line 3: not valid YAML: "),
        ("name: my-gpu", "name: a\0b", "holds a NUL character"),
        ("name: my-gpu", "name: \ud800", "not UTF-8 text"),
        ("name: my-gpu", 'name: "\\ud800"', "line 2: not valid YAML: "),
        ("name: my-gpu", 'name: "\\0"', "$.name: expected a line of text, got '\\x00'"),
        ("name: my-gpu", 'name: "a\\nb"', "$.name: expected a line of text"),
        ("name: my-gpu", "name: \x07", "not valid YAML: "),
        ("name: my-gpu", "name: ''", "$: name and aliases must not be empty"),
        ("name: my-gpu", "name: my-gpu\naliases: [4090]", "$.aliases[0]: expected a line of text, got 4090"),
        ("name: my-gpu", "name: my-gpu\naliases: big", "$.aliases: expected a list, got 'big'"),
        (
            "launch: {like: a100-sxm-80gb}",
            "launch: {}",
            "$.launch.stream_floor: missing; $.launch.graph_floor: missing",
        ),
        ("launch: {like: a100-sxm-80gb}", "launch:", "$.launch: expected a mapping, got nothing"),
        ("launch: {like: a100-sxm-80gb}", "", "$.launch: missing"),
        (
            "model: {like: a100-sxm-80gb}",
            "model: {like: m1, memory: {kinds: {copy: {dram_efficiency: 1.5}}}}",
            "$.model.memory.kinds.copy.dram_efficiency: expected a plain number above 0 and at most 1, such as 0.85",
        ),
        ("model: {like: a100-sxm-80gb}", "model: {like: t4, gemm: {fp8: {}}}", "$.model.gemm.fp8: unknown key"),
        ("fp16: 312 TFLOP/s", "bf16: 312 TFLOP/s}}\nx: {y: {", "$.x: unknown key"),
        ("provenance: {memory: datasheet}", "provenance: {memory: 1}", "$.provenance.memory: expected a line of text"),
        ("provenance:", f"evidence: [{EVIDENCE}, batch: 0}}]\nprovenance:", "line 11: the key 'batch' is given twice"),
        (
            "provenance:",
            f"evidence: [{EVIDENCE}, cache: -1}}]\nprovenance:",
            "$.evidence[0].cache: expected a whole number",
        ),
        ("provenance:", f"evidence: [{EVIDENCE}, runtime: x}}]\nprovenance:", "$.evidence[0].runtime: expected one of"),
    ],
)
def test_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MY_GPU
    path = write_yaml(tmp_path, MY_GPU.replace(old, new, 1))
    assert file_refusal(path).startswith(message)


def test_the_constants_of_any_gpu_may_be_borrowed(tmp_path: Path) -> None:
    """Catches a file that is refused, or loses constants, where it takes another vendor's."""
    (device,) = validate_file(write_yaml(tmp_path, MY_GPU.replace("model: {like: a100-sxm-80gb}", "model: {like: m1}")))
    assert device.model == load_hardware("m1").model
    assert device.borrowed["model"] == "m1"


def test_every_peak_needs_its_constants(tmp_path: Path) -> None:
    gemm = "{like: none, fp32: {tiles: [64x64], efficiency: 0.9, dram_efficiency: 0.8, launch: 2 us}}"
    text = MY_GPU.replace("model: {like: a100-sxm-80gb}", f"model: {{like: a100-sxm-80gb, gemm: {gemm}}}")
    assert (
        file_refusal(write_yaml(tmp_path, text))
        == "$: model has no products in fp16, for which compute.peak has a rate"
    )


def test_many_problems_stay_short(tmp_path: Path) -> None:
    message = file_refusal(write_yaml(tmp_path, MY_GPU + "".join(f"{'k' * 300}{i}: 1\n" for i in range(1000))))
    assert message.endswith("; and 980 more")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a mapping with name, vendor, memory, ..., got nothing"),
        (b"- a\n", "expected a mapping with name, vendor, memory, ..., got a list"),
        (b"hello\n", "expected a mapping with name, vendor, memory, ..., got 'hello'"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not UTF-8 text (byte 0); is it a binary file?"),
        (b"\0\0\0\0", "holds a NUL character; is it a binary file?"),
        (b"# " + b"x" * SIZE_LIMIT, "larger than 1 MB, so it is not such a file"),
        (
            b"a: &a [x]\nb: &b [*a, *a, *a]\nc: &c [*b, *b, *b]\n",
            "line 1: anchors and aliases (& and *) are not allowed",
        ),
    ],
)
def test_refused_content(tmp_path: Path, content: bytes, message: str) -> None:
    assert file_refusal(write_yaml(tmp_path, content)).startswith(message)


def test_missing_file_and_directory(tmp_path: Path) -> None:
    assert file_refusal(tmp_path / "none.yaml") == "cannot read this file: No such file or directory"
    assert file_refusal(tmp_path) == "cannot read this file: Is a directory"
    with pytest.raises(InputError, match="cannot read this file"):
        load_hardware(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("dtype: bf16, attn: sdpa", "evidence in bf16, for which compute.peak has no rate"),
        ("dtype: fp32, attn: sdpa, kernels: {skale: div}", r"\$\.evidence\[0\]\.kernels\.skale: unknown key"),
        ("dtype: fp32, attn: sdpa, kernels: {scale: zzz}", "kernels.scale: expected one of mul, div, got 'zzz'"),
        (
            "dtype: fp16, attn: flash_attention_2",
            "evidence with flash_attention_2 in fp16, which the device cannot run",
        ),
        ("dtype: fp32, attn: sdpa, use_cache: false, cache: 7", "cache: expected 0 where use_cache is false"),
    ],
)
def test_evidence_that_the_device_cannot_have(row: str, message: str, tmp_path: Path) -> None:
    text = next(path for path in SHIPPED if path.stem == "t4").read_text("utf-8")
    case = f"evidence:\n  - {{source: me, model: gpt2, batch: 1, seq: 8, latency: 1 ms, {row}}}\n"
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("evidence:\n", case, 1), "utf-8")
    with pytest.raises(InputError, match=message):
        validate_file(path)


# ---------------------------------------------------------------------------------------------- fuzz

COUNTER = itertools.count()
FUZZ = settings(max_examples=100)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates()
QUANTITIES = st.sampled_from(
    ["1 GB", "1 us", "3 TB/s", "2 TFLOP/s", "0 GB", "a100-sxm-80gb", "like", "m1", "", "1e400 s"]
)
KEYS = st.sampled_from(["like", "name", "memory", "gemm", "fp32", "variants", "evidence", "<<"]) | SCALARS.filter(
    lambda x: x == x
)
TREES = st.recursive(
    SCALARS | QUANTITIES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def accept_or_refuse(folder: Path, content: bytes) -> None:
    path = write_yaml(folder, content, f"{next(COUNTER)}.yaml")
    try:
        devices = validate_file(path)
    except InputError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 10_000
    else:
        assert all(isinstance(device, Hardware) for device in devices)
    finally:
        path.unlink()


def dump(tree: object) -> bytes:
    text: str = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    return text.encode("utf-8", "surrogatepass")


@FUZZ
@given(st.binary(max_size=200) | st.text(alphabet="ab:{}[],-&*!|>'\"\\ \n\t#?%@<=.0189\0\ud800é", max_size=60).map(
    lambda text: text.encode("utf-8", "surrogatepass")
))  # fmt: skip
def test_fuzz_bytes(folder: Path, content: bytes) -> None:
    accept_or_refuse(folder, content)


@FUZZ
@given(TREES)
def test_fuzz_trees(folder: Path, tree: object) -> None:
    accept_or_refuse(folder, dump(tree))


@FUZZ
@given(st.data())
def test_fuzz_changed_values(folder: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(SHIPPED))
    tree = copy.deepcopy(yaml.load(path.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    for _ in range(data.draw(st.integers(1, 3))):
        node: Any = tree
        while True:  # walk down to a random key, and replace, add or remove there
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and data.draw(st.booleans()):
                node = node[key]
                continue
            change = data.draw(st.sampled_from(["replace", "remove", "add"]))
            if change == "replace":
                node[key] = data.draw(TREES)
            elif change == "remove":
                del node[key]
            elif isinstance(node, dict):
                node[data.draw(KEYS)] = data.draw(TREES)
            else:
                node.append(data.draw(TREES))
            break
    accept_or_refuse(folder, dump(tree))


@FUZZ
@given(st.sampled_from(SHIPPED), st.floats(0, 1), st.integers(0, 20), st.binary(max_size=6))
def test_fuzz_changed_bytes(folder: Path, path: Path, where: float, removed: int, added: bytes) -> None:
    content = path.read_bytes()
    at = int(where * len(content))
    accept_or_refuse(folder, content[:at] + added + content[at + removed :])
