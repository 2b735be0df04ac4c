"""Ids of users, films, pages and events: fixed-width ASCII, made from numbers in bulk.

user        u0000001            the row from 1
item        i0000001
prediction  P 0020 0000001 a    day of the history, user, visit of that day (0-9, a-z)
session     S 0020 0000001 a
event       c 0020 0000001 a 017  kind, page, position: unique without a counter
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from serving.errors import NotFound
from training.simulate.columns import digits, fixed_strings
from training.simulate.outcomes import Kind

_KIND_LETTERS = np.frombuffer(b"cpfrlqg", dtype=np.uint8)
_IMPRESSION = np.uint8(ord("m"))
_VISIT_LETTERS = np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyz", dtype=np.uint8)
_PAGE_WIDTH = 13
_EVENT_WIDTH = 16


def entity_words(prefix: str, count: int) -> np.ndarray:
    """Ids of `count` users or items as 8 ASCII bytes each: uint64[count]."""
    text = np.empty((count, 8), dtype=np.uint8)
    text[:, 0] = ord(prefix)
    text[:, 1:] = digits(np.arange(1, count + 1), 7)
    return text.view(np.uint64)[:, 0]


def entity_ids(words: np.ndarray, rows: np.ndarray) -> pa.Array:
    """The ids of rows (int[n]) as a string array."""
    return fixed_strings(words[rows].view(np.uint8).reshape(-1, 8))


def rows_of(prefix: str, ids: Sequence[str], count: int, field: str) -> np.ndarray:
    """Rows int32[n] of ids.

    Raises:
        NotFound: naming the first id that the world does not have.
    """
    rows = np.empty(len(ids), dtype=np.int32)
    for place, name in enumerate(ids):
        number = int(name[1:]) if len(name) == 8 and name[0] == prefix and name[1:].isdecimal() else 0
        if not 1 <= number <= count:
            raise NotFound(f"{field}[{place}]", f"this world has no {name!r}")
        rows[place] = number - 1
    return rows


class HistoryIds:
    """Ids of the visits of one day of the history; `day` counts from the history's start."""

    def __init__(self, day: int, user: np.ndarray, number: np.ndarray) -> None:
        text = np.full((len(user), _EVENT_WIDTH), ord("0"), dtype=np.uint8)
        text[:, 1:5] = digits(np.array([day]), 4)
        text[:, 5:12] = digits(user.astype(np.int64) + 1, 7)
        text[:, 12] = _VISIT_LETTERS[number]
        self._text = text

    def predictions(self, visit: np.ndarray) -> pa.Array:
        """Prediction ids of visits, int[n]."""
        return self._pages(visit, "P")

    def sessions(self, visit: np.ndarray) -> pa.Array:
        """Session ids of visits, int[n]; a visit shows one page."""
        return self._pages(visit, "S")

    def impressions(self, visit: np.ndarray, position: np.ndarray) -> pa.Array:
        """Event ids of impressions, int[n] each."""
        return self._events(visit, position, np.broadcast_to(_IMPRESSION, len(visit)))

    def events(self, visit: np.ndarray, position: np.ndarray, kind: np.ndarray) -> pa.Array:
        """Event ids of events, int[n] each."""
        return self._events(visit, position, _KIND_LETTERS[kind])

    def _pages(self, visit: np.ndarray, letter: str) -> pa.Array:
        pages = self._text[:, :_PAGE_WIDTH].copy()
        pages[:, 0] = ord(letter)
        whole = pages.view(f"V{_PAGE_WIDTH}")[:, 0]
        return fixed_strings(whole[visit].view(np.uint8).reshape(-1, _PAGE_WIDTH))

    def _events(self, visit: np.ndarray, position: np.ndarray, letter: np.ndarray) -> pa.Array:
        halves = self._text.view(np.uint64)
        out = np.empty((len(visit), 2), dtype=np.uint64)
        np.take(halves[:, 0], visit, out=out[:, 0])
        out[:, 1] = halves[:, 1][visit] + _POSITION_WORDS[position]
        text = out.view(np.uint8)
        text[:, 0] = letter
        return fixed_strings(text)


class LiveIds:
    """Ids of one served page, made from the ids that the server gave."""

    def __init__(self, prediction_id: str, session_id: str) -> None:
        self._prediction, self._session = prediction_id, session_id

    def predictions(self, visit: np.ndarray) -> pa.Array:
        """The page's prediction id, once per row."""
        return pa.repeat(self._prediction, len(visit))

    def sessions(self, visit: np.ndarray) -> pa.Array:
        """The page's session id, once per row."""
        return pa.repeat(self._session, len(visit))

    def impressions(self, visit: np.ndarray, position: np.ndarray) -> pa.Array:
        """Event ids of impressions: the prediction's id, a letter and the position."""
        return pa.array([f"{self._prediction}-m{place:03d}" for place in position.tolist()], pa.string())

    def events(self, visit: np.ndarray, position: np.ndarray, kind: np.ndarray) -> pa.Array:
        """Event ids of events: the prediction's id, the kind's letter and the position."""
        letters = [chr(_KIND_LETTERS[Kind(code)]) for code in kind.tolist()]
        places = position.tolist()
        return pa.array([f"{self._prediction}-{a}{b:03d}" for a, b in zip(letters, places, strict=True)], pa.string())


def _position_words() -> np.ndarray:
    """What to add to the second half of an event id ending in 000 to write a position there: uint64[1000]."""
    text = np.zeros((1000, 8), dtype=np.uint8)
    text[:, 5:] = digits(np.arange(1000), 3) - ord("0")
    return text.view(np.uint64)[:, 0]


_POSITION_WORDS = _position_words()
