"""The same work twice, and many of one franchise."""

from typing import Literal

import numpy as np
from pydantic import Field

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates, Mask, Rows
from serving.core.request import Request
from serving.core.stages import Marked, Removed, Ruled, StageSettings
from serving.rules.eligibility import split
from serving.rules.order import at_most

DUPLICATE, FRANCHISE = "near_duplicate", "franchise"


class NearDuplicatesRule:
    """Keeps the best-ranked edition of each work, and few of one franchise near the top."""

    class Settings(StageSettings):
        """How many of a franchise may stand where, and what happens to more.

        head: the first places that the limit is for.  excess: `demote` to right behind the head and mark as
        `franchise`, or `remove` with that reason.
        """

        per_franchise: int = Field(2, ge=1)
        head: int = Field(20, ge=1, le=1000)
        excess: Literal["demote", "remove"] = "demote"

    def __init__(self, parts: FilmParts, settings: Settings) -> None:
        self._table = parts.table
        self._settings = settings

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Reasons are `near_duplicate` and `franchise`; what has no edition or franchise is never touched.

        Of the same work, the one that stands first stays. The order of what is not moved down stays.
        """
        table = self._table()
        ruled = split(candidates, [(DUPLICATE, repeated(table.edition.take(candidates.row)))])
        kept, settings = ruled.kept, self._settings
        result = at_most(table.franchise.take(kept.row), settings.per_franchise, settings.head)
        if result is None:
            return ruled
        order, excess = result
        rows = kept.row[excess]
        if settings.excess == "remove":
            return Ruled(kept.take(~excess), (*ruled.removed, Removed(rows, FRANCHISE)))
        return Ruled(kept.take(order), ruled.removed, (Marked(rows, FRANCHISE),))


def repeated(groups: Rows) -> Mask:
    """bool[C]: whether the same group, int32[C] with -1 for none, stands further up."""
    again = np.zeros(len(groups), np.bool_)
    places = np.flatnonzero(groups >= 0)
    if len(places) > 1:
        _, first = np.unique(groups[places], return_index=True)
        again[places] = True
        again[places[first]] = False
    return again
