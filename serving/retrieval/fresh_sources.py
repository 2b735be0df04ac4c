"""What is moving: items on the rise, and items that have just come in.

Both read the item table in force, so that they know what happened after the bundle was trained. What they need of
it is worked out when a table is put in force, not in requests.

M items of the table in force, T items on the rise or new, d embedding length.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates, FloatMatrix, Rows, found, no_candidates
from serving.core.request import Request
from serving.core.stages import StageSettings
from serving.features.item_table import ItemTable
from serving.features.spec import DAY_US
from serving.retrieval.index import top_rows

WEEK_DAYS, MONTH_DAYS = 7, 30
INTERACTIONS = ("plays", "ratings")


class TrendingSettings(StageSettings):
    """How many items are on the rise."""

    size: int = Field(500, ge=1, le=10_000, description="items in the list")


class TrendingSource:
    """Items taken up more often this week than their month lets one expect, everywhere; best first.

    The score is the surplus in standard deviations of a Poisson count, so that a handful of plays is no trend.
    """

    Settings = TrendingSettings

    def __init__(self, parts: FilmParts, settings: TrendingSettings) -> None:
        self._rising: Callable[[], Candidates] = parts.table.derive(lambda table, _: rising(table, settings.size))

    def find(self, request: Request) -> Candidates:
        """The same list for everyone; nothing where nothing rises."""
        return self._rising()


class NewItemsSettings(StageSettings):
    """What counts as new."""

    days: float = Field(30.0, gt=0, le=3650, description="since an item became available")
    pool: int = Field(2000, ge=1, le=50_000, description="of the newest items, among which the nearest are sought")


@dataclass(frozen=True)
class NewItems:
    """T items that came in lately or are about to, the newest first: rows int32[T], times int64[T], float32[T, d]."""

    rows: Rows
    available_us: npt.NDArray[np.int64]
    vectors: FloatMatrix


class NewItemsSource:
    """Items that became available in the last days: nearest to the user first, or newest first for a stranger.

    The score is the inner product with the user's embedding, or falls with the age from 1 to 0.
    """

    Settings = NewItemsSettings

    def __init__(self, parts: FilmParts, settings: NewItemsSettings) -> None:
        self._span_us = int(settings.days * DAY_US)
        self._new: Callable[[], NewItems] = parts.table.derive(
            lambda table, vectors: newest(table, vectors, self._span_us, settings.pool)
        )

    def find(self, request: Request) -> Candidates:
        """Items newer than the bundle among them; nothing that is not available yet.

        Raises:
            DependencyError: the model of the user's embedding failed.
        """
        new = self._new()
        age_us = request.now_us - new.available_us
        inside = slice(int(np.searchsorted(age_us, 0)), int(np.searchsorted(age_us, self._span_us, side="right")))
        rows = new.rows[inside]
        if not len(rows):
            return no_candidates()
        if request.is_known:
            score = new.vectors[inside] @ request.embedding
        else:
            score = (1 - age_us[inside] / self._span_us).astype(np.float32)
        best = top_rows(score, request.fetch)
        return found(rows[best], score[best])


def rising(table: ItemTable, size: int) -> Candidates:
    """At most `size` items of the table whose week is above their month, best first; ties go to the lower row."""
    week, month = _interactions(table, WEEK_DAYS), _interactions(table, MONTH_DAYS)
    expected = month * np.float32(WEEK_DAYS / MONTH_DAYS)
    surplus = (week - expected) / np.sqrt(expected + 1)
    rows = top_rows(surplus, size)
    rows = rows[surplus[rows] > 0]
    return found(rows, surplus[rows])


def newest(table: ItemTable, vectors: Callable[[Rows], FloatMatrix], span_us: int, pool: int) -> NewItems:
    """At most `pool` items that become available from a span before the table's watermark on, the latest first.

    Until two days after it, for the next table may be late; an item is found only from its own moment on.
    """
    since_us, until_us = table.watermark_us - span_us, table.watermark_us + 2 * DAY_US
    inside = np.flatnonzero((table.available_at_us >= since_us) & (table.available_at_us <= until_us))
    order = np.argsort(-table.available_at_us[inside], kind="stable")[:pool]
    rows: Rows = inside[order].astype(np.int32)
    return NewItems(rows, table.available_at_us[rows], np.ascontiguousarray(vectors(rows)))


def _interactions(table: ItemTable, days: int) -> npt.NDArray[np.float32]:
    """float32[M]: plays and ratings of the last days; none where the snapshot does not know the item."""
    columns = [table.feature_names.index(f"item_{kind}_{days}d") for kind in INTERACTIONS]
    total = np.zeros(len(table), np.float32)
    for column in columns:
        total += np.nan_to_num(table.features[:, column])
    return total
