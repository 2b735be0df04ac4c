"""Reading one user from the online store that Feast materialises into: SQLite embedded, Redis in a cluster."""

import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from serving.config import OnlineStore, SqliteOnlineStore
from serving.errors import StoreUnavailable
from serving.features.feast_format import (
    decode_floats,
    decode_int64s,
    decode_seconds,
    decode_strings,
    entity_key,
    redis_field,
)
from serving.features.user_state import UserState

PROJECT = "sieve"
USER_KEY = "user_id"
STATS_VIEW = "user_stats"
HISTORY_VIEW = "user_history"
STATS_FIELD = "user_values"
HISTORY_FIELDS = ("items", "times_us", "grades", "seen")
_SECOND_US = 1_000_000


class UserReader(Protocol):
    """Reads what the online store knows of one user; safe to share between threads."""

    def read(self, user_id: str) -> UserState | None:
        """The user's rows, None where there are none.

        Raises:
            StoreUnavailable: the store cannot be read, or holds what is not Feast's format.
        """


class SqliteUserReader:
    """Reads Feast's SQLite online store, one connection per thread."""

    def __init__(self, path: Path, timeout_s: float = 0.5) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._local = threading.local()

    def read(self, user_id: str) -> UserState | None:
        """The user's rows by one SELECT, None where there are none.

        Raises:
            StoreUnavailable: the file is missing, locked beyond the timeout, damaged, or without the tables.
        """
        key = entity_key(USER_KEY, user_id)
        try:
            rows = self._connection().execute(_SELECT, (key, key)).fetchall()
        except sqlite3.Error as error:
            self._local.connection = None
            raise StoreUnavailable(f"online store {self._path}: {error}") from error
        if not rows:
            return None
        values = {(view, name): value for view, name, value, _ in rows}
        stamps = {view: _sqlite_time_us(stamp) for view, _, _, stamp in rows}
        return _user_state(user_id, values, stamps.get(STATS_VIEW))

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, timeout=self._timeout_s, isolation_level=None)
            self._local.connection = connection
        return connection


class RedisUserReader:
    """Reads Feast's Redis online store: one hash per user, one HMGET."""

    def __init__(self, url: str, timeout_s: float = 0.5) -> None:
        import redis

        self._client = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        self._errors = redis.RedisError
        self._suffix = PROJECT.encode()
        names = [(STATS_VIEW, STATS_FIELD), *((HISTORY_VIEW, name) for name in HISTORY_FIELDS)]
        self._names = names
        self._fields = [*(redis_field(view, name) for view, name in names), f"_ts:{STATS_VIEW}".encode()]

    def read(self, user_id: str) -> UserState | None:
        """The user's rows in one round trip, None where there are none.

        Raises:
            StoreUnavailable: Redis does not answer in time, or the value is not Feast's.
        """
        key = entity_key(USER_KEY, user_id) + self._suffix
        try:
            answer: list[bytes | None] = self._client.hmget(key, self._fields)  # type: ignore[assignment]
        except self._errors as error:
            raise StoreUnavailable(f"online store: {error}") from error
        *stored, stamp = answer
        if not any(stored):
            return None
        values = {name: value for name, value in zip(self._names, stored, strict=True) if value}
        return _user_state(user_id, values, decode_seconds(stamp) * _SECOND_US if stamp else None)


def open_reader(store: OnlineStore) -> UserReader:
    """The reader of the configured online store; nothing is contacted yet."""
    if isinstance(store, SqliteOnlineStore):
        return SqliteUserReader(store.path)
    return RedisUserReader(store.url)


_SELECT = " UNION ALL ".join(
    f"SELECT '{view}', feature_name, value, event_ts FROM {PROJECT}_{view} WHERE entity_key = ?"
    for view in (STATS_VIEW, HISTORY_VIEW)
)


def _sqlite_time_us(stamp: Any) -> int:
    # Feast stores a naive UTC time as if it were local time; undone in the same way
    local = datetime.fromtimestamp(int(stamp))
    return int(local.replace(tzinfo=UTC).timestamp()) * _SECOND_US


def _user_state(user_id: str, values: dict[tuple[str, str], bytes], stats_time_us: int | None) -> UserState:
    state = UserState(user_id)
    try:
        stats = values.get((STATS_VIEW, STATS_FIELD))
        state.stats = None if stats is None else decode_floats(stats)
        state.stats_time_us = None if state.stats is None else stats_time_us
        items, times, grades, seen = (values.get((HISTORY_VIEW, name), b"") for name in HISTORY_FIELDS)
        state.history_items = decode_strings(items) or []
        state.seen = decode_strings(seen) or []
        history_times, history_grades = decode_int64s(times), decode_floats(grades)
    except (ValueError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"online store: user {user_id!r} is stored in another format: {error}") from error
    if history_times is not None:
        state.history_times_us = history_times
    if history_grades is not None:
        state.history_grades = history_grades
    if not len(state.history_items) == len(state.history_times_us) == len(state.history_grades):
        raise StoreUnavailable(f"online store: the history of user {user_id!r} has columns of unequal length")
    return state
