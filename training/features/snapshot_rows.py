"""The rows of one day's snapshot: formulas over window sums, times and attributes, packed per entity."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Protocol

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.features.online import STATS_FIELD, USER_KEY
from serving.features.spec import DAY_US, DEVICES, WINDOWS_DAYS, Feature, FeatureSet, slug
from training.features.attributes import Attributes, maturity_years, read_items, read_users
from training.features.daily import NO_TIME_US, Daily
from training.features.statistics import (
    ITEM_WINDOWED,
    MEAN_DURATION_MIN,
    MEAN_POSITION,
    MEAN_YEAR,
    SHARES,
    USER_WINDOWED,
    Formula,
    ratio,
)
from training.features.windows import ALL_TIME, SlidingSums

ITEM_KEY = "item_id"
ITEM_FIELD = "item_values"
OPEN_LICENCE_DAYS = 3650.0
_HOUR_US = 3_600_000_000
_WINDOWS = (*WINDOWS_DAYS, ALL_TIME)
_LONGEST = max(WINDOWS_DAYS)

Columns = dict[str, npt.NDArray[np.generic]]
Rows = npt.NDArray[np.int64]


class Snapshots(Protocol):
    """Makes one view's snapshot tables, day after day."""

    def table(self, day: int) -> pa.Table:
        """The rows at the midnight that begins `day` (days since 1970); days must ascend."""


class UserSnapshots:
    """Rows of users who exist and either did something in the last 90 days or joined in them."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        daily: Daily,
        features: FeatureSet,
        partition: int = 0,
        partitions: int = 1,
    ) -> None:
        ids = {user: i for i, user in enumerate(daily.ids)}
        here = f"hash(user_id) % {partitions} = {partition}" if partitions > 1 else "true"
        versions = read_users(connection, ids, here)
        self._features = features
        self._ids = pa.array(list(ids), pa.string())
        self._attributes = Attributes(versions, len(ids))
        self._sums = SlidingSums(daily, _WINDOWS, len(ids))

    def table(self, day: int) -> pa.Table:
        """Columns `user_id`, `user_values`, `event_timestamp`, `created`."""
        now_us = day * DAY_US
        self._sums.move_to(day)
        self._attributes.move_to(now_us)
        everyone = np.arange(len(self._ids))
        created = self._attributes.column("created_us", everyone)
        since = now_us - _LONGEST * DAY_US
        active = self._sums.latest_us("last_activity_us", everyone) >= since
        rows = np.flatnonzero((active | (created >= since)) & ~(created >= now_us))
        values = _pack(self._features.user, self._columns(rows, now_us), len(rows))
        return snapshot_table(USER_KEY, STATS_FIELD, self._ids.take(pa.array(rows)), values, day)

    def _columns(self, rows: Rows, now_us: int) -> Columns:
        sums, out = self._sums, _windowed("user", USER_WINDOWED, self._sums, rows)
        genres = [slug(genre) for genre in self._features.vocabulary.genres]
        for window in WINDOWS_DAYS:
            taken = sums.sums(window, rows)
            counts = {genre: taken[f"genre_{genre}"] for genre in genres}
            total = np.sum(list(counts.values()), axis=0)
            out |= {f"user_genre_{genre}_{window}d": ratio(count, total) for genre, count in counts.items()}
        longest = sums.sums(_LONGEST, rows)
        out |= {f"user_{name}": formula(longest) for name, formula in SHARES.items()}
        for device in DEVICES:
            out[f"user_device_{device}"] = ratio(longest[f"device_{device}"], longest["interactions"])
        out["user_mean_position"] = MEAN_POSITION(longest)
        for window in (30, 90):
            taken = sums.sums(window, rows)
            out[f"user_mean_year_{window}d"] = MEAN_YEAR(taken)
            out[f"user_mean_duration_{window}d"] = MEAN_DURATION_MIN(taken)
        return out | dict(self._single_columns(rows, now_us))

    def _single_columns(self, rows: Rows, now_us: int) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
        total = self._sums.sums(ALL_TIME, rows)
        year = datetime.fromtimestamp(now_us / 1e6, UTC).year
        age = year - self._attributes.column("birth_year", rows).astype(np.float64)
        yield "user_total_interactions", total["interactions"]
        yield "user_total_completions", total["completions"]
        yield "user_total_mean_rating", USER_WINDOWED["mean_rating"](total)
        yield "user_hours_since_interaction", _hours_since(self._sums, "last_interaction_us", rows, now_us)
        yield "user_hours_since_activity", _hours_since(self._sums, "last_activity_us", rows, now_us)
        yield "user_account_age_days", (now_us - self._attributes.column("created_us", rows)) / DAY_US
        yield "user_age", age
        yield "user_age_known", ~np.isnan(age)


class ItemSnapshots:
    """Rows of every item that was in the catalogue's log before the midnight."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, daily: Daily, features: FeatureSet) -> None:
        ids = {item: i for i, item in enumerate(daily.ids)}
        versions = read_items(connection, ids, features.vocabulary)
        self._features = features
        self._ids = pa.array(list(ids), pa.string())
        self._attributes = Attributes(versions, len(ids))
        self._sums = SlidingSums(daily, _WINDOWS, len(ids))

    def table(self, day: int) -> pa.Table:
        """Columns `item_id`, `item_values`, `event_timestamp`, `created`."""
        self._sums.move_to(day)
        self._attributes.move_to(day * DAY_US)
        rows = np.flatnonzero(self._attributes.version >= 0)
        values = _pack(self._features.item, self._columns(rows, day * DAY_US), len(rows))
        return snapshot_table(ITEM_KEY, ITEM_FIELD, self._ids.take(pa.array(rows)), values, day)

    def _columns(self, rows: Rows, now_us: int) -> Columns:
        sums, out = self._sums, _windowed("item", ITEM_WINDOWED, self._sums, rows)
        recent = {window: sums.sums(window, rows)["interactions"] for window in (1, 7, 30)}
        out["item_trend_1_7"] = _trend(recent, 1, 7)
        out["item_trend_7_30"] = _trend(recent, 7, 30)
        for window in (7, 30):
            out[f"item_popularity_{window}d"] = _rank(recent[window])
            out[f"item_mean_position_{window}d"] = MEAN_POSITION(sums.sums(window, rows))
        longest = sums.sums(_LONGEST, rows)
        out |= {f"item_{name}": formula(longest) for name, formula in SHARES.items()}
        out |= dict(self._attribute_columns(rows, now_us, recent[30]))
        total = sums.sums(ALL_TIME, rows)
        out["item_total_interactions"] = total["interactions"]
        out["item_total_viewers"] = total["new_viewers"]
        out["item_total_mean_rating"] = ITEM_WINDOWED["mean_rating"](total)
        out["item_hours_since_interaction"] = _hours_since(sums, "last_interaction_us", rows, now_us)
        return out

    def _attribute_columns(
        self, rows: Rows, now_us: int, recent: npt.NDArray[np.int64]
    ) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
        def of(name: str) -> npt.NDArray[np.float64]:
            return self._attributes.column(name, rows).astype(np.float64)

        genres, cast = self._attributes.column("genres", rows), self._attributes.column("cast", rows, -1)
        yield "item_days_available", np.maximum((now_us - of("available_us")) / DAY_US, 0)
        licence_days = (of("licence_end_us") - now_us) / DAY_US
        yield "item_licence_days_left", np.clip(licence_days, 0, OPEN_LICENCE_DAYS)
        yield "item_year", of("year")
        yield "item_duration_min", of("duration_s") / 60
        yield "item_maturity", maturity_years(of("maturity"))
        yield "item_genre_count", genres.sum(axis=1)
        yield "item_cast_size", np.count_nonzero(cast >= 0, axis=1)
        yield "item_cast_popularity", cast_popularity(cast.astype(np.int64), recent)
        for i, genre in enumerate(self._features.vocabulary.genres):
            yield f"item_genre_{slug(genre)}", genres[:, i]


