"""Who may see what: rules that hold on every link of the fallback chain.

C candidates, N items.
"""

from collections.abc import Callable

import numpy as np

from serving.core.candidates import Candidates, Mask
from serving.core.request import Request
from serving.core.stages import Removed, Ruled
from serving.features.item_table import EVERYWHERE, ItemTable

YOUNGEST_YEARS = 0.0


class SeenRule:
    """Drops what the user has already seen."""

    name = "seen"

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Keeps the order of what is left."""
        return split(candidates, {"seen": request.seen[candidates.row]})


class ExcludedRule:
    """Drops what the caller excluded, and the seed items that the answer is to be like."""

    name = "excluded"

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Keeps the order of what is left."""
        return split(candidates, {"excluded": request.excluded[candidates.row]})


class EligibleRule:
    """Drops what may not be shown: for the age, before it is available, outside its licence or country.

    Where the age is unknown, the youngest is assumed. Where the country is unknown or outside the vocabulary,
    only what is licensed everywhere is left: bit 63 of a mask says that some other country is licensed, not
    which.
    """

    name = "eligible"

    def __init__(self, table: Callable[[], ItemTable], countries: tuple[str, ...]) -> None:
        """table: gives the item table in force, in the bundle's rows.  countries: the vocabulary's."""
        self._table = table
        self._bits = {country: np.uint64(1 << i) for i, country in enumerate(countries)}

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Reasons are `age`, `not_available`, `licence` and `country`; the first that holds counts."""
        table, rows, now_us = self._table(), candidates.row, request.now_us
        age = YOUNGEST_YEARS if request.age_years is None else request.age_years
        licensed = (table.licence_start_us[rows] <= now_us) & (now_us < table.licence_end_us[rows])
        return split(
            candidates,
            {
                "age": table.maturity[rows] > age,
                "not_available": table.available_at_us[rows] > now_us,
                "licence": ~licensed,
                "country": ~self._in_country(table.country_mask[rows], request.query.context.country),
            },
        )

    def _in_country(self, masks: np.ndarray, country: str | None) -> Mask:
        bit = self._bits.get(country or "")
        inside: Mask = masks == EVERYWHERE if bit is None else (masks & bit) != 0
        return inside


def split(candidates: Candidates, drop: dict[str, Mask]) -> Ruled:
    """Takes out what any mask bool[C] marks, for the first reason that marks it."""
    kept = np.ones(len(candidates), np.bool_)
    removed = []
    for reason, mask in drop.items():
        newly = mask & kept
        if newly.any():
            removed.append(Removed(candidates.row[newly], reason))
            kept &= ~mask
    return Ruled(candidates if not removed else candidates.take(kept), tuple(removed))
