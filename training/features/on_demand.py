"""Feast's on-demand views over packed columns: frames in and out of the functions that serve."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from serving.config import Vocabulary
from serving.features.assembly import defaults_of, fill_missing
from serving.features.context import context_features, country_codes, device_codes
from serving.features.online import STATS_FIELD
from serving.features.pair import pair_features
from serving.features.spec import Feature, film_features
from training.features.snapshot_rows import ITEM_FIELD

CONTEXT_FIELD = "context_values"
PAIR_FIELD = "pair_values"


def context_frame(inputs: pd.DataFrame, vocabulary: Vocabulary) -> pd.DataFrame:
    """One packed `context_values` per row of `time_us`, `device` and `country`."""
    return pd.DataFrame({CONTEXT_FIELD: list(_context(inputs, vocabulary))}, index=inputs.index)


def pair_frame(inputs: pd.DataFrame, vocabulary: Vocabulary) -> pd.DataFrame:
    """One packed `pair_values` per row of the packed user and item views and the request."""
    features = film_features(vocabulary)
    user = _filled(inputs[STATS_FIELD], features.user)
    item = _filled(inputs[ITEM_FIELD], features.item)
    values = pair_features(features, user, item, _context(inputs, vocabulary))
    return pd.DataFrame({PAIR_FIELD: list(values)}, index=inputs.index)


def _context(inputs: pd.DataFrame, vocabulary: Vocabulary) -> npt.NDArray[np.float32]:
    features = film_features(vocabulary)
    return context_features(
        features,
        inputs["time_us"].to_numpy(np.int64),
        device_codes(inputs["device"].tolist()),
        country_codes(inputs["country"].tolist(), features),
    )


def _filled(column: pd.Series, features: Sequence[Feature]) -> npt.NDArray[np.float32]:
    # a null is no row at that time; Feast probes a transformation with lists of one value
    missing = np.full(len(features), np.nan, np.float32)
    rows = [value if value is not None and len(value) == len(features) else missing for value in column]
    stacked = np.stack(rows).astype(np.float32, copy=False) if rows else np.empty((0, len(features)), np.float32)
    return fill_missing(stacked, defaults_of(features))[0]
