"""The point-in-time set: 1,000,000 rows of more than 200 features over 120 daily snapshots, with the views' TTL.

    python tests/bench/point_in_time.py [--rows N] [--keep FOLDER]

Every figure is measured in a process of its own, whose peak resident memory is reported with it. Prints a table and
writes build/reports/point_in_time.json.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))

from feature_world import START_US, WorldSize, make_world

from serving.config import FeatureSettings, SieveConfig, SqliteOnlineStore, Vocabulary
from serving.features.spec import DAY_US, film_features

GIB = 2**30
SIZE = WorldSize()
FEATURES = film_features(Vocabulary())
SETTINGS = FeatureSettings.model_validate({})
FEAST_ROWS = (100_000, 300_000)


def main() -> None:
    """Runs every measurement, prints the table and writes the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="folder of snapshots to reuse")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(MEASURES[arguments.only](arguments.root, arguments.rows) | {"peak_bytes": peak_bytes()}))
        return
    root = arguments.keep or Path(tempfile.mkdtemp(prefix="point-in-time-"))
    try:
        report = rows_of_report(root, arguments.rows)
    finally:
        if not arguments.keep:
            shutil.rmtree(root)
    path = Path("build/reports/point_in_time.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1))
    for row in report:
        met = {True: "met", False: "MISSED", None: ""}[row["met"]]
        target = "" if row["target"] is None else f"target {row['target']:g}"
        print(f"{row['name']:<58} {row['value']:>10.2f} {row['unit']:<5} {target:<12} {met}")


def rows_of_report(root: Path, rows: int) -> list[dict[str, Any]]:
    """One row per figure."""
    how = f"python tests/bench/point_in_time.py --rows {rows}; {os.cpu_count()} CPUs"
    out: list[dict[str, Any]] = []

    def add(name: str, value: float, unit: str, target: float | None = None) -> None:
        met = None if target is None else value <= target
        out.append({"name": name, "value": value, "unit": unit, "target": target, "met": met, "how": how})

    built = measure("snapshots", root, rows)
    days, users, items = built["days"], SIZE.users, SIZE.items
    add(f"{days} snapshots of {users:,} users and {items:,} items", built["seconds"], "s", 60)
    lean = measure("lean", root, rows)
    add(f"{rows:,} rows x {len(FEATURES.names)} features", lean["seconds"], "s", 120)
    add("  peak memory", lean["peak_bytes"] / GIB, "GiB", 8)
    floor = measure("floor", root, rows)
    add(f"floor: DuckDB's ASOF JOIN alone, {rows:,} rows, both views", floor["seconds"], "s")
    add("  peak memory", floor["peak_bytes"] / GIB, "GiB")
    feast = measure("asof_store", root, rows)
    add(f"get_historical_features, as-of store, {rows:,} rows", feast["seconds"], "s")
    add("  peak memory", feast["peak_bytes"] / GIB, "GiB")
    for count in FEAST_ROWS:
        own = measure("feast_duckdb", root, count)
        add(f"get_historical_features, Feast's DuckDB store, {count:,} rows", own["seconds"], "s")
        add("  peak memory", own["peak_bytes"] / GIB, "GiB")
    return out


def measure(name: str, root: Path, rows: int) -> dict[str, Any]:
    """Runs one measurement in a process of its own."""
    command = [sys.executable, __file__, "--only", name, "--root", str(root), "--rows", str(rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def build(root: Path, rows: int) -> dict[str, Any]:
    """Snapshots of the whole history, from scratch."""
    from training.features.snapshots import USER_STATS, build_snapshots, snapshot_days

    config = feature_config(root)
    connection = make_world(SIZE)
    started = time.perf_counter()
    build_snapshots(connection, config.feature_store, FEATURES, SETTINGS)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "days": len(snapshot_days(config.feature_store / USER_STATS))}


def requests(rows: int) -> tuple[pa.Array, pa.Array, np.ndarray]:
    """Random users, items and times over the whole history."""
    rng = np.random.default_rng(7)
    users = pa.array([f"u{i:07d}" for i in range(SIZE.users)])
    items = pa.array([f"i{i:07d}" for i in range(SIZE.items)])
    at = START_US + rng.integers(2 * DAY_US, SIZE.days * DAY_US, rows)
    user = pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, SIZE.users, rows).astype(np.int32)), users)
    item = pa.DictionaryArray.from_arrays(pa.array(rng.integers(0, SIZE.items, rows).astype(np.int32)), items)
    return user, item, at


