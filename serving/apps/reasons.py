"""Which item of a user's history brought a recommended one here.

k items answered, L history entries, N items, K neighbours.
"""

import numpy as np
import numpy.typing as npt

from serving.core.candidates import Rows
from serving.features.scratch import Scratch

LOOKED_AT = 30


class Causes:
    """Finds the history item whose neighbour list holds an answered item with the largest similarity."""

    def __init__(self, neighbour_rows: Rows, neighbour_scores: npt.NDArray[np.float32]) -> None:
        """neighbour_rows: int32[N, K], -1 padded.  neighbour_scores: float32[N, K]."""
        self._rows = neighbour_rows
        self._scores = neighbour_scores
        self._scratch = Scratch()

    def __call__(self, rows: Rows, history: Rows) -> Rows:
        """int32[k]: for each of `rows` int32[k] the history row behind it, the newest of equals; -1 where none is.

        Of the history int32[L], newest last, the newest 30 are looked at.
        """
        causes = np.full(len(rows), -1, np.int32)
        films = history[history < len(self._rows)][-LOOKED_AT:]
        if not len(rows) or not len(films):
            return causes
        neighbours = self._rows.take(films, axis=0)
        # the last place is never an item: a padded -1 finds nothing there
        slots = self._scratch.table("slots", max(len(self._rows), int(rows.max()) + 1) + 1, -1, np.int32)
        slots[rows] = np.arange(len(rows), dtype=np.int32)
        hit = slots.take(neighbours, mode="wrap")
        slots[rows] = -1
        film, column = np.nonzero(hit >= 0)
        if not len(film):
            return causes
        item, strength = hit[film, column], self._scores[films[film], column]
        best = np.lexsort((film, strength, item))  # of each item's hits the last is the strongest, then the newest
        is_last = np.append(item[best][1:] != item[best][:-1], True)
        chosen = best[is_last]
        causes[item[chosen]] = films[film[chosen]]
        return causes
