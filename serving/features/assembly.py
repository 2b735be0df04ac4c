"""The ranker's matrix: rows of the views side by side, in the manifest's order, defaults where missing."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from serving.config import FeatureSettings
from serving.features.context import context_features, country_codes, device_codes
from serving.features.pair import pair_features
from serving.features.spec import DAY_US, Feature, FeatureSet
from serving.features.user_state import UserState

Matrix = npt.NDArray[np.float32]


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
        rows: Matrix = context_features(
            self.features,
            np.array([time_us], np.int64),
            device_codes([device]),
            country_codes([country], self.features),
        )
        vector: Matrix = rows[0]
        return vector

    def matrix(self, user: Matrix, context: Matrix, item: Matrix, affinity: Matrix) -> Matrix:
        """float32[C, F] of one request, every row computed as if it were alone.

        `user` is float32[Du] and `context` float32[Dc], or one row per candidate of each; `item` is float32[C, Di]
        where NaN takes the default; `affinity` is float32[C, Da]. No candidates give float32[0, F].
        """
        user = np.atleast_2d(user)
        context = np.atleast_2d(context)
        item, _ = fill_missing(item, self.item_defaults)
        pair = pair_features(self.features, user, item, context)
        out = np.empty((len(item), len(self.features.names)), np.float32)
        column = 0
        for block in (user, item, context, pair, affinity):
            out[:, column : column + block.shape[1]] = block
            column += block.shape[1]
        return out
