"""Why Sieve joins by itself on Ray: what Feast's own Ray store answers. A test that fails here is good news: that guard
of `training/jobs/ray_feature_store.py` can go."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

pytest.importorskip("codeflare_sdk", reason="feast[ray] has an environment of its own: make feast-ray-test")

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.repo_config import RepoConfig
from feast.types import Float32

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def joined(root: Path, features: list[Any], asked: list[Any], offline_store: dict[str, Any]) -> list[float | None]:
    """Values of (user, time) rows by a view of (user, time, value) rows with a TTL of one day, in order of time."""
    root.mkdir()
    file = root / "rows.parquet"
    rows = pd.DataFrame(features, columns=["user_id", "event_timestamp", "value"])
    rows.astype({"value": "float32"}).to_parquet(file)
    store = FeatureStore(
        config=RepoConfig(
            project="own_join",
            provider="local",
            registry=str(root / "registry.db"),
            offline_store=offline_store,
            entity_key_serialization_version=3,
            repo_path=root,
        )
    )
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    source = FileSource(path=str(file), timestamp_field="event_timestamp", file_format=ParquetFormat())
    view = FeatureView(
        name="v", entities=[user], ttl=24 * HOUR, schema=[Field(name="value", dtype=Float32)], source=source
    )
    store.apply([user, view])
    entities = pd.DataFrame(asked, columns=["user_id", "event_timestamp"])
    answer = store.get_historical_features(entities, features=["v:value"]).to_df()
    values = answer.sort_values(["event_timestamp", "user_id"])["value"]
    return [None if pd.isna(value) else float(value) for value in values]


@pytest.fixture
def by_ray(tmp_path: Path) -> Any:
    def ask(features: list[Any], asked: list[Any], **settings: Any) -> list[float | None]:
        store = {"type": "ray", "storage_path": str(tmp_path / "staging"), **settings}
        return joined(tmp_path / "ray", features, asked, store)

    return ask


@pytest.fixture
def by_duckdb(tmp_path: Path) -> Any:
    return lambda features, asked: joined(tmp_path / "duckdb", features, asked, {"type": "duckdb"})


def test_it_reads_rows_that_are_older_than_their_ttl(by_ray: Any, by_duckdb: Any) -> None:
    features = [("a", NOON, 1.0), ("b", NOON + 30 * HOUR, 2.0)]
    asked = [("a", NOON + HOUR), ("a", NOON + 48 * HOUR)]

    assert by_duckdb(features, asked) == [1.0, None]
    assert by_ray(features, asked) == [1.0, 1.0]


def test_it_reads_a_value_from_after_the_request_within_a_second(by_ray: Any, by_duckdb: Any) -> None:
    features = [("a", NOON + timedelta(milliseconds=900), 1.0), ("b", NOON, 2.0)]
    asked = [("a", NOON + timedelta(milliseconds=100)), ("a", NOON + HOUR)]

    assert by_duckdb(features, asked) == [None, 1.0]
    assert by_ray(features, asked) == [1.0, 1.0]


def test_it_answers_equal_entities_of_one_moment_once(by_ray: Any, by_duckdb: Any) -> None:
    features = [("a", NOON, 1.0)]
    asked = [("a", NOON + HOUR), ("a", NOON + HOUR), ("a", NOON + 2 * HOUR)]

    assert by_duckdb(features, asked) == [1.0, 1.0, 1.0]
    assert by_ray(features, asked) == [1.0, 1.0]


def test_above_the_broadcast_threshold_it_finds_nothing_from_before_the_requests_hour(
    by_ray: Any, by_duckdb: Any
) -> None:
    others = [(f"{i} {'x' * 4000}", NOON, 2.0) for i in range(600)]  # more than the threshold of 1 MB
    features = [("a", NOON, 1.0), *others]
    asked = [("a", NOON + 2 * HOUR), ("a", NOON + 3 * HOUR)]

    assert by_duckdb(features, asked) == [1.0, 1.0]
    assert 1.0 not in by_ray(features, asked, broadcast_join_threshold_mb=1, window_size_for_joins="1h")
