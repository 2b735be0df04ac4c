"""Nearest items by inner product: the port, and the exact index that is the oracle of every other.

N items, d embedding length, n results.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from serving.core.candidates import Rows, Scores

Embeddings = npt.NDArray[np.float32]


class AnnIndex(Protocol):
    """Finds the rows with the largest inner product with a query."""

    def search(self, query: npt.NDArray[np.float32], n: int) -> tuple[Rows, Scores]:
        """At most n rows, int32[m], and their inner products, float32[m], best first.

        query: float32[d].  n: 0 or more; beyond N, all items may come back.
        """
        ...


class ExactIndex:
    """Compares the query with every item."""

    def __init__(self, embeddings: Embeddings) -> None:
        """embeddings: float32[N, d]; kept, not copied."""
        self._embeddings = np.asarray(embeddings)

    def search(self, query: npt.NDArray[np.float32], n: int) -> tuple[Rows, Scores]:
        """The true nearest rows; ties go to the lower row."""
        scores = self._embeddings @ query
        rows = top_rows(scores, n)
        return rows, scores[rows]


def top_rows(scores: Scores, n: int) -> Rows:
    """Positions int32[min(n, N)] of the largest of float32[N] scores, best first; ties go to the lower one."""
    n = min(n, len(scores))
    if n <= 0:
        return np.empty(0, np.int32)
    if n == len(scores):
        return np.argsort(-scores, kind="stable").astype(np.int32)
    threshold = np.partition(scores, len(scores) - n)[len(scores) - n]
    chosen = np.flatnonzero(scores >= threshold)
    return chosen[np.argsort(-scores[chosen], kind="stable")][:n].astype(np.int32)
