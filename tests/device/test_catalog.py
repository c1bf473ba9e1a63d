"""Devices by their names: where a file is found, what it borrows, and how little is read for it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MY_GPU, ROOT, SHIPPED, file_refusal, write_yaml

from gpt2cost.device import catalog
from gpt2cost.device.catalog import hardware_names, list_hardware, load_hardware, validate_file
from gpt2cost.device.gpu_constants import KindConstants
from gpt2cost.errors import InputError, InputWarning
from gpt2cost.files import data_dir


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("a100", "a100-sxm-80gb"),
        ("A100", "a100-sxm-80gb"),
        ("a100-SXM-40GB", "a100-sxm-40gb"),
        ("h100", "h100-sxm-80gb"),
        ("h200", "h200-sxm-141gb"),
        ("b200", "b200-sxm-180gb"),
        ("4090", "rtx4090"),
        ("RTX-4090", "rtx4090"),
        ("geforce-rtx-4090", "rtx4090"),
        ("3090", "rtx3090"),
        ("rtx-3090", "rtx3090"),
        ("v100", "v100-sxm-32gb"),
        ("m1-max-32c", "m1-max"),
        ("M1-Max-24c", "m1-max-24c"),
    ],
)
def test_alias(name: str, canonical: str) -> None:
    assert load_hardware(name).name == canonical


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        load_hardware("rtx4900")
    assert str(caught.value).startswith("unknown hardware 'rtx4900', did you mean 'rtx4090'")
    assert "gpt2cost hardware list" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", " ", "x" * 100_000, "a\0b", "a\nb", "\ud800", "a100\n", "..", ".", "*", "[", "a/\0", "\ud800/"]
)
def test_odd_names(name: str) -> None:
    with pytest.raises(InputError) as caught:
        load_hardware(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_list_is_in_natural_order() -> None:
    names = [device.name for device in list_hardware()]
    assert names.index("l4") < names.index("l40s")
    assert names.index("m1-max") < names.index("m1-max-24c") < names.index("m2")
    assert len(names) == sum(1 + len(load_hardware(path).variants) for path in SHIPPED)


def test_file_beats_folder_beats_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    write_yaml(own, MY_GPU + "aliases: [Mine, t4]\n", "my-gpu.yaml")
    write_yaml(other, MY_GPU.replace("my-gpu", "second") + "aliases: [mine]\n", "l4.yml")
    folders = os.pathsep.join(map(str, (own, other, "")))
    monkeypatch.setenv(catalog.PATH_VARIABLE, folders)
    assert load_hardware("MY-GPU").name == load_hardware("mine").name == load_hardware("T4").name == "my-gpu"
    assert load_hardware("l4").name == load_hardware("second").name == "second"
    assert load_hardware("a100").name == "a100-sxm-80gb"
    assert {"my-gpu", "second", "t4"} <= {device.name for device in list_hardware()}
    monkeypatch.chdir(other)
    assert load_hardware("l4.yml").name == load_hardware("./l4.yml").name == "second"
    assert load_hardware(Path("l4.yml")) is load_hardware("l4.yml")


def test_a_stray_file_does_not_hide_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a100", "strange"):
        write_yaml(tmp_path, MY_GPU, name)
    assert load_hardware("a100").name == "a100-sxm-80gb"
    assert load_hardware("./a100").name == load_hardware(Path("a100")).name == "my-gpu"
    assert load_hardware("strange").name == "my-gpu", "no device has this name"


@pytest.mark.parametrize("bad", ["syntax", "schema", "NUL", "link", "folder", "fifo"])
def test_a_bad_file_among_the_users_own_is_skipped(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bad.yaml"
    match bad:
        case "link":
            path.symlink_to(tmp_path / "nowhere")
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            write_yaml(tmp_path, {"syntax": "aliases: [t4", "schema": "aliases: [t4]", "NUL": "\0t4"}[bad], "bad.yaml")
    write_yaml(tmp_path, MY_GPU, "good.yaml")
    monkeypatch.setenv(catalog.PATH_VARIABLE, str(tmp_path))
    monkeypatch.setattr("gpt2cost.files.PIPE_WAIT_S", 0.05)
    for find in (lambda: load_hardware("t4"), list_hardware):
        with pytest.warns(InputWarning, match=r"bad\.yaml: ") as seen:
            find()
        assert len(seen) == 1
        assert str(seen[0].message).isprintable()
    with pytest.warns(InputWarning):
        assert {"my-gpu", "t4"} <= {device.name for device in list_hardware()}
    assert "bad" in hardware_names(), "of the user's own files only the file names are looked at"
    for asked in ("bad", str(path)):
        with pytest.raises(InputError, match=r"bad\.yaml: "):
            load_hardware(asked)


def test_a_device_stands_for_itself_and_is_a_key() -> None:
    device = load_hardware("a100")
    catalog._load_file.cache_clear()
    again = load_hardware("a100")
    assert load_hardware(device) is device
    assert again is not device
    assert again == device
    assert {device: 1}[again] == 1
    faster = catalog.change_hardware(device, {"memory.bandwidth": "9 TB/s"})
    assert faster != device
    assert dataclasses.replace(device, provenance={}) != device


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, MY_GPU)
    first = load_hardware(str(path))
    assert load_hardware(str(path)) is first
    write_yaml(tmp_path, MY_GPU.replace("units: 108", "units: 1080"))
    assert load_hardware(str(path)).compute.units == 1080


# ---------------------------------------------------------------------------------------------- what a file borrows


def test_like_takes_a_section_whole_with_overrides(tmp_path: Path) -> None:
    lender = load_hardware("a100-sxm-80gb")
    changes = (
        "gemm: {fp16: {launch: 9 us}}, memory: {l2_copy: 1 TB/s, kinds: {copy: {like: none, dram_efficiency: 0.5}}}"
    )
    text = MY_GPU.replace("model: {like: a100-sxm-80gb}", f"model: {{like: a100-sxm-80gb, {changes}}}")
    (device,) = validate_file(write_yaml(tmp_path, text))
    assert device.launch == lender.launch
    assert device.host == lender.host
    assert device.model.memory.l2_copy_bytes_per_s == 1e12
    assert device.model.memory.kinds == {**lender.model.memory.kinds, "copy": KindConstants(dram_efficiency=0.5)}
    assert device.model.gemm["fp16"] == dataclasses.replace(lender.model.gemm["fp16"], launch_s=9e-6)
    assert device.model.gemm["fp32"] == lender.model.gemm["fp32"]
    assert device.borrowed == {"model": "a100-sxm-80gb", "host": "a100-sxm-80gb", "launch": "a100-sxm-80gb"}
    assert lender.borrowed == {}


def test_like_goes_along_a_chain_but_not_in_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = (data_dir("hardware") / "a100-sxm-80gb.yaml").read_text(encoding="utf-8")
    write_yaml(tmp_path, full, "a100-sxm-80gb.yaml")
    for name, like in {"b": "a100-sxm-80gb", "c": "b", "x": "y", "y": "z", "z": "x"}.items():
        write_yaml(
            tmp_path,
            MY_GPU.replace("my-gpu", name).replace("model: {like: a100-sxm-80gb", f"model: {{like: {like}"),
            f"{name}.yaml",
        )
    monkeypatch.setattr(catalog, "data_dir", lambda kind: tmp_path)
    assert load_hardware("c").model == load_hardware("a100-sxm-80gb").model
    assert load_hardware("c").borrowed["model"] == "b"
    assert file_refusal(tmp_path / "x.yaml") == "$.model.like: goes in a circle: y -> z -> x -> y"


@pytest.mark.parametrize("like", ["a100", "nowhere", "1", "[a]", "null", "../a100-sxm-80gb"])
def test_like_names_a_shipped_file(tmp_path: Path, like: str) -> None:
    message = file_refusal(
        write_yaml(tmp_path, MY_GPU.replace("host: {like: a100-sxm-80gb}", f"host: {{like: {like}}}"))
    )
    assert message.startswith("$.host.like: expected the name of a shipped device, got ")


def test_variants(tmp_path: Path) -> None:
    text = MY_GPU + "variants: {small: {aliases: [tiny], memory: {capacity: 1 GB}}, odd: {}}\naliases: [big]\n"
    base, small, odd = validate_file(write_yaml(tmp_path, text))
    assert (base.names, small.names, odd.names) == (("my-gpu", "big"), ("small", "tiny"), ("odd",))
    assert small.memory.capacity_bytes == 1e9
    assert small.memory.bandwidth_bytes_per_s == base.memory.bandwidth_bytes_per_s
    assert base.variants == ("small", "odd")


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("[a]", "$.variants: expected a mapping"),
        ("{1: {}}", "$.variants: expected text as a key, got 1"),
        ("{a: 1}", "variant a: expected a mapping"),
        ("{a: {name: b}}", "variant a: expected a mapping of what differs, without a name"),
        ("{a: {memory: {capacity: 1}}}", "variant a: $.memory.capacity: expected a size"),
        ("{a: {variants: {}}}", "variant a: $.variants: unknown key"),
    ],
)
def test_wrong_variants(tmp_path: Path, variants: str, message: str) -> None:
    assert file_refusal(write_yaml(tmp_path, MY_GPU + f"variants: {variants}\n")).startswith(message)


# ---------------------------------------------------------------------------------------------- start-up


def test_import_is_light() -> None:
    """What this module itself needs: the package is a bare stand-in, because its own `__init__` imports more."""
    root = ROOT
    code = (
        "import sys, types; package = types.ModuleType('gpt2cost'); package.__path__ = ['gpt2cost']; "
        "sys.modules['gpt2cost'] = package; import gpt2cost.device.catalog as c; c.load_hardware('a100'); "
        "print([m for m in ('numpy', 'torch', 'transformers', 'rich', 'typer', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "files"), [("a100-sxm-80gb", 1), ("a100", 1), ("h100", 2), ("4090", 1), ("m1-max-24c", 1)]
)
def test_few_files_are_parsed(name: str, files: int, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog._load_file.cache_clear()
    load_hardware(name)
    assert catalog._load_file.cache_info().misses <= files


def test_host_factor_is_a_what_if_of_the_machine() -> None:
    hw = load_hardware("4090")
    slow = catalog.change_hardware(hw, {"host_factor": 1.4})
    assert slow.name == "rtx4090[host x1.4]"
    assert (slow.host_factor, hw.host_factor) == (1.4, 1.0)
    assert slow.changes == {"host_factor": 1.4}
    assert slow.host == hw.host.scaled(1.4)
    assert (slow.model, slow.memory, slow.launch) == (hw.model, hw.memory, hw.launch)
    both = catalog.change_hardware(hw, {"host.op": "10 us", "host_factor": 2})
    assert both.host.op_s == pytest.approx(20e-6)
    assert both.name == "rtx4090[host.op=10 us;host x2]"
    assert catalog.change_hardware(slow, {"host_factor": "2"}).host_factor == pytest.approx(2.8)


@pytest.mark.parametrize("factor", [0, -1.0, float("nan"), float("inf"), "fast", True, None])
def test_bad_host_factor(factor: object) -> None:
    with pytest.raises(InputError, match="host-factor: expected a number above 0, got "):
        catalog.change_hardware(load_hardware("4090"), {"host_factor": factor})
