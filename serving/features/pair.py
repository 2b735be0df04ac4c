"""Features of a user and an item together: elementwise arithmetic on their filled rows and the context.

Only `+ - * /`, `abs` and sums over a row's own columns in a fixed order are used, so a row's values do not
depend on the other rows, on their number or on the machine.

Legend: R rows, G genres, W windows.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from serving.features.scratch import Scratch
from serving.features.spec import DAYPARTS, DEVICES, WINDOWS_DAYS, FeatureSet, slug

Matrix = npt.NDArray[np.float32]

_SCRATCH = Scratch()


_ORDER = (
    *(f"genre_match_{w}d" for w in WINDOWS_DAYS), "genre_new", "year_distance", "year_offset", "duration_distance",
    "age_margin", "user_daypart", "item_daypart", "user_device", "weekend_match", "completion_gap", "rating_gap",
    "popularity_activity",
)  # fmt: skip
_ROW = {name: row for row, name in enumerate(_ORDER)}
_ITEM = (
    "year", "year", "duration_min", "maturity", "completion_rate_30d", "total_mean_rating", "popularity_7d",
    "weekend_share", "genre_count",
)  # fmt: skip
_USER = (
    "mean_year_90d", "mean_year_30d", "mean_duration_90d", "age", "completion_rate_30d", "total_mean_rating",
    "ctr_30d",
)  # fmt: skip
"""The user's side of the first of `_ITEM`."""


class _Columns:
    """Where the inputs of the pair features stand in their views."""

    def __init__(self, features: FeatureSet) -> None:
        genres = [slug(genre) for genre in features.vocabulary.genres]
        shares = [f"user_genre_{g}_{w}d" for g in genres for w in WINDOWS_DAYS]
        self.user_genres = np.array(features.columns(shares))  # by genre, then by window
        self.item_genres = _slice(features.columns([f"item_genre_{g}" for g in genres]))
        self.user_dayparts = _slice(features.columns([f"user_daypart_{part}" for part in DAYPARTS]))
        self.item_dayparts = _slice(features.columns([f"item_daypart_{part}" for part in DAYPARTS]))
        self.context_dayparts = _slice(features.columns([f"context_daypart_{part}" for part in DAYPARTS]))
        self.user_devices = _slice(features.columns([f"user_device_{device}" for device in DEVICES]))
        self.context_devices = _slice(features.columns([f"context_device_{device}" for device in DEVICES]))
        self.weekend = features.position["context_weekend"]
        self.item = np.array(features.columns([f"item_{name}" for name in _ITEM]))
        self.user = np.array(features.columns([f"user_{name}" for name in _USER]))


@lru_cache(maxsize=8)
def _columns(features: FeatureSet) -> _Columns:
    names = tuple(feature.name.removeprefix("pair_") for feature in features.pair)
    if names != _ORDER:
        raise ValueError(f"the pair view is declared as {names}, computed as {_ORDER}")
    return _Columns(features)


def _slice(columns: list[int]) -> slice:
    if columns != list(range(columns[0], columns[0] + len(columns))):
        raise ValueError("a family's features must stand side by side")
    return slice(columns[0], columns[-1] + 1)


def pair_features(
    feature_set: FeatureSet, user: Matrix, item: Matrix, context: Matrix, out: Matrix | None = None
) -> Matrix:
    """float32[R, Dp]: the pair view, row by row.

    `user` is float32[R or 1, Du], `item` float32[R, Di], `context` float32[R or 1, Dc], all with missing values
    already replaced by their defaults; one row of user or context stands for every row of `item`. The context's
    part of the day and device are one-hot. `out`, float32[R, Dp] of any strides, is filled where it is given.
    """
    at = _columns(feature_set)
    block: Matrix = _SCRATCH.take("block", (len(_ORDER), len(item)))
    ours = item.T[at.item]
    theirs = user.T[at.user]
    _add_genres(block, at, user, item, ours[-1])
    _add_differences(block, ours, theirs)
    dayparts = context[:, at.context_dayparts]
    block[_ROW["user_daypart"]] = _chosen(user[:, at.user_dayparts], dayparts)
    block[_ROW["item_daypart"]] = _chosen(item[:, at.item_dayparts], dayparts)
    block[_ROW["user_device"]] = _chosen(user[:, at.user_devices], context[:, at.context_devices])
    weekend, share = context[:, at.weekend], ours[7]
    block[_ROW["weekend_match"]] = weekend * share + (1 - weekend) * (1 - share)
    filled = np.empty((len(item), len(_ORDER)), np.float32) if out is None else out
    filled[:] = block.T
    return filled


def _add_genres(block: Matrix, at: _Columns, user: Matrix, item: Matrix, genre_count: Matrix) -> None:
    windows, rows = len(WINDOWS_DAYS), len(item)
    genres = _SCRATCH.take("genres", (at.item_genres.stop - at.item_genres.start, 1, rows))
    genres[:, 0] = item[:, at.item_genres].T
    shares = np.empty((len(genres), windows + 1, len(user)), np.float32)
    shares[:, :windows] = user.T[at.user_genres].reshape(len(genres), windows, len(user))
    shares[:, windows] = shares[:, windows - 1] <= 0  # a genre that is new to the user
    products = np.multiply(shares, genres, out=_SCRATCH.take("products", (len(genres), windows + 1, rows)))
    # Genre after genre: numpy adds up the outer axis in its order, because a genre has more than one value.
    sums = np.add.reduce(products, axis=0, out=block[: windows + 1])
    sums[windows] /= np.maximum(genre_count, np.float32(1))


def _add_differences(block: Matrix, ours: Matrix, theirs: Matrix) -> None:
    """From `_ITEM` float32[9, R] and `_USER` float32[7, R or 1]."""
    first = _ROW["year_distance"]
    np.subtract(ours[:3], theirs[:3], out=block[first : first + 3])
    distances = block[first : first + 3 : 2]
    np.abs(distances, out=distances)
    np.subtract(theirs[3], ours[3], out=block[_ROW["age_margin"]])
    gaps = _ROW["completion_gap"]
    np.subtract(ours[4:6], theirs[4:6], out=block[gaps : gaps + 2])
    np.multiply(ours[6], theirs[6], out=block[_ROW["popularity_activity"]])


def _chosen(shares: Matrix, one_hot: Matrix) -> Matrix:
    """float32[R or 1]: of each row of `shares` the one that `one_hot` marks, 0 where it marks none."""
    place = one_hot.argmax(axis=1)
    if len(one_hot) == 1:
        only: Matrix = shares[:, place[0]] * one_hot[0, place[0]]
        return only
    rows = np.arange(len(one_hot))
    chosen: Matrix = shares[rows if len(shares) > 1 else 0, place] * one_hot[rows, place]
    return chosen
