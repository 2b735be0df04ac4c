"""Rules that limit the answer to what the caller asked for, and the ranker to what it has time for."""

from collections.abc import Callable, Sequence

import numpy as np

from serving.core.candidates import Candidates, Mask
from serving.core.query import Filters
from serving.core.request import Request
from serving.core.stages import Removed, Ruled
from serving.errors import InvalidRequest
from serving.features.item_table import ItemTable
from serving.rules.eligibility import split


class FilterRule:
    """Keeps what the request's filters ask for; an item of unknown year passes no filter on years."""

    name = "filters"

    def __init__(self, table: Callable[[], ItemTable], genres: Sequence[str]) -> None:
        """table: gives the item table in force, in the bundle's rows.  genres: the vocabulary's."""
        self._table = table
        self._genres = tuple(genres)

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Reasons are `genre` and `year`.

        Raises:
            InvalidRequest: a genre that is not in the vocabulary.
        """
        filters = request.query.filters
        drop: dict[str, Mask] = {}
        if filters.genres:
            wanted = genre_bits(filters.genres, self._genres)
            drop["genre"] = (self._table().genre_mask[candidates.row] & wanted) == 0
        if filters.year_from is not None or filters.year_to is not None:
            drop["year"] = ~_in_years(self._table().year[candidates.row], filters)
        return split(candidates, drop)


class ShortlistRule:
    """Keeps the first n, so that the ranker's work is bounded."""

    name = "shortlist"

    def __init__(self, n: int) -> None:
        self._n = n

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """The rest is removed for the reason `shortlist`."""
        if len(candidates) <= self._n:
            return Ruled(candidates)
        return Ruled(candidates.take(slice(self._n)), (Removed(candidates.row[self._n :], "shortlist"),))


def genre_bits(genres: Sequence[str], vocabulary: Sequence[str]) -> np.uint64:
    """The mask of these genres: bit i is the vocabulary's genre i.

    Raises:
        InvalidRequest: naming the places of genres that the vocabulary does not have.
    """
    unknown = [f"filters.genres.{i}" for i, genre in enumerate(genres) if genre not in vocabulary]
    if unknown:
        raise InvalidRequest(unknown[0], f"no such genre; there are {', '.join(vocabulary)}")
    return np.uint64(sum(1 << vocabulary.index(genre) for genre in set(genres)))


def _in_years(years: np.ndarray, filters: Filters) -> Mask:
    inside: Mask = (years > 0) & (years >= (filters.year_from or 0)) & (years <= (filters.year_to or 9999))
    return inside
