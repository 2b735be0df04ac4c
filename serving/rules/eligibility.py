"""Who may see what: rules that hold on every link of the fallback chain and that no configuration takes out.

C candidates, N items of the bundle, T newer ones. Rows from N on are the newer items; they are judged by the same
columns of the same table.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates, Mask, Rows, contains
from serving.core.request import Request
from serving.core.stages import Removed, Ruled
from serving.features.item_table import EVERYWHERE

YOUNGEST_YEARS = 0.0
DAY_US = 86_400_000_000


class SeenRule:
    """Drops what the user has already seen."""

    def __init__(self, parts: FilmParts) -> None:
        del parts  # the request says it all

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """The reason is `seen`; keeps the order of what is left."""
        return split(candidates, [("seen", contains(request.seen, candidates.row))])


class ExcludedRule:
    """Drops what the caller excluded, and the seed items that the answer is to be like."""

    def __init__(self, parts: FilmParts) -> None:
        del parts  # the request says it all

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """The reason is `excluded`; keeps the order of what is left."""
        return split(candidates, [("excluded", contains(request.excluded, candidates.row))])


class EligibleRule:
    """Drops what may not be shown: for the age, before it is available, outside its licence or country.

    Where the age is unknown, or is not a number, the youngest is assumed; an item of unknown maturity is for adults.
    Where the country is unknown or outside the vocabulary, only what is licensed everywhere is left: bit 63 of a
    mask says that some other country is licensed, not which.
    """

    def __init__(self, parts: FilmParts) -> None:
        self._table = parts.table
        self._bits = {country: np.uint64(1 << i) for i, country in enumerate(parts.vocabulary.countries)}

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Reasons are `age`, `not_available`, `licence` and `country`; the first that holds counts."""
        table, rows, now_us = self._table(), candidates.row, request.now_us
        age = YOUNGEST_YEARS if request.age_years is None else request.age_years
        starts, ends = table.licence_start_us.take(rows), table.licence_end_us.take(rows)
        return split(
            candidates,
            [
                ("age", ~(table.maturity.take(rows) <= age)),
                ("not_available", table.available_at_us.take(rows) > now_us),
                ("licence", (starts > now_us) | (ends <= now_us)),
                ("country", self._outside(table.country_mask.take(rows), request.query.context.country)),
            ],
        )

    def _outside(self, masks: npt.NDArray[np.uint64], country: str | None) -> Mask:
        bit = self._bits.get(country or "")
        outside: Mask = masks != EVERYWHERE if bit is None else (masks & bit) == 0
        return outside


def still_seen(seen: Rows, met: Rows, met_at_us: npt.NDArray[np.int64], now_us: int, horizon_days: float) -> Rows:
    """What a user has seen too lately for it to come back.

    Only the user's recent history carries times: an item that was seen but is not in it has none, and stays seen
    for good. So a horizon lets nothing come back that the history has already forgotten.

    Args:
        seen: sorted rows int32, all that was ever seen.
        met: int32[L], rows of the recent history.
        met_at_us: int64[L], when each was last met, microseconds since the epoch.
        horizon_days: an item that was met at least this long ago may come back.

    Returns:
        Sorted rows int32, a part of `seen`.
    """
    longest_ago_us = now_us - horizon_days * DAY_US
    back = np.sort(met[met_at_us <= longest_ago_us])
    return seen if not len(back) else seen[~contains(back, seen)]


def split(candidates: Candidates, drop: Iterable[tuple[str, Mask]]) -> Ruled:
    """Takes out what any mask bool[C] marks, for the first reason that marks it."""
    gone: Mask | None = None
    removed = []
    for reason, mask in drop:
        if not mask.any():
            continue
        newly = mask if gone is None else mask & ~gone
        gone = mask if gone is None else gone | mask
        if newly is mask or newly.any():
            removed.append(Removed(candidates.row[newly], reason))
    return Ruled(candidates if gone is None else candidates.take(~gone), tuple(removed))