def lean(root: Path, rows: int) -> dict[str, Any]:
    """The training assembler: both views, context and pair features, no affinity."""
    from training.features.training_set import FeatureReader, Requests, assemble

    user, item, at = requests(rows)
    zeros = np.zeros(rows, np.int64)
    reader = FeatureReader(feature_config(root).feature_store, FEATURES, SETTINGS)
    started = time.perf_counter()
    matrix = assemble(
        reader,
        Requests(user, at, zeros, zeros),
        np.ones(rows, np.int64),
        np.asarray(item.indices),
        item.dictionary.to_pylist(),
    )
    seconds = time.perf_counter() - started
    assert matrix.shape == (rows, len(FEATURES.names))
    assert not np.isnan(matrix).any()
    return {"seconds": seconds}


def floor(root: Path, rows: int) -> dict[str, Any]:
    """DuckDB's ASOF JOIN of the entities with each packed view, counted and nothing else."""
    import duckdb

    user, item, at = requests(rows)
    store = feature_config(root).feature_store
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    started = time.perf_counter()
    for ids, view, key, field in (
        (user, "user_stats", "user_id", "user_values"),
        (item, "item_stats", "item_id", "item_values"),
    ):
        connection.register("wanted", pa.table({"id": ids.cast(pa.string()), "t": at}))
        connection.sql(
            f"""SELECT sum(len(s.{field})), sum(s.{field}[1]) FROM (
                    SELECT id, make_timestamptz(t) AS t FROM wanted) w
                ASOF JOIN (SELECT * FROM read_parquet('{store}/{view}/day=*.parquet')) s
                ON w.id = s.{key} AND w.t >= s.event_timestamp"""
        ).fetchall()
    return {"seconds": time.perf_counter() - started}


def asof_store(root: Path, rows: int) -> dict[str, Any]:
    """Feast's get_historical_features over our store, on-demand views included."""
    from training.features.repository import open_store

    return historical(open_store(registered(root)), rows)


def feast_duckdb(root: Path, rows: int) -> dict[str, Any]:
    """The same call over the store that comes with Feast."""
    from feast import FeatureStore

    from training.features.repository import repo_config

    settings = repo_config(registered(root))
    settings = type(settings)(
        project=settings.project,
        provider="local",
        registry=settings.registry.model_dump(),
        offline_store={"type": "duckdb"},
        online_store=settings.online_store.model_dump(),
        entity_key_serialization_version=3,
        repo_path=root,
    )
    return historical(FeatureStore(config=settings), rows)


def historical(store: Any, rows: int) -> dict[str, Any]:
    """Seconds that the ranker's service takes for this many rows."""
    import pandas as pd

    user, item, at = requests(rows)
    entities = pd.DataFrame(
        {
            "user_id": user.to_pylist(),
            "item_id": item.to_pylist(),
            "event_timestamp": pd.to_datetime(at, unit="us", utc=True),
            "time_us": at,
            "device": "tv",
            "country": "US",
        }
    )
    service = store.get_feature_service("ranker_v1")
    started = time.perf_counter()
    table = store.get_historical_features(entities, features=service).to_arrow()
    seconds = time.perf_counter() - started
    assert table.num_rows == rows
    return {"seconds": seconds}


def registered(root: Path) -> SieveConfig:
    """The configuration, with its definitions applied."""
    from training.features.repository import apply_definitions

    config = feature_config(root)
    if not (config.feature_store / "registry.db").exists():
        apply_definitions(config)
    return config


def feature_config(root: Path) -> SieveConfig:
    """A configuration that keeps everything under `root`."""
    return SieveConfig(root=root, online_store=SqliteOnlineStore(path=root / "online.db"))


MEASURES: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "snapshots": build,
    "lean": lean,
    "floor": floor,
    "asof_store": asof_store,
    "feast_duckdb": feast_duckdb,
}

if __name__ == "__main__":
    main()
