"""Files that appear whole or not at all, with the permissions that any new file would have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt2cost.errors import InputError, OutputError
from gpt2cost.files import read_text, write_bytes, write_text


@pytest.fixture(autouse=True)
def umask_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test's own umask; whoever sets another one, be it for an instant, changes it for all threads."""
    before = os.umask(0o027)
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is changed"))
    yield
    monkeypatch.undo()
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_file_has_the_permissions_of_any(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    write_text("é", path)
    assert path.read_text("utf-8") == "é"
    assert mode(path) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_keeps_its_permissions_and_a_link_stays_one(tmp_path: Path) -> None:
    path, link = tmp_path / ("x" * 250), tmp_path / "link"
    path.write_text("old")
    path.chmod(0o604)
    link.symlink_to(path)
    write_text("new", link)
    assert (link.is_symlink(), path.read_text(), mode(path)) == (True, "new", 0o604)


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")

    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        write_bytes(chunks(), path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_no_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write: No such file or directory$"):
        write_text("x", tmp_path / "missing" / "file")


def test_what_is_no_file_says_so(tmp_path: Path) -> None:
    """Catches a read that never ends, and a message about the name."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match=f"{path}: expected a regular file"):
            read_text(path)
