"""The definitions of `feature_repo/` on Feast's Ray store and engine: what the embedded ones give, bit for bit."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("codeflare_sdk", reason="feast[ray] has an environment of its own: make feast-ray-test")

from feast import FileSource
from recent_world import ITEMS, USERS, Recent, fill_lake
from typer.testing import CliRunner

from serving.config import RedisOnlineStore, SieveConfig
from serving.errors import ConfigError, DataError
from serving.features.online import (
    HISTORY_FIELDS,
    HISTORY_VIEW,
    STATS_FIELD,
    STATS_VIEW,
    USER_KEY,
    SqliteUserReader,
    open_reader,
)
from serving.features.spec import DAY_US
from training.commands.features import app
from training.features.materialize import MaterializeReport, materialize
from training.features.repository import RANKER_SERVICE, apply_definitions, open_store
from training.features.snapshots import snapshot_days, snapshot_path
from training.jobs.ray_feature_store import RayAsofOfflineStore

STORED = ("user_values", "item_values")
ON_DEMAND = ("context_values", "pair_values")


@dataclass
class Side:
    config: SieveConfig
    report: MaterializeReport
    store: Any


@pytest.fixture(scope="module")
def recent(tmp_path_factory: pytest.TempPathFactory) -> Recent:
    return fill_lake(tmp_path_factory.mktemp("recent"))


@pytest.fixture(scope="module")
def redis_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisOnlineStore]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [server, "--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert any("Ready to accept" in line for line in iter(process.stdout.readline, ""))
        yield RedisOnlineStore(type="redis", url=f"redis://127.0.0.1:{port}/1")
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def sides(recent: Recent, redis_store: RedisOnlineStore) -> dict[str, Side]:
    sides = {}
    at_us = recent.end_us + 3_600_000_000
    for name, engine, store in (("embedded", "embedded", None), ("ray", "ray", None), ("redis", "ray", redis_store)):
        config = recent.config(name, engine, store)
        apply_definitions(config)
        sides[name] = Side(config, materialize(config, recent.lake.connect(), at_us), open_store(config))
    return sides


def entity_rows(recent: Recent, rows: int = 3_000) -> pd.DataFrame:
    """Requests at any microsecond of the world, some at a snapshot's midnight or beside it, some before the first."""
    rng = np.random.default_rng(3)
    time_us = rng.integers(recent.end_us - 15 * DAY_US, recent.end_us + 6 * DAY_US, rows)
    time_us[::7] = time_us[::7] // DAY_US * DAY_US + rng.integers(-1, 2, len(time_us[::7]))
    return pd.DataFrame(
        {
            "user_id": rng.choice(USERS, rows),
            "item_id": rng.choice(ITEMS, rows),
            "event_timestamp": pd.to_datetime(time_us, unit="us", utc=True),
            "time_us": time_us,
            "device": rng.choice(["tv", "mobile"], rows),
            "country": rng.choice(["US", "DE"], rows),
        }
    )


def test_the_joined_training_set_has_the_same_bits_in_the_same_order(recent: Recent, sides: dict[str, Side]) -> None:
    entities = entity_rows(recent)
    stores = [sides[name].store for name in ("embedded", "ray")]
    embedded, by_ray = (
        store.get_historical_features(entities, features=store.get_feature_service(RANKER_SERVICE)).to_arrow()
        for store in stores
    )

    assert by_ray["time_us"].to_pylist() == embedded["time_us"].to_pylist() == entities["time_us"].tolist()
    for column in STORED:
        ours, theirs = (t[column].combine_chunks() for t in (embedded, by_ray))
        assert ours.is_null().to_pylist() == theirs.is_null().to_pylist()
        assert 300 < ours.null_count < len(entities) - 300
        assert bits(ours) == bits(theirs)
    for column in ON_DEMAND:
        assert bits(embedded[column].combine_chunks()) == bits(by_ray[column].combine_chunks())


def bits(column: pa.Array) -> bytes:
    return np.asarray(column.drop_null().flatten(), np.float32).tobytes()


def test_a_joined_set_can_be_written_block_by_block(recent: Recent, sides: dict[str, Side], tmp_path: Path) -> None:
    entities = entity_rows(recent, 40_000)
    features = ["user_stats:user_values"]
    job = sides["ray"].store.get_historical_features(entities, features=features)
    dataset = job.to_ray_dataset()
    dataset.write_parquet(str(tmp_path / "set"))

    rows = pq.read_table(tmp_path / "set").sort_by("__row")
    whole = sides["embedded"].store.get_historical_features(entities, features=features).to_arrow()
    assert len(list((tmp_path / "set").glob("*.parquet"))) > 1
    assert rows["time_us"].to_pylist() == entities["time_us"].tolist()
    assert bits(rows["user_values"].combine_chunks()) == bits(whole["user_values"].combine_chunks())


