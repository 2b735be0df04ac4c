"""Many sources' candidates in one list, each source with its share of it.

C candidates after the merge, S sources.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from serving.core.candidates import Candidates, no_candidates
from serving.core.request import Request


class ShareMerge:
    """Weighted interleaving of ranked lists.

    A candidate's place is the smallest of (rank + 1) / share over the sources that found it, so any first n of
    the merged list hold about n * share candidates of each source; what several found counts for all of them,
    and a source that runs dry leaves its part to the others. The score is the inverse of the place. Ties go to
    the larger share, then to the lower row.
    """

    name = "merge"

    def __init__(self, shares: Mapping[int, float]) -> None:
        """shares: each source's bit and its positive share; the order is that of `source_scores`' columns."""
        if not shares or min(shares.values()) <= 0:
            raise ValueError("each source needs a positive share")
        self._shares = dict(shares)
        self._column = {bit: i for i, bit in enumerate(shares)}

    def merge(self, request: Request, pools: Sequence[Candidates]) -> Candidates:
        """Each row once, with the bits and scores of all its sources; a pool holds one source's, best first."""
        pools = [pool for pool in pools if len(pool)]
        if not pools:
            return no_candidates()
        rows, where = np.unique(np.concatenate([pool.row for pool in pools]), return_inverse=True)
        bits = np.zeros(len(rows), np.uint32)
        place = np.full(len(rows), np.inf)
        share = np.zeros(len(rows))
        source_scores = np.full((len(rows), len(self._shares)), np.nan, np.float32)
        start = 0
        for pool in pools:
            at = where[start : start + len(pool)]
            start += len(pool)
            bit = int(pool.source[0])
            bits[at] |= np.uint32(bit)
            source_scores[at, self._column[bit]] = pool.score
            mine = np.arange(1, len(pool) + 1) / self._shares[bit]
            share[at] = np.where(mine < place[at], self._shares[bit], share[at])
            place[at] = np.minimum(place[at], mine)
        order = np.lexsort((rows, -share, place))
        return Candidates(
            row=rows[order].astype(np.int32),
            score=(1 / place[order]).astype(np.float32),
            source=bits[order],
            source_scores=source_scores[order],
        )


class AsFound:
    """The merge of a pipeline with one source: its list as it is."""

    name = "merge"

    def merge(self, request: Request, pools: Sequence[Candidates]) -> Candidates:
        """The first pool, unchanged."""
        return pools[0]
