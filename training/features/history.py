"""The user's fresh history at any instant: replayed for training, written as it is now for the online store.

An interaction is a play (grade 1, or 2 from 8 minutes), a completion (3) or a rating (3 from four stars, else 1). At a
reader's time L it counts when `max(event_time, ingested_at) < L - history_lag`, to the microsecond. The history is
the last interactions, one per item, oldest first; `seen` is every item ever played, completed or rated. Beside it
lies what was shown in vain (training.features.shown).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from serving.durable import flush
from serving.features.online import HISTORY_FIELDS, USER_KEY
from training.features.shown import NOTHING_SHOWN, Shown
from training.features.statistics import COMPLETION_SHARE, LONG_PLAY_S

USER_HISTORY = "user_history"
FAR_FUTURE_US = np.iinfo(np.int64).max
_GOOD_RATING = 4.0

Codes = npt.NDArray[np.int32]
Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class History:
    """One user's history: `items` int32[L] codes oldest first, `times_us` int64[L], `grades` float32[L]."""

    items: Codes
    times_us: Times
    grades: npt.NDArray[np.float32]


@dataclass(frozen=True)
class InteractionLog:
    """Interactions of all users, grouped by user in the order in which they became known.

    `user_ids` and `item_ids` name the codes. User u's rows are `starts[u]:starts[u + 1]` of `item` int32[n],
    `event_us` and `known_us` int64[n] and `grade` int8[n]; grade 0 counts as seen only.
    """

    user_ids: list[str]
    item_ids: list[str]
    starts: npt.NDArray[np.int64]
    item: Codes
    event_us: Times
    known_us: Times
    grade: npt.NDArray[np.int8]

    @classmethod
    def read(cls, connection: duckdb.DuckDBPyConnection) -> "InteractionLog":
        """All interactions of the lake's `events` view."""
        table: pa.Table = connection.sql(
            f"""
            SELECT user_id, item_id, epoch_us(event_time) AS event_us,
                   greatest(epoch_us(event_time), epoch_us(ingested_at)) AS known_us, {grade_sql()} AS grade
            FROM events WHERE type IN ('play', 'completion', 'rating')
            ORDER BY user_id, known_us, event_us, item_id, grade
            """
        ).to_arrow_table()
        users = table["user_id"].combine_chunks().dictionary_encode()
        items = table["item_id"].combine_chunks().dictionary_encode()
        counts = np.bincount(np.asarray(users.indices), minlength=len(users.dictionary))
        return cls(
            user_ids=users.dictionary.to_pylist(),
            item_ids=items.dictionary.to_pylist(),
            starts=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            item=np.asarray(items.indices, np.int32),
            event_us=table["event_us"].to_numpy(),
            known_us=table["known_us"].to_numpy(),
            grade=table["grade"].to_numpy(),
        )

    def user_codes(self, user_ids: Sequence[str]) -> Codes:
        """int32[n]: the code of each user, -1 without any interaction."""
        codes = {user: i for i, user in enumerate(self.user_ids)}
        return np.array([codes.get(user, -1) for user in user_ids], np.int32)

    def known(self, user: int, before_us: int) -> slice:
        """The rows of a user (-1: nobody) that were known strictly before `before_us`."""
        if user < 0:
            return slice(0, 0)
        start, end = int(self.starts[user]), int(self.starts[user + 1])
        return slice(start, start + int(np.searchsorted(self.known_us[start:end], before_us, side="left")))

    def history(self, user: int, before_us: int, length: int) -> History:
        """The last `length` items of a user as known before `before_us`, the lag already taken off.

        An item stands once, with the time and grade of its latest interaction; of two at one time the one that
        became known later counts, then the higher grade.
        """
        known = self.known(user, before_us)
        rows = known.start + np.flatnonzero(self.grade[known])
        times = self.event_us[rows]
        if len(rows) and np.any(times[1:] < times[:-1]):
            rows = rows[np.argsort(times, kind="stable")]
        newest_first = rows[::-1]
        _, latest = np.unique(self.item[newest_first], return_index=True)
        rows = newest_first[np.sort(latest)[:length]][::-1]
        return History(self.item[rows], self.event_us[rows], self.grade[rows].astype(np.float32))

    def seen(self, user: int, before_us: int) -> Codes:
        """int32: items that the user ever played, completed or rated as known before `before_us`, ascending."""
        items: Codes = np.unique(self.item[self.known(user, before_us)])
        return items


