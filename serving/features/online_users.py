"""Which users the online store knows: every id, once, in bounded memory."""

import sqlite3
import struct
from collections.abc import Iterator

import redis

from serving.config import OnlineStore, SqliteOnlineStore
from serving.errors import StoreUnavailable
from serving.features.feast_format import entity_key
from serving.features.online import HISTORY_VIEW, PROJECT, USER_KEY

SCAN_COUNT = 1000
ID_AT = len(entity_key(USER_KEY, ""))
"""Where the id begins in the key of a user; the four bytes before it are its length."""


def user_ids(store: OnlineStore) -> Iterator[str]:
    """Ids of the users with a history row, in no certain order.

    Redis may name a user twice where keys move while they are listed.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    return _in_sqlite(store) if isinstance(store, SqliteOnlineStore) else _in_redis(store.url)


def decode_user(key: bytes) -> str | None:
    """The id in the key of a user; None for the key of anything else."""
    prefix = entity_key(USER_KEY, "")[: ID_AT - 4]
    if not key.startswith(prefix) or len(key) < ID_AT:
        return None
    (length,) = struct.unpack_from("<I", key, ID_AT - 4)
    if len(key) - ID_AT < length:
        return None
    return key[ID_AT : ID_AT + length].decode()


def _in_sqlite(store: SqliteOnlineStore) -> Iterator[str]:
    try:
        connection = sqlite3.connect(f"{store.path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            for (key,) in connection.execute(f"SELECT DISTINCT entity_key FROM {PROJECT}_{HISTORY_VIEW}"):
                user = decode_user(key)
                if user is not None:
                    yield user
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreUnavailable(f"online store {store.path}: {error}") from error


def _in_redis(url: str) -> Iterator[str]:
    client = redis.Redis.from_url(url)
    try:
        for key in client.scan_iter(match="*" + PROJECT, count=SCAN_COUNT, _type="HASH"):
            user = decode_user(key)
            if user is not None:
                yield user
    except redis.RedisError as error:
        raise StoreUnavailable(f"online store: {error}") from error
    finally:
        client.close()
