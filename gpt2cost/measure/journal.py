"""The file that measurements are appended to, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from gpt2cost.errors import InputError, plain
from gpt2cost.files import write_text

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]
from gpt2cost.measure.records import Measurement, case_of, read_records

SAME_MACHINE = ("torch", "transformers", "device", "gpu", "cpu_model", "threads", "dtypes", "sizes")
"""What must not have changed for a stopped run to go on."""


class Journal:
    """The file that measurements are appended to, a line each; without a path they are kept in memory alone.

    A file that cannot be resumed, being complete or of another machine, is kept as `set_aside`. Raises `InputError`
    where another run is writing the file.
    """

    def __init__(self, path: Path | None, machine: Measurement) -> None:
        self.path = path
        self._file = None if path is None else _locked(path)
        machine = json.loads(json.dumps(machine))  # as it is when read back
        earlier = self._earlier(machine)
        self.records: list[Measurement] = [*earlier] if earlier else [machine]
        self._done = set(map(_key, self.records))
        self.set_aside: Path | None = None
        if path is None or self._file is None:
            return
        if not earlier and (before := path.read_bytes().decode("utf-8", "replace")):
            self.set_aside = _unused(path)
            write_text(before, self.set_aside)
        self._file.truncate(0)  # in place: a new file would not be the one that is locked
        self._append(self.records)

    def _earlier(self, machine: Measurement) -> list[Measurement]:
        """What a run that was stopped has measured on this machine as it is now; nothing if it was complete."""
        if self.path is None or not self.path.is_file():
            return []
        try:
            records = read_records(self.path)
        except InputError:
            return []
        same = records[0]["kind"] == "machine" and all(records[0].get(k) == machine.get(k) for k in SAME_MACHINE)
        return records if same and records[-1]["kind"] != "end" else []

    def has(self, record: Measurement) -> bool:
        """Whether the same case was measured in the same sweep."""
        return _key(record) in self._done

    def add(self, records: Iterable[Measurement]) -> None:
        """Append lines, all at once."""
        new = list(records)
        self._append(new)
        self.records += new
        self._done |= set(map(_key, new))

    def end(self) -> None:
        """Say that all is measured."""
        self.add([{"kind": "end", "complete": True}])

    def _append(self, records: Iterable[Measurement]) -> None:
        if self._file is not None:
            self._file.writelines(json.dumps(record) + "\n" for record in records)
            self._file.flush()


def _locked(path: Path) -> TextIO:
    """The file, opened for appending, as long as nobody else has it so. The lock goes with the process."""
    if path.exists() and not path.is_file():
        raise InputError(f"{plain(str(path))}: expected a regular file, from which a stopped run can go on")
    file = path.open("a", encoding="utf-8")
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(f"{plain(str(path))}: another run is writing its measurements into it") from None
        except OSError:
            pass  # a file system without locks
    return file


def _unused(path: Path) -> Path:
    """A name for a file that is set aside, beside those that were before: `.bak`, `.bak2`, `.bak3`, ..."""
    names = (path.with_name(f"{path.name}.bak{number}") for number in ("", *range(2, 1_000_000)))
    return next(name for name in names if not name.exists())


def _key(record: Measurement) -> tuple[str, int | None]:
    return case_of(record), record.get("sweep")