def snapshot_table(key: str, field: str, ids: pa.Array, values: npt.NDArray[np.float32], day: int) -> pa.Table:
    """The rows of a snapshot file: id, packed values, and twice the midnight that stamps them.

    `created` repeats the stamp, so that building a day again gives the same bytes.
    """
    count, width = values.shape
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    stamps = pa.array(np.full(count, day * DAY_US)).cast(pa.timestamp("us", tz="UTC"))
    packed = pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))
    return pa.table({key: ids, field: packed, "event_timestamp": stamps, "created": stamps})


def cast_popularity(cast: npt.NDArray[np.int64], plays: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """float64[n]: plays of all films of each cast member, mean over the item's cast; NaN without a cast.

    `cast` is int[n, 6] of person codes, -1 padded; `plays` int64[n].
    """
    people, person = np.unique(cast, return_inverse=True)
    person = person.reshape(cast.shape)
    known = cast >= 0
    weight = np.broadcast_to(plays[:, None], cast.shape)
    by_person = np.bincount(person[known], weights=weight[known], minlength=len(people))
    return ratio(np.where(known, by_person[person] if len(people) else 0.0, 0.0).sum(axis=1), known.sum(axis=1))


def _windowed(view: str, formulas: Mapping[str, Formula], sums: SlidingSums, rows: Rows) -> Columns:
    out: Columns = {}
    for window in WINDOWS_DAYS:
        taken = sums.sums(window, rows)
        out |= {f"{view}_{name}_{window}d": formula(taken) for name, formula in formulas.items()}
    return out


def _pack(features: tuple[Feature, ...], columns: Columns, count: int) -> npt.NDArray[np.float32]:
    out = np.empty((count, len(features)), np.float32)
    for i, feature in enumerate(features):
        out[:, i] = columns[feature.name]
    return out


def _hours_since(sums: SlidingSums, name: str, rows: Rows, now_us: int) -> npt.NDArray[np.float64]:
    latest = sums.latest_us(name, rows)
    return np.where(latest == NO_TIME_US, np.nan, (now_us - np.maximum(latest, 0)) / _HOUR_US)


def _trend(recent: dict[int, npt.NDArray[np.int64]], short: int, long: int) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = (recent[short] / short + 1) / (recent[long] / long + 1)
    return result


def _rank(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    below = np.searchsorted(np.sort(counts), counts, side="left")
    return ratio(below, np.full(len(counts), len(counts)))
