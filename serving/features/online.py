"""Reading one user from the online store that Feast materialises into: SQLite embedded, Redis in a cluster."""

import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from serving.config import OnlineStore, SqliteOnlineStore
from serving.errors import StoreUnavailable
from serving.features.feast_format import decode_floats, decode_seconds, entity_key, redis_field
from serving.features.packed_lists import read_int64s, read_strings
from serving.features.user_state import UserState

PROJECT = "sieve"
USER_KEY = "user_id"
STATS_VIEW = "user_stats"
HISTORY_VIEW = "user_history"
STATS_FIELD = "user_values"
HISTORY_FIELDS = ("items", "times_us", "grades", "seen", "shown", "shown_counts")
_HISTORY: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    "items": ("history_items", read_strings),
    "times_us": ("history_times_us", read_int64s),
    "grades": ("history_grades", decode_floats),
    "seen": ("seen", read_strings),
    "shown": ("shown_items", read_strings),
    "shown_counts": ("shown_counts", decode_floats),
}
"""Where `UserState` keeps each field, and how its value is read; a null stays empty."""
_EQUALLY_LONG = (("history_items", "history_times_us", "history_grades"), ("shown_items", "shown_counts"))
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
        """timeout_s: how long a read waits for a writer that holds the file."""
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
        stamp = next((stamp for view, _, _, stamp in rows if view == STATS_VIEW), None)
        return _user_state(user_id, values, None if stamp is None else _sqlite_time_us(int(stamp)))

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            uri = f"{self._path.absolute().as_uri()}?mode=ro"
            connection = sqlite3.connect(uri, uri=True, timeout=self._timeout_s, isolation_level=None)
            self._local.connection = connection
        return connection


class RedisUserReader:
    """Reads Feast's Redis online store: one hash per user, one HMGET, one connection per thread.

    The command is put together here and goes to the connection directly: the client's own way there, with its pool,
    retries and events, takes longer than Redis does.
    """

    def __init__(self, url: str, timeout_s: float = 0.5, connect_timeout_s: float = 0.5) -> None:
        """timeout_s: how long one answer may take.  connect_timeout_s: how long a connection may."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._pool = redis.ConnectionPool.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=connect_timeout_s, retry=Retry(NoBackoff(), 0)
        )
        self._local = threading.local()
        self._errors, self._broken = redis.RedisError, redis.ConnectionError
        self._suffix = PROJECT.encode()
        self._names = [(STATS_VIEW, STATS_FIELD), *((HISTORY_VIEW, name) for name in HISTORY_FIELDS)]
        fields = [*(redis_field(view, name) for view, name in self._names), f"_ts:{STATS_VIEW}".encode()]
        self._head = b"*%d\r\n$5\r\nHMGET\r\n" % (len(fields) + 2)
        self._tail = b"".join(_bulk(field) for field in fields)

    def read(self, user_id: str) -> UserState | None:
        """The user's rows in one round trip, None where there are none.

        A connection that Redis has closed since the last read is opened once more.

        Raises:
            StoreUnavailable: Redis does not answer in time, or the value is not Feast's.
        """
        key = entity_key(USER_KEY, user_id) + self._suffix
        try:
            *stored, stamp = self._ask(self._head + _bulk(key) + self._tail)
        except self._errors as error:
            raise StoreUnavailable(f"online store: {error}") from error
        values = {name: value for name, value in zip(self._names, stored, strict=True) if value}
        if not values:
            return None
        return _user_state(user_id, values, decode_seconds(stamp) * _SECOND_US if stamp else None)

    def _ask(self, command: bytes) -> list[bytes | None]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._pool.make_connection()
        was_open = connection.is_connected
        try:
            return _round_trip(connection, command)
        except self._broken:
            if not was_open:
                raise
            return _round_trip(connection, command)


def open_reader(store: OnlineStore) -> UserReader:
    """The reader of the configured online store; nothing is contacted yet."""
    if isinstance(store, SqliteOnlineStore):
        return SqliteUserReader(store.path, store.timeout_s)
    return RedisUserReader(store.url, store.timeout_s, store.connect_timeout_s)


_SELECT = " UNION ALL ".join(
    f"SELECT '{view}', feature_name, value, event_ts FROM {PROJECT}_{view} WHERE entity_key = ?"
    for view in (STATS_VIEW, HISTORY_VIEW)
)


@lru_cache(maxsize=64)  # a snapshot has one stamp for all of its users
def _sqlite_time_us(stamp: int) -> int:
    # Feast stores a naive UTC time as if it were local time; undone in the same way
    local = datetime.fromtimestamp(stamp)
    return int(local.replace(tzinfo=UTC).timestamp()) * _SECOND_US


def _round_trip(connection: Any, command: bytes) -> list[bytes | None]:
    connection.send_packed_command([command], check_health=False)
    answer: list[bytes | None] = connection.read_response(disable_decoding=True)
    return answer


def _bulk(argument: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(argument), argument)


def _user_state(user_id: str, values: dict[tuple[str, str], bytes], stats_time_us: int | None) -> UserState:
    state = UserState(user_id)
    try:
        stats = values.get((STATS_VIEW, STATS_FIELD))
        state.stats = None if stats is None else decode_floats(stats)
        state.stats_time_us = None if state.stats is None else stats_time_us
        for name, (attribute, read) in _HISTORY.items():
            column = read(values.get((HISTORY_VIEW, name), b""))
            if column is not None:
                setattr(state, attribute, column)
    except (ValueError, UnicodeDecodeError) as error:
        raise StoreUnavailable(f"online store: user {user_id!r} is stored in another format: {error}") from error
    for columns in _EQUALLY_LONG:
        if len({len(getattr(state, column)) for column in columns}) > 1:
            what = " and ".join(columns)
            raise StoreUnavailable(f"online store: {what} of user {user_id!r} are of unequal length")
    return state
