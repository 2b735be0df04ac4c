"""Lists made for users beforehand, in the online store: one row per application and user.

A list names items by id, so it outlives the bundle that it was made with. SQLite keeps a table beside Feast's;
Redis one hash per user. Both are read in one round trip and written in batches, newest list wins.
"""

import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import orjson
import redis

from serving.config import OnlineStore, SqliteOnlineStore
from serving.errors import StoreUnavailable

TABLE = "sieve_lists"
KEPT_S = 30 * 86_400
"""A list that nobody replaces is forgotten after this long."""
SQLITE_TIMEOUT_S = 5.0
BATCH = 1000
WRITE_TIMEOUT_S = 30.0
SECOND_US = 1_000_000


@dataclass(frozen=True)
class StoredList:
    """One user's list: ids best first, their scores float32[n], which bundle made it, and when."""

    user_id: str
    items: tuple[str, ...]
    scores: npt.NDArray[np.float32]
    bundle: str
    computed_at_us: int


class ListReader(Protocol):
    """Where precomputed lists are read."""

    def read(self, app: str, user_id: str) -> StoredList | None:
        """The user's list; None where none is stored.

        Raises:
            StoreUnavailable: the store is down, slow, or holds something else there.
        """
        ...


class ListStore(ListReader, Protocol):
    """Where precomputed lists are kept."""

    def write(self, app: str, lists: Iterable[StoredList]) -> int:
        """Stores lists, each in place of the user's older one, and lets go of those that are 30 days old.

        Returns:
            How many were written.

        Raises:
            StoreUnavailable: the store is down; what was written so far stays.
        """
        ...

    def delete(self, app: str, user_id: str) -> bool:
        """Removes a user's list; whether there was one."""
        ...


class SqliteLists:
    """Lists in the embedded online store's file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    def read(self, app: str, user_id: str) -> StoredList | None:
        """As the port says; a file or table that is not there holds no list."""
        if not self._path.exists():
            return None
        query = f"SELECT document FROM {TABLE} WHERE app = ? AND user_id = ?"
        try:
            found = self._connection().execute(query, (app, user_id)).fetchone()
        except sqlite3.Error as error:
            if "no such table" in str(error):
                return None
            raise StoreUnavailable(f"the lists in {self._path} cannot be read: {error}") from error
        return None if found is None else _decode(user_id, found[0])

    def write(self, app: str, lists: Iterable[StoredList]) -> int:
        """As the port says, a thousand to a transaction; of two lists of a user the one computed last stays."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        statement = (
            f"INSERT INTO {TABLE} (app, user_id, computed_at_us, document) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (app, user_id) DO UPDATE SET computed_at_us = excluded.computed_at_us, "
            "document = excluded.document WHERE excluded.computed_at_us >= computed_at_us"
        )
        written = 0
        try:
            connection = self._connection()
            with connection:
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {TABLE} (app TEXT, user_id TEXT, computed_at_us INTEGER, "
                    "document BLOB, PRIMARY KEY (app, user_id)) WITHOUT ROWID"
                )
            for batch in _batches(lists):
                with connection:
                    rows = [(app, each.user_id, each.computed_at_us, _encode(each)) for each in batch]
                    connection.executemany(statement, rows)
                written += len(batch)
            with connection:
                newest = f"SELECT MAX(computed_at_us) FROM {TABLE} WHERE app = ?"
                forgotten = f"DELETE FROM {TABLE} WHERE app = ? AND computed_at_us < ({newest}) - ?"
                connection.execute(forgotten, (app, app, KEPT_S * SECOND_US))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the lists in {self._path} cannot be written: {error}") from error
        return written

    def delete(self, app: str, user_id: str) -> bool:
        """As the port says."""
        if self.read(app, user_id) is None:
            return False
        connection = self._connection()
        try:
            with connection:
                connection.execute(f"DELETE FROM {TABLE} WHERE app = ? AND user_id = ?", (app, user_id))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the lists in {self._path} cannot be written: {error}") from error
        return True

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=SQLITE_TIMEOUT_S)
            self._local.connection = connection
        return connection


class RedisLists:
    """Lists in Redis, shared by all replicas."""

    def __init__(self, url: str, timeout_s: float = 0.5, connect_timeout_s: float = 0.5) -> None:
        """timeout_s: of each read, so that a slow store cannot hold a request; a batch of writes may take longer."""
        self._client = redis.Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=connect_timeout_s)
        self._writer = redis.Redis.from_url(
            url, socket_timeout=WRITE_TIMEOUT_S, socket_connect_timeout=connect_timeout_s
        )

    def read(self, app: str, user_id: str) -> StoredList | None:
        """As the port says."""
        try:
            document = self._client.get(_key(app, user_id))
        except redis.RedisError as error:
            raise StoreUnavailable(f"the lists cannot be read: {error}") from error
        return None if document is None else _decode(user_id, document)  # type: ignore[arg-type]

    def write(self, app: str, lists: Iterable[StoredList]) -> int:
        """As the port says, a thousand to a pipeline; of two lists of a user the one written last stays."""
        written = 0
        try:
            for batch in _batches(lists):
                pipeline = self._writer.pipeline(transaction=False)
                for each in batch:
                    pipeline.set(_key(app, each.user_id), _encode(each), ex=KEPT_S)
                pipeline.execute()
                written += len(batch)
        except redis.RedisError as error:
            raise StoreUnavailable(f"the lists cannot be written: {error}") from error
        return written

    def delete(self, app: str, user_id: str) -> bool:
        """As the port says."""
        try:
            return bool(self._client.delete(_key(app, user_id)))
        except redis.RedisError as error:
            raise StoreUnavailable(f"the lists cannot be written: {error}") from error


def open_lists(store: OnlineStore) -> ListStore:
    """The lists beside the configured online store."""
    if isinstance(store, SqliteOnlineStore):
        return SqliteLists(store.path)
    return RedisLists(store.url, store.timeout_s, store.connect_timeout_s)


def _key(app: str, user_id: str) -> bytes:
    return f"sieve:list:{app}:{user_id}".encode()


def _encode(stored: StoredList) -> bytes:
    document = {
        "items": stored.items,
        "scores": np.asarray(stored.scores, np.float32).tolist(),
        "bundle": stored.bundle,
        "computed_at_us": stored.computed_at_us,
    }
    return orjson.dumps(document)


def _decode(user_id: str, document: bytes) -> StoredList:
    try:
        read = orjson.loads(document)
        items, scores = tuple(read["items"]), np.array(read["scores"], np.float32)
        stored = StoredList(user_id, items, scores, str(read["bundle"]), int(read["computed_at_us"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreUnavailable(f"the stored list is not one: {error!r}") from error
    if len(items) != len(scores) or not all(isinstance(item, str) for item in items):
        raise StoreUnavailable("the stored list is not one: its items and scores do not match")
    return stored


def _batches(lists: Iterable[StoredList]) -> Iterable[Sequence[StoredList]]:
    batch: list[StoredList] = []
    for each in lists:
        batch.append(each)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
