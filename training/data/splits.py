"""Nested windows of training: what retrieval fits on, what the ranker learns from, what is held out."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serving.errors import DataError
from training.config import LeaveLastOut, TimeSplit
from training.data.labels import DAY_US

FIT, RANK, HOLDOUT, SKIPPED = 0, 1, 2, -1
NAMES = {FIT: "retrieval", RANK: "ranker", HOLDOUT: "holdout"}


@dataclass(frozen=True)
class Segments:
    """The segment of every positive, and where the windows were cut.

    `segment` is int8[n]: 0 retrieval fits on it, 1 the ranker learns from it, 2 it is held out, -1 it is not
    used. The cuts are microseconds; a row at a cut belongs to the later window. `t1_us` and `t2_us` are None
    where each user is cut at their own time.
    """

    segment: npt.NDArray[np.int8]
    t1_us: int | None
    t2_us: int | None
    t3_us: int


def assign_segments(
    user_id: Any,
    item_id: Any,
    time_us: npt.NDArray[np.int64],
    split: TimeSplit | LeaveLastOut,
    end_us: int | None = None,
) -> Segments:
    """Assigns each positive to its window.

    `time` cuts at T3, T2 = T3 - holdout days and T1 = T2 - ranker days, where T3 is `end_us` or the midnight
    (UTC) after the last positive. `leave_last_out` holds out each user's last positive and gives the
    `ranker_events` before it to the ranker; a user with one positive has only a holdout. Positives at one
    timestamp are ordered by item id, the highest last: as numbers when every id is 1 to 18 digits, else by their
    UTF-8 bytes.

    Args:
        user_id: n ids or codes, as a numpy or Arrow array, in any order.
        item_id: n ids or codes, the same.
        time_us: int64[n], microseconds.
        split: the configured split.
        end_us: T3; positives at or after it are not used.

    Raises:
        DataError: there are no positives, or a window would be empty: each is named.
    """
    if len(time_us) == 0:
        raise DataError("there is nothing to split", ["no interactions in the events table"])
    t3_us = (int(time_us.max()) // DAY_US + 1) * DAY_US if end_us is None else end_us
    if isinstance(split, TimeSplit):
        t2_us = t3_us - split.holdout_days * DAY_US
        t1_us = t2_us - split.ranker_days * DAY_US
        segments = Segments(_by_time(time_us, t1_us, t2_us, t3_us), t1_us, t2_us, t3_us)
    else:
        segments = Segments(_by_user(user_id, item_id, time_us, split, t3_us), None, None, t3_us)
    _check(segments, time_us, split)
    return segments


def _by_time(time_us: npt.NDArray[np.int64], t1_us: int, t2_us: int, t3_us: int) -> npt.NDArray[np.int8]:
    segment = np.searchsorted(np.array([t1_us, t2_us, t3_us]), time_us, side="right").astype(np.int8)
    segment[segment == 3] = SKIPPED
    return segment


def _by_user(
    user_id: Any, item_id: Any, time_us: npt.NDArray[np.int64], split: LeaveLastOut, t3_us: int
) -> npt.NDArray[np.int8]:
    segment = np.full(len(time_us), SKIPPED, np.int8)
    used = np.flatnonzero(time_us < t3_us)
    users = _codes(user_id)[used]
    order = np.lexsort((item_ranks(item_id)[used], time_us[used], users))
    users = users[order]
    ends = np.searchsorted(users, users, side="right")
    from_last = ends - 1 - np.arange(len(users)) - split.skip
    kinds = np.where(from_last == 0, HOLDOUT, np.where(from_last <= split.ranker_events, RANK, FIT))
    segment[used[order]] = np.where(from_last < 0, SKIPPED, kinds)
    return segment


def item_ranks(item_id: Any) -> npt.NDArray[np.int64]:
    """The place of each id in the order that breaks ties: int64[n], equal ids share a rank."""
    encoded = _encode(item_id)
    names = encoded.dictionary
    if not pa.types.is_integer(names.type):
        names = names.cast(pa.string())
        if pc.all(pc.match_substring_regex(names, "^[0-9]{1,18}$")).as_py():
            names = names.cast(pa.int64())
    ranks = np.empty(len(names), np.int64)
    ranks[pc.sort_indices(names).to_numpy()] = np.arange(len(names))
    by_row: npt.NDArray[np.int64] = ranks[np.asarray(encoded.indices)]
    return by_row


def _codes(ids: Any) -> npt.NDArray[np.int64]:
    return np.asarray(_encode(ids).indices).astype(np.int64)


def _encode(ids: Any) -> pa.DictionaryArray:
    array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else pa.array(ids)
    return array.dictionary_encode()


def _check(segments: Segments, time_us: npt.NDArray[np.int64], split: TimeSplit | LeaveLastOut) -> None:
    empty = [name for code, name in NAMES.items() if not np.any(segments.segment == code)]
    if not empty:
        return
    first, last = (datetime.fromtimestamp(t / 1e6, UTC) for t in (int(time_us.min()), int(time_us.max())))
    problems = [f"no interaction falls into the {name} window" for name in empty]
    problems.append(f"the {len(time_us)} interactions run from {first:%Y-%m-%d} to {last:%Y-%m-%d}")
    if isinstance(split, TimeSplit):
        days = split.holdout_days + split.ranker_days
        problems.append(f"split {split.holdout_days} + {split.ranker_days} days needs more than {days} days before T3")
    else:
        problems.append(
            f"leave_last_out needs users with more than {1 + split.ranker_events + split.skip} interactions"
        )
    raise DataError("too little data for the split", problems)
