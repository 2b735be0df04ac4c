"""Picking and joining candidates in time that grows with their number and not with the catalogue's.

C candidates, N items.
"""

import threading

import numpy as np
import numpy.typing as npt

from serving.core.candidates import Rows, Scores
from serving.retrieval.index import top_rows

Places = npt.NDArray[np.intp]

_scratch = threading.local()
_MIN_SLOTS = 1 << 16


def last_places(rows: npt.NDArray[np.integer]) -> Places:
    """intp[C]: for each of `rows` int[C], from 0 on, the place in the list at which its row stands last.

    Each thread keeps four bytes for each item, of which a call touches only those that it is given.
    """
    if not len(rows):
        return np.empty(0, np.intp)
    index = rows.astype(np.intp)
    slots = _slots(int(index.max()) + 1)
    slots[index] = np.arange(len(index), dtype=np.int32)  # of equal rows the last one is written last
    return slots[index].astype(np.intp)


def best(rows: Rows, scores: Scores, n: int) -> tuple[Rows, Scores]:
    """The n best of rows int32[C] by falling scores float32[C] without NaN; ties keep the order they came in."""
    chosen = top_rows(scores, n)
    return rows[chosen], scores[chosen]


def _slots(count: int) -> npt.NDArray[np.int32]:
    slots: npt.NDArray[np.int32] | None = getattr(_scratch, "slots", None)
    if slots is None or len(slots) < count:
        # what is read was written by the same call before
        slots = _scratch.slots = np.empty(max(_MIN_SLOTS, count * 9 // 8), np.int32)
    return slots
