"""The file that measurements are appended to, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from gpt2cost.errors import InputError
from gpt2cost.files import write_text
from gpt2cost.measure.records import Measurement, case_of, read_records

SAME_MACHINE = ("torch", "transformers", "device", "gpu", "cpu_model", "threads", "dtypes", "sizes")
"""What must not have changed for a stopped run to go on."""


class Journal:
    """The file that measurements are appended to, a line each; without a path they are kept in memory alone.

    A file that cannot be resumed, being complete or of another machine, is kept as `set_aside`.
    """

    def __init__(self, path: Path | None, machine: Measurement) -> None:
        self.path = path
        machine = json.loads(json.dumps(machine))  # as it is when read back
        earlier = self._earlier(machine)
        self.records: list[Measurement] = [*earlier] if earlier else [machine]
        self._done = set(map(_key, self.records))
        self.set_aside: Path | None = None
        if path is None:
            return
        if not earlier and path.is_file():
            self.set_aside = _unused(path)
            path.replace(self.set_aside)
        write_text("".join(json.dumps(record) + "\n" for record in self.records), path)

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
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in new)
        self.records += new
        self._done |= set(map(_key, new))

    def end(self) -> None:
        """Say that all is measured."""
        self.add([{"kind": "end", "complete": True}])


def _unused(path: Path) -> Path:
    """A name for a file that is set aside, beside those that were before: `.bak`, `.bak2`, `.bak3`, ..."""
    names = (path.with_name(f"{path.name}.bak{number}") for number in ("", *range(2, 1_000_000)))
    return next(name for name in names if not name.exists())


def _key(record: Measurement) -> tuple[str, int | None]:
    return case_of(record), record.get("sweep")
