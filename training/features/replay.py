"""What serving would have read at an instant of the past: users' rows and histories, and the item table.

Legend: R requests, U users, N items, L history entries.
"""

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.config import SieveConfig
from serving.features.assembly import fill_missing
from serving.features.item_table import ItemTable
from serving.features.online import STATS_FIELD, USER_KEY
from serving.features.spec import DAY_US, film_features
from serving.features.user_state import UserState
from training.features.history import InteractionLog, replay
from training.features.item_catalogue import ItemCatalogue
from training.features.point_in_time import MISSING_DAY, read_view
from training.features.shown import NOTHING_SHOWN, shown_in_vain
from training.features.snapshots import USER_STATS
from training.features.training_set import FeatureReader


class Replay:
    """Reads snapshots and events with serving's own lags; users and items are rows of fixed id lists."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        config: SieveConfig,
        user_ids: NDArray[np.bytes_],
        item_ids: NDArray[np.bytes_],
    ) -> None:
        """`connection` shows the lake at the run's versions; `user_ids` 'S'[U] and `item_ids` 'S'[N] name the rows."""
        settings = config.features
        self._connection = connection
        self.features = film_features(config.vocabulary)
        self.reader = FeatureReader(config.feature_store, self.features, settings)
        self._catalogue = ItemCatalogue(connection, config.feature_store, self.features)
        self._root = config.feature_store
        self._lag_us = settings.snapshot_lag_s * 1_000_000
        self._ttl_us = settings.snapshot_ttl_days * DAY_US
        self._every_us = settings.snapshot_every_days * DAY_US
        self._history_lag_us = round(settings.history_lag_s * 1_000_000)
        self._history_length = settings.history_length
        self._users = _decode(user_ids)
        self.item_ids = _decode(item_ids)
        self._log = InteractionLog.read(connection)
        self._codes = self._log.user_codes(self._users)
        rows = {item: row for row, item in enumerate(self.item_ids)}
        self._rows_of_items = np.array([rows.get(item, -1) for item in self._log.item_ids], np.int32)
        self._table: tuple[int, ItemTable] | None = None

    def user_ids(self, users: NDArray[np.integer]) -> pa.DictionaryArray:
        """The ids of user rows int[R], dictionary-encoded."""
        return pa.DictionaryArray.from_arrays(pa.array(users.astype(np.int32)), pa.array(self._users, pa.string()))

    def user_rows(self, users: NDArray[np.integer], time_us: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32[R, Du]: each user's statistics as served at that time, defaults where missing."""
        return self.reader.users(self.user_ids(users), time_us)

    def history_rows(self, users: NDArray[np.integer], time_us: NDArray[np.int64], length: int) -> NDArray[np.int32]:
        """int32[R, length]: each user's history as served at that time, newest last, -1 padded in front."""
        codes = self._codes[users]
        return replay(self._log, codes, time_us, self._history_lag_us, length, self._rows_of_items)

    def states(
        self, users: NDArray[np.integer], time_us: NDArray[np.int64], with_shown: bool = False
    ) -> Iterator[UserState]:
        """Each user as the online store would have had them at that time.

        What was shown in vain is left out unless it is asked for: rules read it and features do not, and to count it
        costs a scan of the impressions.
        """
        width = len(self.features.user)
        ids, at_us = self.user_ids(users), time_us - self._lag_us
        stats = read_view(self._root / USER_STATS, USER_KEY, STATS_FIELD, width, ids, at_us, self._ttl_us)
        shown = [NOTHING_SHOWN] * len(users)
        if with_shown:
            names = [self._users[user] for user in users.tolist()]
            shown = shown_in_vain(self._connection, names, time_us - self._history_lag_us)
        for row, (user, time) in enumerate(zip(users.tolist(), time_us.tolist(), strict=True)):
            code, before_us = int(self._codes[user]), time - self._history_lag_us
            history = self._log.history(code, before_us, self._history_length)
            there = stats.day[row] != MISSING_DAY
            yield UserState(
                user_id=self._users[user],
                stats=stats.values[row] if there else None,
                stats_time_us=int(stats.day[row]) * DAY_US if there else None,
                history_items=[self._log.item_ids[item] for item in history.items],
                history_times_us=history.times_us,
                history_grades=history.grades,
                seen=sorted(self._log.item_ids[item] for item in self._log.seen(code, before_us)),
                shown_items=shown[row].items,
                shown_counts=shown[row].counts,
            )

    def item_table(self, time_us: int) -> ItemTable:
        """The table in force at that time, in the fixed rows; times of one snapshot give the same object.

        An item that was not known at the snapshot has no features and is not eligible.
        """
        stamp_us = (time_us - self._lag_us) // self._every_us * self._every_us
        if self._table is None or self._table[0] != stamp_us:
            self._table = stamp_us, self._catalogue.table(stamp_us, self._ttl_us).reindex(self.item_ids)
        return self._table[1]

    def filled_items(self, table: ItemTable) -> NDArray[np.float32]:
        """float32[N, Di]: the table's features with defaults where missing."""
        filled, _ = fill_missing(np.asarray(table.features), self.reader.assembler.item_defaults)
        return filled


def _decode(ids: NDArray[np.bytes_]) -> list[str]:
    return [item.decode() for item in ids.tolist()]
