"""What every result of the package offers: records, rows, and how it looks in a notebook.

How a result is shown is the output wing's affair. Its room is found by name when it is asked for, as a command is, so
that what computes imports nothing of what prints.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar

from gpt2cost.errors import InputError


class Result:
    """Base of the results. `shown_by` is the room of the output wing whose `VIEWS` has the class's `View`."""

    shown_by: ClassVar[str]

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """The shape of the arrays that the result holds; of a single point it is empty."""
        return ()

    @property
    def view(self) -> Any:
        """How the result is shown: a `gpt2cost.output.record.View`."""
        views = import_module(f"gpt2cost.output.{self.shown_by}").VIEWS
        return next(views[cls] for cls in type(self).__mro__ if cls in views)

    def rows(self) -> list[dict[str, Any]]:
        """Flat records, one per row of a spreadsheet, with the keys of the CSV output; values in SI units.

        Raises `InputError` for a result that holds arrays, as `to_dict` does.
        """
        self._check_single()
        return list(self.view.rows(self))

    def to_dict(self) -> dict[str, Any]:
        """The JSON document: nested, in SI units, every key with its unit."""
        self._check_single()
        document: dict[str, Any] = self.view.document(self)
        return document

    def __repr__(self) -> str:
        return "\n".join(self.view.summary(self))

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the text that the command line prints, its tables as HTML; None for arrays."""
        return None if self.grid_shape else self.view.html(self)

    def _check_single(self) -> None:
        if self.grid_shape:
            raise InputError(f"a result of arrays has no rows: {self.grid_shape} points; take its arrays, or use sweep")
