"""The ranker's matrix: rows of the views side by side, in the manifest's order, defaults where missing."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serving.config import FeatureSettings
from serving.features.context import context_vector
from serving.features.pair import pair_features
from serving.features.scratch import Scratch
from serving.features.spec import DAY_US, Feature, FeatureSet
from serving.features.user_state import UserState

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]

REQUEST_VIEWS = ("user", "context")
"""What all candidates of a request share."""
CANDIDATE_VIEWS = ("item", "pair", "affinity")
"""What each candidate has to itself."""


def defaults_of(features: Sequence[Feature]) -> npt.NDArray[np.float32]:
    """float32[D]: each feature's default."""
    return np.array([feature.default for feature in features], np.float32)


def fill_missing(values: Matrix, defaults: npt.NDArray[np.float32]) -> tuple[Matrix, int]:
    """Replaces NaN in float32[..., D] by the column's default; also returns how many were replaced."""
    missing = np.isnan(values)
    count = int(np.count_nonzero(missing))
    return (np.where(missing, defaults, values) if count else values), count


class Assembler:
    """Puts a request's features together exactly as training does.

    `features` names the columns; `settings` says how old a daily snapshot may be.
    """

    def __init__(self, features: FeatureSet, settings: FeatureSettings | None = None) -> None:
        settings = settings or FeatureSettings.model_validate({})
        self.features = features
        self.user_defaults = defaults_of(features.user)
        self.item_defaults = defaults_of(features.item)
        self.candidate_width = sum(len(features.views[view]) for view in CANDIDATE_VIEWS)
        self._default_bits = self.item_defaults.view(np.int32)[None]
        self._columns = _columns(features)
        self._scratch = Scratch()
        self._lag_us = settings.snapshot_lag_s * 1_000_000
        self._ttl_us = settings.snapshot_ttl_days * DAY_US

    def is_readable(self, stamp_us: int, now_us: int) -> bool:
        """Whether a snapshot stamped `stamp_us` may be read at `now_us`: past its lag, inside its TTL."""
        return 0 <= now_us - self._lag_us - stamp_us < self._ttl_us

    def user_vector(self, state: UserState | None, now_us: int) -> tuple[Matrix, int]:
        """float32[Du] without NaN, and how many values a default stands in for.

        An unknown user, one without statistics, or statistics outside their lag and TTL give the defaults alone.

        Raises:
            ValueError: the stored row has another number of features than the feature set.
        """
        if state is None or state.stats is None or state.stats_time_us is None:
            return self.user_defaults.copy(), len(self.user_defaults)
        if len(state.stats) != len(self.user_defaults):
            problem = f"{len(state.stats)} stored user features, {len(self.user_defaults)} expected"
            raise ValueError(f"{problem}: materialise the features anew")
        if not self.is_readable(state.stats_time_us, now_us):
            return self.user_defaults.copy(), len(self.user_defaults)
        return fill_missing(state.stats, self.user_defaults)

    def context_vector(self, time_us: int, device: str | None = None, country: str | None = None) -> Matrix:
        """float32[Dc] of one request."""
        return context_vector(self.features, time_us, device, country)

    def matrix(self, user: Matrix, context: Matrix, item: Matrix, affinity: Matrix) -> Matrix:
        """float32[C, F] of one request, every row computed as if it were alone.

        `user` is float32[Du] and `context` float32[Dc], or one row per candidate of each; `item` is float32[C, Di]
        where NaN takes the default; `affinity` is float32[C, Da]. No candidates give float32[0, F].
        """
        out = np.empty((len(item), len(self.features.names)), np.float32)
        columns = self._columns
        user, context = np.atleast_2d(user), np.atleast_2d(context)
        out[:, columns["user"]], out[:, columns["context"]] = user, context
        self._fill(out[:, columns["item"]], item)
        pair_features(self.features, user, out[:, columns["item"]], context, out[:, columns["pair"]])
        out[:, columns["affinity"]] = affinity
        return out

    def candidates(self, count: int) -> Matrix:
        """float32[C, Dc] for the features that a candidate has to itself: `[item | pair | affinity]`.

        Its contents are left over from before, and it is this thread's only until the next call.
        """
        shape = (count, self.candidate_width)
        candidates: Matrix = self._scratch.take("candidates", shape)
        return candidates

    def affinity_of(self, candidates: Matrix) -> Matrix:
        """float32[C, Da]: where the affinity view stands in `candidates`."""
        return candidates[:, -len(self.features.affinity) :]

    def fill_candidates(self, out: Matrix, user: Matrix, context: Matrix, table: Matrix, rows: Rows) -> int:
        """Fills all of `out` float32[C, Dc] but its affinity view; returns how many item values were missing.

        `user` is float32[Du], `context` float32[Dc]; `table` float32[M, Di] is the item table's features, of which
        rows int32[C] are read.
        """
        width = len(self.features.item)
        item, pair = out[:, :width], out[:, width : width + len(self.features.pair)]
        missing = self.fill_items(item, table, rows)
        pair_features(self.features, user[None], item, context[None], pair)
        return missing

    def fill_items(self, out: Matrix, table: Matrix, rows: Rows) -> int:
        """Fills `out` float32[C, Di] with rows int32[C] of `table` float32[M, Di]; returns how many were missing."""
        stored = self._scratch.take("stored", (len(rows), table.shape[1]))
        table.take(rows, axis=0, out=stored, mode="clip")
        return self._fill(out, stored)

    def join(self, request: Matrix, candidates: Matrix) -> Matrix:
        """float32[C, F]: a matrix of its own, from the request's features float32[Dq] and those of each candidate."""
        out = np.empty((len(candidates), len(self.features.names)), np.float32)
        users, items, columns = len(self.features.user), len(self.features.item), self._columns
        out[:, columns["user"]], out[:, columns["context"]] = request[:users], request[users:]
        out[:, columns["item"]] = candidates[:, :items]
        out[:, columns["pair"].start :] = candidates[:, items:]
        return out

    def _fill(self, out: Matrix, item: Matrix) -> int:
        """Copies `item` into `out`, both float32[C, Di], with defaults where it is NaN; returns how many.

        By bits, because a masked copy branches on every value, and on contiguous memory, because numpy starts anew
        on every row of any other.
        """
        shape = item.shape
        missing = np.isnan(item, out=self._scratch.take("missing", shape, np.bool_))
        all_ones = self._scratch.take("all_ones", shape, np.int32)
        all_ones[:] = np.negative(missing.view(np.int8), out=self._scratch.take("minus_one", shape, np.int8))
        bits = np.ascontiguousarray(item).view(np.int32)
        filled = np.bitwise_xor(bits, self._defaults(len(item)), out=self._scratch.take("filled", shape, np.int32))
        filled &= all_ones
        filled ^= bits
        out[:] = filled.view(np.float32)
        return int(np.count_nonzero(missing))

    def _defaults(self, count: int) -> npt.NDArray[np.int32]:
        """int32[C, Di]: the bits of the item defaults, once for every row."""
        bits = self._default_bits
        if len(bits) < count:
            bits = self._default_bits = np.tile(self.item_defaults.view(np.int32), (count, 1))
        return bits[:count]


def _columns(features: FeatureSet) -> dict[str, slice]:
    """Where each view stands in the matrix."""
    columns, start = {}, 0
    for view, members in features.views.items():
        columns[view] = slice(start, start + len(members))
        start += len(members)
    return columns
