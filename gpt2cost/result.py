"""What every result of the package offers: records, rows, and how it looks in a notebook.

How a result is shown is the output wing's affair. Its room is found by name when it is asked for, as a command is, so
that what computes imports nothing of what prints.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar


class Result:
    """Base of the results. `shown_by` is the room of the output wing whose `VIEWS` has the class's `View`."""

    shown_by: ClassVar[str]

    @property
    def view(self) -> Any:
        """How the result is shown: a `gpt2cost.output.record.View`."""
        views = import_module(f"gpt2cost.output.{self.shown_by}").VIEWS
        return next(views[cls] for cls in type(self).__mro__ if cls in views)

    def rows(self) -> list[dict[str, Any]]:
        """Flat records, one per row of a spreadsheet, with the keys of the CSV output; values in SI units."""
        return list(self.view.rows(self))

    def to_dict(self) -> dict[str, Any]:
        """The JSON document: nested, in SI units, every key with its unit."""
        document: dict[str, Any] = self.view.document(self)
        return document

    def __repr__(self) -> str:
        return "\n".join(self.view.summary(self))

    def _repr_html_(self) -> str:
        """What a notebook shows: the text that the command line prints, its tables as HTML."""
        page: str = self.view.html(self)
        return page
