"""Where candidates come from: the two-tower model, items like the last ones, and what is popular.

N items of the bundle, T newer ones, K neighbours, S segments, P popular items, L history entries, C candidates.
"""

import numpy as np
import numpy.typing as npt

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates, Rows, Scores, found, no_candidates
from serving.core.request import FloatVector, Request
from serving.retrieval.selection import best, last_places


class TwoTowerSource:
    """The items nearest to the user's embedding, or to the seed items; score is the inner product, -1 to 1."""

    def __init__(self, parts: FilmParts) -> None:
        self._items = parts.table
        self._vectors = parts.item_vectors
        self._index = parts.index

    def find(self, request: Request) -> Candidates:
        """Items newer than the bundle among them; nothing where nothing is known of the user."""
        if not request.is_known:
            return no_candidates()
        query = self._place(request)
        rows, scores = self._index.search(query, request.fetch)
        newer = self._items.tail_search(query, request.fetch)
        if len(newer[0]):
            rows, scores = np.concatenate([rows, newer[0]]), np.concatenate([scores, newer[1]])
            rows, scores = best(rows, scores, request.fetch)
        return found(rows, scores)

    def _place(self, request: Request) -> FloatVector:
        """float32[d] of length 1: among the seeds where the answer is to be like them, else the user's own."""
        if not request.query.seed_items:
            return request.embedding
        seeds = self._items().rows_of(request.query.seed_items)
        seeds = seeds[seeds >= 0]
        if not len(seeds):
            return request.embedding
        return towards(self._vectors(seeds))


class ItemToItemSource:
    """The neighbours of what the user took up, or of the seed items; score is the sum of similarities."""

    def __init__(self, parts: FilmParts) -> None:
        self._neighbours = parts.neighbour_rows
        self._scores = parts.neighbour_scores

    def find(self, request: Request) -> Candidates:
        """Nothing for an empty history; of ties, what older items brought comes first. New items have no neighbours."""
        history = request.history[request.history < len(self._neighbours)]
        if not len(history):
            return no_candidates()
        rows = self._neighbours[history].ravel()
        scores = self._scores[history].ravel()
        if rows.min() < 0:
            there = rows >= 0
            rows, scores = rows[there], scores[there]
        return found(*best(*sum_by_row(rows, scores), request.fetch))

    def nearest_cause(self, row: int, history_rows: Rows) -> int:
        """The history row that brought `row` here with the largest similarity, the newest of equals; -1: none."""
        history_rows = history_rows[history_rows < len(self._neighbours)]
        matches = self._neighbours[history_rows] == row
        strength = np.where(matches, self._scores[history_rows], -np.inf).max(axis=1, initial=-np.inf)
        if not len(strength) or not np.isfinite(strength).any():
            return -1
        return int(history_rows[len(strength) - 1 - int(np.argmax(strength[::-1]))])


class PopularSource:
    """What is popular in the request's country, filled up with what is popular everywhere."""

    def __init__(self, parts: FilmParts) -> None:
        rows, scores = parts.popular_rows, parts.popular_scores
        self._lists = [found(*_filled(rows, scores, segment)) for segment in range(len(rows))]

    def find(self, request: Request) -> Candidates:
        """The country's list, then the rest of the overall list with scores capped to stay below it."""
        return self._lists[request.segment]


class BundledSource:
    """The lists frozen into the bundle: the last link, which needs nothing but the bundle."""

    def __init__(self, parts: FilmParts) -> None:
        rows = parts.list_rows
        places = np.arange(1, rows.shape[1] + 1, dtype=np.float32)
        falling = np.broadcast_to(np.reciprocal(places), rows.shape)
        self._lists = [found(*_filled(rows, falling, segment)) for segment in range(len(rows))]

    def find(self, request: Request) -> Candidates:
        """The country's list, then the overall one; score falls with the place."""
        return self._lists[request.segment]


def sum_by_row(rows: Rows, scores: Scores) -> tuple[Rows, Scores]:
    """Sums scores float32[M] by row int32[M]: distinct rows in the order of their last places, and float32 sums.

    Added up in float64 in the order given, in time that does not depend on the catalogue's size.
    """
    owner = last_places(rows)
    sums = np.bincount(owner, weights=scores)
    distinct = np.flatnonzero(owner == np.arange(len(owner)))
    return rows[distinct], sums[distinct].astype(np.float32)


def towards(vectors: npt.NDArray[np.float32]) -> FloatVector:
    """float32[d] of length 1: the direction of the mean of vectors float32[n, d]; zeros where they cancel out."""
    mean = vectors.mean(axis=0)
    direction: FloatVector = (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype(np.float32)
    return direction


def _filled(rows: Rows, scores: npt.NDArray[np.float32], segment: int) -> tuple[Rows, Scores]:
    own = rows[segment] >= 0
    own_rows, own_scores = np.asarray(rows[segment][own]), np.asarray(scores[segment][own])
    if segment == 0:
        return own_rows, own_scores
    rest = (rows[0] >= 0) & ~np.isin(rows[0], own_rows)
    ceiling = own_scores[-1] if len(own_scores) else np.float32(np.inf)
    return (
        np.concatenate([own_rows, rows[0][rest]]),
        np.concatenate([own_scores, np.minimum(scores[0][rest], ceiling)]),
    )
