"""Features of a user and an item together: elementwise arithmetic on their filled rows and the context.

Only `+ - * /`, `abs` and sums over a row's own columns in a fixed order are used, so a row's values do not
depend on the other rows, on their number or on the machine.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from serving.features.spec import DAYPARTS, DEVICES, WINDOWS_DAYS, FeatureSet, slug

Matrix = npt.NDArray[np.float32]


class _Columns:
    """Where the inputs of the pair features stand in their views."""

    def __init__(self, features: FeatureSet) -> None:
        genres = [slug(genre) for genre in features.vocabulary.genres]
        shares = [f"user_genre_{g}_{w}d" for g in genres for w in WINDOWS_DAYS]
        self.user_genres = features.columns(shares)  # by genre, then by window
        self.item_genres = features.columns([f"item_genre_{g}" for g in genres])
        self.user_dayparts = features.columns([f"user_daypart_{part}" for part in DAYPARTS])
        self.item_dayparts = features.columns([f"item_daypart_{part}" for part in DAYPARTS])
        self.context_dayparts = features.columns([f"context_daypart_{part}" for part in DAYPARTS])
        self.user_devices = features.columns([f"user_device_{device}" for device in DEVICES])
        self.context_devices = features.columns([f"context_device_{device}" for device in DEVICES])
        self.position = features.position


@lru_cache(maxsize=8)
def _columns(features: FeatureSet) -> _Columns:
    return _Columns(features)


def pair_features(feature_set: FeatureSet, user: Matrix, item: Matrix, context: Matrix) -> Matrix:
    """float32[R, Dp]: the pair view, row by row.

    `user` is float32[R or 1, Du], `item` float32[R, Di], `context` float32[R or 1, Dc], all with missing values
    already replaced by their defaults; one row of user or context stands for every row of `item`.
    """
    at = _columns(feature_set)
    position = at.position

    def of(rows: Matrix, name: str) -> Matrix:
        return rows[:, position[name]]

    genres = _columns_first(item, at.item_genres)
    shares = _columns_first(user, at.user_genres).reshape(len(genres), len(WINDOWS_DAYS), len(user))
    weekend = of(context, "context_weekend")
    item_weekend = of(item, "item_weekend_share")
    now = _columns_first(context, at.context_dayparts)
    device = _columns_first(context, at.context_devices)
    new_genres = _dot(shares[:, -1] <= 0, genres)
    values = (
        *_dot(shares, genres),
        new_genres / np.maximum(of(item, "item_genre_count"), np.float32(1)),
        np.abs(of(item, "item_year") - of(user, "user_mean_year_90d")),
        of(item, "item_year") - of(user, "user_mean_year_30d"),
        np.abs(of(item, "item_duration_min") - of(user, "user_mean_duration_90d")),
        of(user, "user_age") - of(item, "item_maturity"),
        _dot(_columns_first(user, at.user_dayparts), now),
        _dot(_columns_first(item, at.item_dayparts), now),
        _dot(_columns_first(user, at.user_devices), device),
        weekend * item_weekend + (1 - weekend) * (1 - item_weekend),
        of(item, "item_completion_rate_30d") - of(user, "user_completion_rate_30d"),
        of(item, "item_total_mean_rating") - of(user, "user_total_mean_rating"),
        of(item, "item_popularity_7d") * of(user, "user_ctr_30d"),
    )
    out = np.empty((len(item), len(values)), np.float32)
    for column, value in enumerate(values):
        out[:, column] = value
    return out


def _columns_first(rows: Matrix, columns: list[int]) -> Matrix:
    return np.ascontiguousarray(rows[:, columns].T)


def _dot(left: npt.NDArray[np.generic], right: Matrix) -> Matrix:
    """Sums `left[k] * right[k]` over k, one k after the other.

    A reduction by numpy adds in another order for one row than for a million; this does not.
    """
    total: Matrix = np.multiply(left[0], right[0], dtype=np.float32)
    for k in range(1, len(right)):
        total = total + left[k] * right[k]
    return total
