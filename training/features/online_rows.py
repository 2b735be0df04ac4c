"""What the online store holds after a materialisation: rows of one view by their stamp, counted in Feast's formats."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice

from serving.config import OnlineStore, SqliteOnlineStore
from serving.errors import StoreUnavailable
from serving.features.feast_format import decode_seconds, entity_key
from serving.features.online import PROJECT, USER_KEY

_KEYS_PER_TRIP = 10_000


def count_online(store: OnlineStore, view: str, users: Iterable[str], stamp_s: int) -> int:
    """How many of `users` have a row of `view` that is stamped `stamp_s`, whole seconds since 1970.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    if isinstance(store, SqliteOnlineStore):
        return _count_sqlite(store, view, stamp_s)
    return _count_redis(store.url, view, users, stamp_s)


def _count_sqlite(store: SqliteOnlineStore, view: str, stamp_s: int) -> int:
    # Feast stores a naive UTC time as if it were local time
    stored = datetime.fromtimestamp(stamp_s, UTC).replace(tzinfo=None).timestamp()
    query = f"SELECT count(DISTINCT entity_key) FROM {PROJECT}_{view} WHERE CAST(event_ts AS INTEGER) = ?"
    try:
        with closing(sqlite3.connect(f"{store.path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            [count] = connection.execute(query, (int(stored),)).fetchone()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"online store {store.path}: {error}") from error
    return int(count)


def _count_redis(url: str, view: str, users: Iterable[str], stamp_s: int) -> int:
    import redis

    client, count, keys = redis.Redis.from_url(url), 0, iter(users)
    try:
        while chunk := list(islice(keys, _KEYS_PER_TRIP)):
            pipeline = client.pipeline(transaction=False)
            for user in chunk:
                pipeline.hget(entity_key(USER_KEY, user) + PROJECT.encode(), f"_ts:{view}")
            count += sum(stamp is not None and decode_seconds(stamp) == stamp_s for stamp in pipeline.execute())
    except redis.RedisError as error:
        raise StoreUnavailable(f"online store: {error}") from error
    return count
