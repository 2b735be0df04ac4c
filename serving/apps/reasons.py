"""Which item of a user's history brought a recommended one here.

k items answered, L history entries, N items, K neighbours.
"""

import numpy as np
import numpy.typing as npt

from serving.core.candidates import Rows


class Causes:
    """Finds the history item whose neighbour list holds an answered item with the largest similarity."""

    def __init__(self, neighbour_rows: Rows, neighbour_scores: npt.NDArray[np.float32]) -> None:
        """neighbour_rows: int32[N, K], -1 padded.  neighbour_scores: float32[N, K]."""
        self._rows = neighbour_rows
        self._scores = neighbour_scores

    def __call__(self, rows: Rows, history: Rows) -> Rows:
        """int32[k]: for each of `rows` int32[k] the row of the history int32[L] behind it, the newest of equals; -1
        where there is none."""
        causes = np.full(len(rows), -1, np.int32)
        known = history[history < len(self._rows)]
        if not len(rows) or not len(known):
            return causes
        order = np.argsort(rows, kind="stable")
        neighbours = self._rows[known]
        place = rows.searchsorted(neighbours, sorter=order)
        hit = order[np.minimum(place, len(rows) - 1)]
        film, column = np.nonzero(rows[hit] == neighbours)
        if not len(film):
            return causes
        item, strength = hit[film, column], self._scores[known[film], column]
        best = np.lexsort((film, strength, item))  # of each item's hits the last is the strongest, then the newest
        is_last = np.append(item[best][1:] != item[best][:-1], True)
        chosen = best[is_last]
        causes[item[chosen]] = known[film[chosen]]
        return causes
