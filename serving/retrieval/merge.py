"""Many sources' candidates in one list, each source with its share of it.

C candidates after the merge, S sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from serving.core.candidates import Candidates, FloatMatrix, Scores, no_candidates
from serving.core.request import Request
from serving.retrieval.selection import last_places


@dataclass(frozen=True, slots=True)
class _Turns:
    """The M entries of full or shorter pools, joined end to end, in the order of their places.

    entry: intp[M], where in the joined pools.  column: intp[M], whose pool.  bit: float64[M], that source's bit.
    score: float32[M], the inverse of the place.
    """

    entry: npt.NDArray[np.intp]
    column: npt.NDArray[np.intp]
    bit: npt.NDArray[np.float64]
    score: Scores


class ShareMerge:
    """Weighted interleaving of ranked lists.

    A candidate's place is the smallest of (rank + 1) / share over the sources that found it, so any first n of
    the merged list hold about n * share candidates of each source; what several found counts for all of them,
    and a source that runs dry leaves its part to the others. The score is the inverse of the place. Ties go to
    the larger share, then to the earlier source.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        """shares: each source's positive share, in the order of the pipeline's sources and of `source_scores`."""
        if not len(shares) or min(shares) <= 0:
            raise ValueError("each source needs a positive share")
        self._shares = np.asarray(shares, np.float64)
        self._full_turns = lru_cache(maxsize=4)(self._order_full)
        self._turns = lru_cache(maxsize=32)(self._order)

    def merge(self, request: Request, pools: Sequence[Candidates]) -> Candidates:
        """Each row once, with the bits of all its sources; a pool holds one source's, best first.

        Of the sources' candidates together, the `request.consider` that come first are merged. Each source's own
        scores come along where the caller wants an explanation.
        """
        pools = [pool for pool in pools if len(pool)]
        if not pools:
            return no_candidates()
        turns = self._turns(tuple((int(pool.source[0]).bit_length() - 1, len(pool)) for pool in pools))
        entry, column = turns.entry[: request.consider], turns.column[: request.consider]
        rows = np.concatenate([pool.row for pool in pools]).take(entry)
        # backwards, so that the first of a row's places counts
        first = len(rows) - 1 - last_places(rows[::-1])[::-1]
        kept = first == np.arange(len(rows))
        chosen = np.flatnonzero(kept)
        at = (np.cumsum(kept) - 1)[first]
        return Candidates(
            row=rows.take(chosen),
            score=turns.score.take(chosen),
            source=np.bincount(at, weights=turns.bit[: len(at)]).astype(np.uint32),
            source_scores=self._own_scores(pools, entry, column, at) if request.query.explain else None,
        )

    def _own_scores(
        self,
        pools: Sequence[Candidates],
        entry: npt.NDArray[np.intp],
        column: npt.NDArray[np.intp],
        at: npt.NDArray[np.intp],
    ) -> FloatMatrix:
        """float32[C, S], NaN where a source did not find a candidate."""
        width = len(self._shares)
        scores = np.full((int(at.max()) + 1) * width, np.nan, np.float32)
        scores[at * width + column] = np.concatenate([pool.score for pool in pools])[entry]
        return scores.reshape(-1, width)

    def _order(self, pools: tuple[tuple[int, int], ...]) -> _Turns:
        """For pools of a column and a length each."""
        rank, column, place = self._full_turns(1 << (max(length for _, length in pools) - 1).bit_length())
        starts, room = np.zeros(len(self._shares), np.intp), np.zeros(len(self._shares), np.intp)
        start = 0
        for source, length in pools:
            starts[source], room[source] = start, length
            start += length
        there = rank < room[column]
        rank, column, place = rank[there], column[there], place[there]
        return _Turns(starts[column] + rank, column, np.exp2(column), (1 / place).astype(np.float32))

    def _order_full(self, longest: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Rank, column and place of every entry of equally long pools of all sources, in the order of places."""
        rank = np.tile(np.arange(longest), len(self._shares))
        column = np.repeat(np.arange(len(self._shares)), longest)
        place = (rank + 1) / self._shares[column]
        order = np.lexsort((column, -self._shares[column], place))
        return rank[order], column[order], place[order]


class AsFound:
    """The merge of a pipeline with one source: its list as it is."""

    def merge(self, request: Request, pools: Sequence[Candidates]) -> Candidates:
        """The first pool, unchanged."""
        return pools[0]