def replay(
    log: InteractionLog, users: Codes, time_us: Times, lag_us: int, length: int, rows_of_items: Codes | None = None
) -> Codes:
    """int32[R, length]: each request's history as serving would have read it, newest last, -1 padded in front.

    `users` int32[R] are codes of the log (-1: nobody), `time_us` int64[R] the requests' times. Values are item
    codes of the log, or `rows_of_items[code]` where that is given; items that map to -1 are dropped.
    """
    out = np.full((len(users), length), -1, np.int32)
    for r, (user, time) in enumerate(zip(users.tolist(), time_us.tolist(), strict=True)):
        items = log.history(user, time - lag_us, length).items
        if rows_of_items is not None:
            items = rows_of_items[items]
            items = items[items >= 0]
        if len(items):
            out[r, -len(items) :] = items
    return out


def write_history(
    log: InteractionLog, shown: Mapping[str, Shown], directory: Path, at_us: int, lag_us: int, length: int
) -> Path:
    """Writes every user's history as a reader at `at_us` finds it, for Feast to materialise; replaced whole.

    `shown`: what was shown in vain as known then, by user id.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ids = np.array(log.item_ids, dtype=object)
    columns: dict[str, list[object]] = {name: [] for name in (USER_KEY, *HISTORY_FIELDS)}
    silent = sorted(shown.keys() - set(log.user_ids))
    for user, user_id in [*enumerate(log.user_ids), *((-1, user_id) for user_id in silent)]:
        seen, in_vain = log.seen(user, at_us - lag_us), shown.get(user_id, NOTHING_SHOWN)
        if not len(seen) and not in_vain.items:
            continue
        history = log.history(user, at_us - lag_us, length)
        fresh = (ids[history.items], history.times_us, history.grades, sorted(ids[seen]))
        row = (user_id, *fresh, in_vain.items, in_vain.counts)
        for name, value in zip(columns, row, strict=True):
            columns[name].append(value)
    path = directory / "current.parquet"
    draft = directory / f".{path.name}.{os.getpid()}"
    pq.write_table(_history_table(columns, at_us), draft, compression="zstd")
    flush(draft)
    draft.replace(path)
    flush(directory)
    return path


def grade_sql() -> str:
    """SQL of an interaction's grade, 0 to 3, as TINYINT."""
    return f"""CAST(CASE WHEN type = 'play' THEN CASE WHEN value >= {LONG_PLAY_S} THEN 2 ELSE 1 END
                         WHEN type = 'completion' THEN CASE WHEN value >= {COMPLETION_SHARE} THEN 3 ELSE 0 END
                         WHEN type = 'rating' THEN CASE WHEN value >= {_GOOD_RATING} THEN 3 ELSE 1 END
                         ELSE 0 END AS TINYINT)"""


def _history_table(columns: dict[str, list[object]], at_us: int) -> pa.Table:
    stamps = pa.array(np.full(len(columns[USER_KEY]), at_us)).cast(pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            USER_KEY: pa.array(columns[USER_KEY], pa.string()),
            "items": pa.array(columns["items"], pa.list_(pa.string())),
            "times_us": pa.array(columns["times_us"], pa.list_(pa.int64())),
            "grades": pa.array(columns["grades"], pa.list_(pa.float32())),
            "seen": pa.array(columns["seen"], pa.list_(pa.string())),
            "shown": pa.array(columns["shown"], pa.list_(pa.string())),
            "shown_counts": pa.array(columns["shown_counts"], pa.list_(pa.float32())),
            "event_timestamp": stamps,
            "created": stamps,
        }
    )
