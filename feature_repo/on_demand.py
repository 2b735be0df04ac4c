"""Views computed from a request and the stored views, by the functions that serving calls."""

import pandas as pd
from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float32, Int64, String
from views import config, item_stats, names, user_stats

from training.features.on_demand import CONTEXT_FIELD, PAIR_FIELD

request = RequestSource(
    name="request",
    schema=[
        Field(name="time_us", dtype=Int64),
        Field(name="device", dtype=String),
        Field(name="country", dtype=String),
    ],
)
vocabulary_json = config.vocabulary.model_dump_json()


# Feast stores these functions by value: all that they need is in their arguments and imports
@on_demand_feature_view(
    sources=[request],
    schema=[Field(name=CONTEXT_FIELD, dtype=Array(Float32))],
    tags=names("context"),
    mode="pandas",
)
def context(inputs: pd.DataFrame, vocabulary: str = vocabulary_json) -> pd.DataFrame:
    """The moment and place of a request."""
    from serving.config import Vocabulary
    from training.features.on_demand import context_frame

    return context_frame(inputs, Vocabulary.model_validate_json(vocabulary))


@on_demand_feature_view(
    sources=[user_stats, item_stats, request],
    schema=[Field(name=PAIR_FIELD, dtype=Array(Float32))],
    tags=names("pair"),
    mode="pandas",
)
def pair(inputs: pd.DataFrame, vocabulary: str = vocabulary_json) -> pd.DataFrame:
    """A user and an item together."""
    from serving.config import Vocabulary
    from training.features.on_demand import pair_frame

    return pair_frame(inputs, Vocabulary.model_validate_json(vocabulary))
