"""Stored views: daily snapshots of users and items, and the users' fresh history."""

from datetime import timedelta

from entities import item, user
from feast import FeatureView, Field, FileSource
from feast.types import Array, Float32, Int64, String

from serving.features.online import HISTORY_VIEW, STATS_FIELD, STATS_VIEW
from serving.features.spec import film_features
from training.features.asof_store import FEATURES_TAG
from training.features.repository import active_config
from training.features.snapshot_rows import ITEM_FIELD
from training.features.snapshots import ITEM_STATS

config = active_config(__file__)
features = film_features(config.vocabulary)
ttl = timedelta(days=config.features.snapshot_ttl_days)


def source(view: str, files: str) -> FileSource:
    return FileSource(
        name=f"{view}_files",
        path=str(config.feature_store.resolve() / view / files),
        timestamp_field="event_timestamp",
        created_timestamp_column="created",
    )


def names(view: str) -> dict[str, str]:
    return {FEATURES_TAG: ",".join(feature.name for feature in features.views[view])}


user_stats = FeatureView(
    name=STATS_VIEW,
    description="What a user did over windows of days, stamped at midnight UTC.",
    entities=[user],
    ttl=ttl,
    schema=[Field(name=STATS_FIELD, dtype=Array(Float32))],
    tags=names("user"),
    source=source(STATS_VIEW, "day=*.parquet"),
)
item_stats = FeatureView(
    name=ITEM_STATS,
    description="What was done with an item over windows of days, stamped at midnight UTC. Served from the item table.",
    entities=[item],
    ttl=ttl,
    schema=[Field(name=ITEM_FIELD, dtype=Array(Float32))],
    tags=names("item"),
    source=source(ITEM_STATS, "day=*.parquet"),
    online=False,
)
user_history = FeatureView(
    name=HISTORY_VIEW,
    description="A user's last interactions, one per item, oldest first, and what was shown to them in vain.",
    entities=[user],
    ttl=timedelta(0),
    schema=[
        Field(name="items", dtype=Array(String)),
        Field(name="times_us", dtype=Array(Int64)),
        Field(name="grades", dtype=Array(Float32)),
        Field(name="seen", dtype=Array(String)),
        Field(name="shown", dtype=Array(String)),
        Field(name="shown_counts", dtype=Array(Float32)),
    ],
    source=source(HISTORY_VIEW, "current.parquet"),
)
