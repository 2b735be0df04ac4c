"""The ranker's features for one request: user, item, context, pair and affinity.

C candidates, F features, Dq of them the request's (user and context), Dc a candidate's own (item, pair, affinity).
"""

from dataclasses import dataclass

import numpy as np

from serving.bundles.parts import ItemsInForce
from serving.core.candidates import FloatMatrix, Rows
from serving.core.request import FloatVector, Request
from serving.errors import DependencyError
from serving.features.affinity import Affinity
from serving.features.assembly import Assembler
from serving.features.item_table import ItemTable


@dataclass(frozen=True, slots=True)
class SplitFeatures:
    """A request's features with what its candidates share apart.

    request: float32[1, Dq], user and context.  candidate: float32[C, Dc], memory of this thread that its next
    request overwrites.  missing: how many of the candidates' item values a default stands in for.
    """

    request: FloatMatrix
    candidate: FloatMatrix
    missing: int
    assembler: Assembler

    def joined(self) -> FloatMatrix:
        """float32[C, F]: all features of every candidate, in memory of its own."""
        return self.assembler.join(self.request[0], self.candidate)


class RequestFeatures:
    """Reads item features from the item table in force, the rest from the request and the bundle."""

    def __init__(self, assembler: Assembler, affinity: Affinity, table: ItemsInForce) -> None:
        """affinity: over the bundle's rows; the cast of newer items is read from the table in force."""
        self._assembler = assembler
        self._bundled = affinity
        self._in_force: tuple[ItemTable | None, Affinity] = None, affinity
        self._table = table

    @property
    def names(self) -> tuple[str, ...]:
        """The F features' names in order."""
        return self._assembler.features.names

    def split(self, request: Request, rows: Rows) -> SplitFeatures:
        """The features of candidates int32[C]; each row is what it would be alone. No NaN."""
        table = self._table()
        candidate = self._assembler.candidates(len(rows))
        missing = self._assembler.fill_candidates(candidate, request.user, request.context, table.features, rows)
        vectors = self._table.vectors(rows)
        into = self._assembler.affinity_of(candidate)
        affinity = self._affinity(table)
        affinity.features(_embedding_or_none(request), vectors, request.history, rows, into)
        shared = np.concatenate((request.user, request.context))[None]
        return SplitFeatures(shared, candidate, missing, self._assembler)

    def matrix(self, request: Request, rows: Rows) -> FloatMatrix:
        """float32[C, F] for candidates int32[C]: the values of `split`, all in one matrix of the caller's own."""
        return self.split(request, rows).joined()

    def _affinity(self, table: ItemTable) -> Affinity:
        known, affinity = self._in_force
        if known is not table:
            # a table that has just been swapped in; a thread that comes second makes the same once more
            affinity = self._bundled.extended(table.cast) if len(table) > self._bundled.items else self._bundled
            self._in_force = table, affinity
        return affinity


def _embedding_or_none(request: Request) -> FloatVector | None:
    # The two-tower source has reported the failure; a ranker without one feature beats no ranker.
    try:
        return request.embedding
    except DependencyError:
        return None