@pytest.mark.parametrize("other", ["ray", "redis"])
def test_what_is_materialised_is_the_same_for_every_user(sides: dict[str, Side], other: str) -> None:
    embedded, by_ray = (online_rows(sides[name]) for name in ("embedded", other))

    assert by_ray == embedded
    assert sum(row[0] is not None for row in embedded) > 70
    assert sum(bool(row[1]) for row in embedded) > 60
    assert sides["embedded"].report.item_table.name == sides[other].report.item_table.name


def online_rows(side: Side) -> list[Any]:
    """Each user's statistics as bytes, and the history's columns."""
    features = [f"{STATS_VIEW}:{STATS_FIELD}", *(f"{HISTORY_VIEW}:{name}" for name in HISTORY_FIELDS)]
    found = side.store.get_online_features(features, entity_rows=[{USER_KEY: user} for user in USERS]).to_dict()
    stats = [None if row is None else np.array(row, np.float32).tobytes() for row in found[STATS_FIELD]]
    return list(zip(stats, *(found[name] for name in HISTORY_FIELDS), strict=True))


def test_the_serving_reader_finds_what_ray_wrote(sides: dict[str, Side]) -> None:
    embedded, by_ray = (open_reader(sides[name].config.online_store) for name in ("embedded", "ray"))
    for user in USERS:
        ours, theirs = embedded.read(user), by_ray.read(user)
        assert (ours is None) == (theirs is None) == (user == "nobody")
        if ours is not None and theirs is not None:
            assert ours.stats_time_us == theirs.stats_time_us
            assert list(ours.history_items) == list(theirs.history_items)


def test_a_user_whom_the_newest_day_lacks_keeps_the_row_of_an_older_one(sides: dict[str, Side], tmp_path: Path) -> None:
    side, store = sides["ray"], tmp_path / STATS_VIEW
    shutil.copytree(side.config.feature_store / STATS_VIEW, store)
    newest = max(snapshot_days(store))
    rows = pq.read_table(snapshot_path(store, newest))
    pq.write_table(rows.slice(5), snapshot_path(store, newest))
    source = FileSource(path=str(store / "day=*.parquet"), timestamp_field="event_timestamp")
    end = datetime.fromtimestamp(newest * DAY_US / 1e6, UTC)

    job = RayAsofOfflineStore.pull_latest_from_table_or_query(
        side.store.config,
        source,
        [USER_KEY],
        [STATS_FIELD],
        "event_timestamp",
        "created",
        end - timedelta(days=2),
        end,
    )

    found = {row[USER_KEY]: row["event_timestamp"] for _, row in job.to_df().iterrows()}
    absent = rows[USER_KEY].to_pylist()[:5]
    assert len(found) == rows.num_rows
    assert {user for user, stamp in found.items() if stamp < end} == set(absent)
    assert {found[user] for user in absent} == {end - timedelta(days=1)}


def test_rows_that_feasts_engine_drops_by_the_wall_clock_are_an_error(recent: Recent) -> None:
    config = recent.config("ray", "ray").model_copy(update={"root": recent.root / "past"})
    apply_definitions(config)

    with pytest.raises(DataError, match="did not write everything") as caught:
        materialize(config, recent.lake.connect(), recent.end_us - 5 * DAY_US)

    assert any("0 of" in problem and "user_stats" in problem for problem in caught.value.problems)


def test_the_commands_run_on_ray_by_configuration_alone(recent: Recent, tmp_path: Path) -> None:
    root = tmp_path / "var"
    shutil.copytree(recent.lake.root, root / "lake")
    settings = tmp_path / "sieve.yaml"
    settings.write_text("online_store: {type: sqlite, path: online.db}\ntraining: {feature_engine: {type: ray}}\n")

    applied = CliRunner().invoke(app, ["apply"], obj=settings)
    materialized = CliRunner().invoke(app, ["materialize"], obj=settings)

    assert (applied.exit_code, materialized.exit_code) == (0, 0), (applied.output, materialized.output)
    assert "FeatureService ranker_v1" in applied.output
    assert "80 users" in materialized.output
    state = SqliteUserReader(tmp_path / "online.db").read(USERS[0])
    assert state is not None
    assert state.stats is not None


def test_a_mistake_in_the_engine_is_named(recent: Recent) -> None:
    config = recent.config("ray", "ray").model_copy(update={"training": {"feature_engine": {"type": "spark"}}})

    with pytest.raises(ConfigError) as caught:
        open_store(config)

    assert any("feature_engine" in problem for problem in caught.value.problems)
