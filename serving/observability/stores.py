"""Stores whose reads are counted: how long they took, how they failed, how old what they gave was."""

import time
from collections.abc import Callable
from typing import TypeVar

from serving.errors import StoreUnavailable
from serving.features.lists import ListReader, StoredList
from serving.features.online import UserReader
from serving.features.user_state import UserState
from serving.observability.recorder import Recorder

T = TypeVar("T")
USERS, LISTS = "users", "lists"


class MeteredUsers:
    """A reader of users' features."""

    def __init__(self, reader: UserReader, recorder: Recorder) -> None:
        self._reader = reader
        self._recorder = recorder

    def read(self, user_id: str) -> UserState | None:
        """As the reader behind it."""
        return _timed(self._recorder, USERS, lambda: self._reader.read(user_id))


class MeteredLists:
    """A reader of precomputed lists."""

    def __init__(self, lists: ListReader, recorder: Recorder) -> None:
        self._lists = lists
        self._recorder = recorder

    def read(self, app: str, user_id: str) -> StoredList | None:
        """As the reader behind it."""
        stored = _timed(self._recorder, LISTS, lambda: self._lists.read(app, user_id))
        if stored is not None:
            self._recorder.list_age(app, time.time() - stored.computed_at_us / 1_000_000)
        return stored


def _timed(recorder: Recorder, store: str, read: Callable[[], T]) -> T:
    started, error = time.perf_counter(), None
    try:
        return read()
    except StoreUnavailable as failure:
        error = type(failure).__name__
        raise
    finally:
        recorder.store_read(store, time.perf_counter() - started, error)
