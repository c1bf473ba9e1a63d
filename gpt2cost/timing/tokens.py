"""Points of a grid with equally many tokens, batch times length: all but attention's kernels take as long at each.

Such a kernel is timed once for each number of tokens, and its terms are spread over the points that have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2cost.timing.terms import Array, Terms


@dataclass(frozen=True, eq=False)
class Tokens:
    """The numbers of tokens in a grid. `values`: of the symbols, with each number once, as sequences of one token.

    `first` is a point that has it, `place` says of each point which number it has; `place` has the grid's shape.
    """

    values: Mapping[str, Array]
    first: Array
    place: Array

    def once(self, sizes: Sequence[Array], most: float) -> list[Array] | None:
        """`sizes` over the grid, no larger than `most`, for each number of tokens; None where points of equally many
        tokens differ."""
        taken = []
        for size in sizes:
            if np.ndim(size):
                if np.broadcast_shapes(size.shape, self.place.shape) != self.place.shape:
                    return None
                every = np.broadcast_to(np.minimum(size, most), self.place.shape)
                size = every.ravel()[self.first]
                if not np.array_equal(size[self.place], every):
                    return None
            taken.append(size)
        return taken

    def spread(self, terms: Terms) -> Terms:
        """The terms of each point, from those of each number of tokens."""
        return Terms(*(self._of_points(value) for value in vars(terms).values()))

    def _of_points(self, value: Array) -> Array:
        return np.broadcast_to(value, self.first.shape)[self.place] if np.ndim(value) else value


def tokens_of(values: Mapping[str, Array]) -> Tokens | None:
    """The numbers of tokens at the sizes in `values`; None where few points have one in common."""
    every = values["batch_size"] * values["seq_len"]
    if np.size(every) < 2:
        return None
    numbers, first, place = np.unique(every, return_index=True, return_inverse=True)
    if 4 * numbers.size > 3 * every.size:
        return None
    return Tokens({**values, "batch_size": numbers, "seq_len": 1.0}, first, place.reshape(every.shape))
