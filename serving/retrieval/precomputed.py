"""The list that was made for a user beforehand, as a source."""

import numpy as np

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates, found, no_candidates
from serving.core.request import Request
from serving.features.lists import ListReader

SECOND_US = 1_000_000


class PrecomputedSource:
    """A user's stored list in its order, where there is one that is fresh enough."""

    def __init__(self, parts: FilmParts, app: str, lists: ListReader | None, max_age_s: float) -> None:
        """app: whose lists.  lists: where they are stored; None finds nothing.  max_age_s: of a list to be served."""
        self._table = parts.table
        self._app = app
        self._lists = lists
        self._max_age_s = max_age_s

    def find(self, request: Request) -> Candidates:
        """The list's items that are known by now; nothing for an anonymous request, or a list that is too old.

        Raises:
            StoreUnavailable: the store cannot be read.
        """
        user_id = request.query.user_id
        if self._lists is None or user_id is None:
            return no_candidates()
        stored = self._lists.read(self._app, user_id)
        if stored is None or request.now_us - stored.computed_at_us > self._max_age_s * SECOND_US:
            return no_candidates()
        rows = self._table().rows_of(stored.items)
        known = rows >= 0
        return found(rows[known], np.asarray(stored.scores, np.float32)[known])
