"""Rules that limit the answer to what the caller asked for, and the ranker to what it has time for."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates, Mask
from serving.core.query import Filters
from serving.core.request import Request
from serving.core.stages import Removed, Ruled
from serving.errors import InvalidRequest
from serving.rules.eligibility import split


class FilterRule:
    """Keeps what the request's filters ask for; an item of unknown year passes no filter on years."""

    def __init__(self, parts: FilmParts) -> None:
        self._table = parts.table
        self._genres = parts.vocabulary.genres

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Reasons are `genre` and `year`.

        Raises:
            InvalidRequest: a genre that is not in the vocabulary.
        """
        filters = request.query.filters
        drop: list[tuple[str, Mask]] = []
        if filters.genres:
            wanted = genre_bits(filters.genres, self._genres)
            drop.append(("genre", (self._table().genre_mask.take(candidates.row) & wanted) == 0))
        if filters.year_from is not None or filters.year_to is not None:
            drop.append(("year", ~_in_years(self._table().year.take(candidates.row), filters)))
        return split(candidates, drop)


class ShortlistRule:
    """Keeps the first n, so that the ranker's work is bounded."""

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


def _in_years(years: npt.NDArray[np.int16], filters: Filters) -> Mask:
    inside: Mask = (years > 0) & (years >= (filters.year_from or 0)) & (years <= (filters.year_to or 9999))
    return inside
