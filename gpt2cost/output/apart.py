"""Places of texts in a row that keep apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def spread(centres: Sequence[float], widths: Sequence[float], low: float, high: float) -> list[float]:
    """The centres of texts of some widths in a row, moved as little as keeps them apart and between two edges.

    The mean of a run of texts that touch is the mean of where they wanted to be (isotonic regression).
    """
    if not centres:
        return []
    before = np.cumsum([0.0, *((a + b) / 2 for a, b in pairwise(widths))])
    runs: list[tuple[float, int]] = []
    for centre, offset in zip(centres, before, strict=True):
        own, count = centre - offset, 1
        while runs and runs[-1][0] >= own:
            mean, more = runs.pop()
            own, count = (own * count + mean * more) / (count + more), count + more
        runs.append((own, count))
    places = np.repeat([mean for mean, _ in runs], [count for _, count in runs]) + before
    first, last = low + widths[0] / 2 + before, high - widths[-1] / 2 - (before[-1] - before)
    places = np.maximum(np.minimum(places, last), first)
    return [float(place) for place in places]
