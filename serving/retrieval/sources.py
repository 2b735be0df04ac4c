"""Where candidates come from: the two-tower model, items like the last ones, and what is popular.

N items, K neighbours, S segments, P popular items, L history entries, C candidates.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from serving.core.candidates import Candidates, Rows, Scores, found_by
from serving.core.request import Request
from serving.retrieval.index import AnnIndex, top_rows

SOURCE_NAMES = ("two_tower", "item_to_item", "popular", "precomputed", "bundled")
DENSE_SUM_MAX_ITEMS = 200_000


class SourceBit(IntEnum):
    """The bit of each source in a candidate's mask; bit i belongs to `SOURCE_NAMES[i]`."""

    TWO_TOWER = 1
    ITEM_TO_ITEM = 2
    POPULAR = 4
    PRECOMPUTED = 8
    BUNDLED = 16


class TwoTowerSource:
    """The items nearest to the user's embedding; score is their inner product, -1 to 1."""

    name = "two_tower"

    def __init__(self, index: AnnIndex) -> None:
        self._index = index

    def find(self, request: Request) -> Candidates:
        """Nothing where nothing is known of the user."""
        if not request.is_known:
            return _nothing(SourceBit.TWO_TOWER)
        rows, scores = self._index.search(request.embedding, request.fetch)
        return found_by(SourceBit.TWO_TOWER, rows, scores)


class ItemToItemSource:
    """The neighbours of what the user took up; score is the sum of similarities over the history."""

    name = "item_to_item"

    def __init__(self, neighbours: Rows, scores: Scores) -> None:
        """neighbours: int32[N, K], -1 padded.  scores: float32[N, K]."""
        self._neighbours = neighbours
        self._scores = scores

    def find(self, request: Request) -> Candidates:
        """Nothing for an empty history; ties go to the lower row."""
        rows = self._neighbours[request.history].ravel()
        scores = self._scores[request.history].ravel()
        there = rows >= 0
        rows, sums = sum_by_row(rows[there], scores[there], len(self._neighbours))
        best = top_rows(sums, request.fetch)
        return found_by(SourceBit.ITEM_TO_ITEM, rows[best], sums[best])

    def nearest_cause(self, row: int, history_rows: Rows) -> int:
        """The history row that brought `row` here with the largest similarity, the newest of equals; -1: none."""
        matches = self._neighbours[history_rows] == row
        strength = np.where(matches, self._scores[history_rows], -np.inf).max(axis=1, initial=-np.inf)
        if not len(strength) or not np.isfinite(strength).any():
            return -1
        return int(history_rows[len(strength) - 1 - int(np.argmax(strength[::-1]))])


class PopularSource:
    """What is popular in the request's country, filled up with what is popular everywhere."""

    name = "popular"

    def __init__(self, rows: Rows, scores: Scores) -> None:
        """rows: int32[S, P], -1 padded, segment 0 for overall.  scores: float32[S, P]."""
        self._lists = [_filled(rows, scores, segment) for segment in range(len(rows))]

    def find(self, request: Request) -> Candidates:
        """The country's list, then the rest of the overall list with scores capped to stay below it."""
        rows, scores = self._lists[request.segment]
        return found_by(SourceBit.POPULAR, rows, scores)


class BundledSource:
    """The lists frozen into the bundle: the last link, which needs nothing but the bundle."""

    name = "bundled"

    def __init__(self, rows: Rows) -> None:
        """rows: int32[S, n], -1 padded, segment 0 for overall."""
        places = np.arange(1, rows.shape[1] + 1, dtype=np.float32)
        falling = np.broadcast_to(np.reciprocal(places), rows.shape)
        self._lists = [_filled(rows, falling, segment) for segment in range(len(rows))]

    def find(self, request: Request) -> Candidates:
        """The country's list, then the overall one; score falls with the place."""
        rows, scores = self._lists[request.segment]
        return found_by(SourceBit.BUNDLED, rows, scores)


def sum_by_row(rows: Rows, scores: Scores, items: int) -> tuple[Rows, Scores]:
    """Sums scores float32[M] by row int32[M]: distinct rows in rising order, and float32 sums.

    Added up in float64 in the order given, however many items there are.
    """
    if items <= DENSE_SUM_MAX_ITEMS:
        counts = np.bincount(rows, minlength=items)
        distinct = np.flatnonzero(counts)
        sums = np.bincount(rows, weights=scores, minlength=items)[distinct]
    else:
        distinct, place = np.unique(rows, return_inverse=True)
        sums = np.bincount(place, weights=scores, minlength=len(distinct))
    return distinct.astype(np.int32), sums.astype(np.float32)


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


def _nothing(bit: int) -> Candidates:
    return found_by(bit, np.empty(0, np.int32), np.empty(0, np.float32))
