"""The ranker's training matrix: what serving would have computed for each request at its own time.

Snapshots are read as of the request less the snapshot lag, and put together by the functions that serve.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.config import FeatureSettings
from serving.features.affinity import WIDTH, Affinity
from serving.features.assembly import Assembler, fill_missing
from serving.features.context import context_features
from serving.features.online import STATS_FIELD, USER_KEY
from serving.features.spec import DAY_US, FeatureSet
from training.features.point_in_time import read_view
from training.features.snapshot_rows import ITEM_FIELD, ITEM_KEY
from training.features.snapshots import ITEM_STATS, USER_STATS

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]

_BLOCK_ROWS = 1 << 15


@dataclass(frozen=True)
class Requests:
    """G requests: `user_ids` strings[G], `time_us` int64[G], `device` and `country` int64[G] codes of
    `serving.features.context`."""

    user_ids: pa.Array
    time_us: npt.NDArray[np.int64]
    device: npt.NDArray[np.int64]
    country: npt.NDArray[np.int64]


@dataclass(frozen=True)
class AffinityInputs:
    """What a trained retrieval model adds: `affinity` over the bundle's tables, `item_embeddings` float32[N, d],
    `user_embeddings` float32[G, d] or None, and `history` int32[G, L] bundle rows, newest last, -1 padded."""

    affinity: Affinity
    item_embeddings: Matrix
    user_embeddings: Matrix | None
    history: Rows


class FeatureReader:
    """Reads the packed views under `root` with serving's own lag and TTL."""

    def __init__(self, root: Path, features: FeatureSet, settings: FeatureSettings) -> None:
        self._root = root
        self._lag_us = settings.snapshot_lag_s * 1_000_000
        self._ttl_us = settings.snapshot_ttl_days * DAY_US
        self.features = features
        self.assembler = Assembler(features, settings)

    def users(self, user_ids: pa.Array, time_us: npt.NDArray[np.int64]) -> Matrix:
        """float32[R, Du]: each user's statistics as served at that time, defaults where missing."""
        filled, _ = fill_missing(self.raw_users(user_ids, time_us), self.assembler.user_defaults)
        return filled

    def raw_users(self, user_ids: pa.Array, time_us: npt.NDArray[np.int64]) -> Matrix:
        """The same with NaN where missing."""
        width = len(self.features.user)
        at_us = np.asarray(time_us, np.int64) - self._lag_us
        return read_view(self._root / USER_STATS, USER_KEY, STATS_FIELD, width, user_ids, at_us, self._ttl_us).values

    def raw_items(self, item_ids: pa.Array, time_us: npt.NDArray[np.int64]) -> Matrix:
        """float32[R, Di]: each item's statistics as served at that time, NaN where missing."""
        width = len(self.features.item)
        at_us = np.asarray(time_us, np.int64) - self._lag_us
        return read_view(self._root / ITEM_STATS, ITEM_KEY, ITEM_FIELD, width, item_ids, at_us, self._ttl_us).values

    def items(self, item_ids: pa.Array, time_us: npt.NDArray[np.int64]) -> Matrix:
        """The same with defaults where missing."""
        filled, _ = fill_missing(self.raw_items(item_ids, time_us), self.assembler.item_defaults)
        return filled


def assemble(
    reader: FeatureReader,
    requests: Requests,
    group_sizes: npt.NDArray[np.integer],
    candidates: Rows,
    item_ids: list[str],
    affinity: AffinityInputs | None = None,
    out: Matrix | None = None,
) -> Matrix:
    """float32[R, F]: the matrix of all candidates, request after request, in the order of the feature set.

    `group_sizes` int[G] says how many of the R `candidates` (int32 rows of `item_ids`) each request has. Without
    `affinity` that view is zero. `out`, a float32[R, F] array or memory map, is filled where it is given.
    """
    features = reader.features
    if out is None:
        out = np.empty((len(candidates), len(features.names)), np.float32)
    users = reader.users(requests.user_ids, requests.time_us)
    context = context_features(features, requests.time_us, requests.device, requests.country)
    ids = pa.DictionaryArray.from_arrays(pa.array(candidates), pa.array(item_ids, pa.string()))
    items = reader.raw_items(ids, np.repeat(requests.time_us, group_sizes))
    for groups, rows in _blocks(np.asarray(group_sizes)):
        sizes = np.asarray(group_sizes)[groups]
        extra = _affinity_rows(affinity, groups, sizes, candidates[rows])
        user_rows, context_rows = np.repeat(users[groups], sizes, axis=0), np.repeat(context[groups], sizes, axis=0)
        out[rows] = reader.assembler.matrix(user_rows, context_rows, items[rows], extra)
    return out


def _affinity_rows(
    inputs: AffinityInputs | None, groups: slice, sizes: npt.NDArray[np.integer], candidates: Rows
) -> Matrix:
    out = np.zeros((len(candidates), WIDTH), np.float32)
    if inputs is None:
        return out
    end = np.cumsum(sizes)
    for i, group in enumerate(range(groups.start, groups.stop)):
        rows = slice(int(end[i] - sizes[i]), int(end[i]))
        taken = candidates[rows]
        user = None if inputs.user_embeddings is None else inputs.user_embeddings[group]
        out[rows] = inputs.affinity.features(user, inputs.item_embeddings[taken], inputs.history[group], taken)
    return out


def _blocks(group_sizes: npt.NDArray[np.integer]) -> Iterator[tuple[slice, slice]]:
    """Runs of whole requests of about `_BLOCK_ROWS` rows: their groups and their rows."""
    ends = np.concatenate(([0], np.cumsum(group_sizes)))
    group = 0
    while group < len(group_sizes):
        stop = int(np.searchsorted(ends, ends[group] + _BLOCK_ROWS, side="right")) - 1
        stop = min(max(stop, group + 1), len(group_sizes))
        yield slice(group, stop), slice(int(ends[group]), int(ends[stop]))
        group = stop
