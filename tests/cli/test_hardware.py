"""`gpt2cost hardware`, and --gpu with files of the user: good and bad ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import MY_GPU, assert_refused

BAD_HARDWARE = {
    "empty": ("", "expected a mapping"),
    "missing key": (MY_GPU.replace("vendor: nvidia\n", ""), "vendor"),
    "unknown key": (MY_GPU + "color: red\n", "color"),
    "bare number": (MY_GPU.replace("2 TB/s", "2000000000000"), "$.memory.bandwidth"),
    "wrong unit": (MY_GPU.replace("2 TB/s", "2 TFLOP/s"), "$.memory.bandwidth"),
    "NaN": (MY_GPU.replace("2 TB/s", ".nan"), "$.memory.bandwidth"),
    "zero": (MY_GPU.replace("2 TB/s", "0 TB/s"), "$.memory.bandwidth"),
    "negative": (MY_GPU.replace("2 TB/s", "-2 TB/s"), "$.memory.bandwidth"),
    "tag": ("!!python/object/apply:os.system ['true']", "tags"),
    "binary": ("\0\1\2", "NUL"),
}


@pytest.mark.parametrize("case", BAD_HARDWARE)
def test_bad_hardware_files_are_one_line(case: str, gpt2cost: Any, tmp_path: Path) -> None:
    text, named = BAD_HARDWARE[case]
    path = tmp_path / "my-gpu.yaml"
    path.write_text(text)
    for command in (["predict", "--model", "gpt2", "--gpu"], ["hardware", "show"], ["hardware", "validate"]):
        assert_refused(gpt2cost(*command, str(path)), named)


def test_a_hardware_file_works(gpt2cost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-gpu.yaml").write_text(MY_GPU)
    assert gpt2cost("hardware", "validate", str(tmp_path / "my-gpu.yaml")).code == 0
    by_path = gpt2cost("predict", "--model", "gpt2", "--gpu", str(tmp_path / "my-gpu.yaml"))
    monkeypatch.setenv("GPT2COST_HARDWARE_PATH", str(tmp_path))
    assert by_path == gpt2cost("predict", "--model", "gpt2", "--gpu", "my-gpu")
    assert by_path.code == 0
    assert "my-gpu" in by_path.out.splitlines()[0]


def test_a_bad_file_among_the_users_own_is_a_warning(
    gpt2cost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.yaml").write_text("aliases: [a100")
    monkeypatch.setenv("GPT2COST_HARDWARE_PATH", str(tmp_path))
    for command in (["hardware", "list"], ["predict", "--model", "gpt2", "--gpu", "a100"]):
        result = gpt2cost(*command)
        assert result.code == 0
        assert "a100-sxm-80gb" in result.out
        assert result.err.startswith(f"warning: skipped: {tmp_path}/broken.yaml: line 2: not valid YAML")
        assert result.err.count("\n") == 1


def test_quantities_of_a_device_have_units(gpt2cost: Any) -> None:
    text = gpt2cost("hardware", "show", "a100").out
    assert "  bandwidth: 2.04 TB/s" in text.splitlines()
    assert "    fp16: 312 TFLOP/s" in text.splitlines()
