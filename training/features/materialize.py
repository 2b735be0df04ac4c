"""Puts the newest readable features in force: snapshots built, the online store filled through Feast, the item
table published last."""

import contextlib
import io
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from serving.config import SieveConfig, SqliteOnlineStore
from serving.errors import DataError
from serving.features.online import HISTORY_VIEW, STATS_VIEW, USER_KEY
from serving.features.spec import DAY_US, film_features
from training.config import RayEngine, training_config
from training.features.history import InteractionLog, write_history
from training.features.item_catalogue import ItemCatalogue, publish_item_table
from training.features.online_rows import count_online
from training.features.repository import check_services, open_store
from training.features.shown import all_shown_in_vain
from training.features.snapshots import (
    SnapshotReport,
    build_snapshots,
    day_date,
    snapshot_days,
    snapshot_path,
)

SECOND_US = 1_000_000


@dataclass(frozen=True)
class MaterializeReport:
    """What is in force now: the time it is good for, the snapshot's day, rows online, and the item table."""

    at_us: int
    snapshot: date
    users: int
    histories: int
    items: int
    item_table: Path
    snapshots: SnapshotReport
    seconds: float


def materialize(
    config: SieveConfig,
    connection: duckdb.DuckDBPyConnection,
    at_us: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> MaterializeReport:
    """Makes the online store and the item table what a reader at `at_us` should find.

    `connection` shows the lake's views. Without `at_us` it is now, or, where the data end earlier, the first
    moment at which the snapshot after the newest row can be read. Only snapshots that are `snapshot_lag_s` old by
    then are put in force: a younger one would count as unreadable.

    Raises:
        ConfigError: the registered feature services do not fit the configuration.
        DataError: there is no snapshot to read at that time.
    """
    started = time.monotonic()
    features = film_features(config.vocabulary)
    check_services(config, features)
    lag_us, ttl_us = config.features.snapshot_lag_s * SECOND_US, config.features.snapshot_ttl_days * DAY_US
    until_us = int(time.time() * SECOND_US) if at_us is None else at_us
    report = build_snapshots(connection, config.feature_store, features, config.features, until_us, progress)
    if at_us is None and report.newest is not None:
        newest_us = int(datetime.combine(report.newest, datetime.min.time(), UTC).timestamp()) * SECOND_US
        at_us = min(until_us, newest_us + lag_us)
    at_us = until_us if at_us is None else at_us
    day = _newest_day(config.feature_store / STATS_VIEW, at_us - lag_us, ttl_us)
    log = InteractionLog.read(connection)
    history_lag_us = int(config.features.history_lag_s * SECOND_US)
    length = config.features.history_length
    shown = all_shown_in_vain(connection, at_us - history_lag_us)
    history = write_history(log, shown, config.feature_store / HISTORY_VIEW, at_us, history_lag_us, length)
    _write_online(config, day, ttl_us, at_us)
    table = ItemCatalogue(connection, config.feature_store, features).table(at_us - lag_us, ttl_us)
    directory = publish_item_table(config, table, at_us)
    return MaterializeReport(
        at_us=at_us,
        snapshot=day_date(day),
        users=pq.read_metadata(snapshot_path(config.feature_store / STATS_VIEW, day)).num_rows,
        histories=pq.read_metadata(history).num_rows,
        items=len(table),
        item_table=directory,
        snapshots=report,
        seconds=time.monotonic() - started,
    )


def _newest_day(directory: Path, read_us: int, ttl_us: int) -> int:
    days = [day for day in snapshot_days(directory) if day * DAY_US <= read_us < day * DAY_US + ttl_us]
    if not days:
        moment = datetime.fromtimestamp(read_us / SECOND_US, UTC).isoformat(timespec="seconds")
        raise DataError(f"no snapshot of {directory.name} can be read at {moment}", ["is there any data before it?"])
    return days[-1]


def _write_online(config: SieveConfig, day: int, ttl_us: int, at_us: int) -> None:
    if isinstance(config.online_store, SqliteOnlineStore):
        _use_write_ahead_log(config.online_store.path)
    store = open_store(config)
    stamp, at = datetime.fromtimestamp(day * DAY_US / SECOND_US, UTC), _moment(at_us)
    oldest = stamp - timedelta(microseconds=ttl_us - 1)
    # Feast reports its progress on stdout, where the command's own answer goes
    with contextlib.redirect_stdout(io.StringIO()):
        store.materialize(oldest, stamp, feature_views=[STATS_VIEW], disable_event_timestamp=False)
        store.materialize(at, at, feature_views=[HISTORY_VIEW], disable_event_timestamp=False)
    if isinstance(training_config(config).feature_engine, RayEngine):
        _require_online(config, day, ttl_us, at_us)


def _require_online(config: SieveConfig, newest: int, ttl_us: int, at_us: int) -> None:
    """Counts what is online by stamp: Feast's Ray engine hides the failure of a batch, and drops what the TTL rules
    out by the time on the wall rather than by the moment that is materialised."""
    stats, known = config.feature_store / STATS_VIEW, set[str]()
    days = [day for day in snapshot_days(stats) if newest * DAY_US - ttl_us < day * DAY_US <= newest * DAY_US]
    files = [(STATS_VIEW, snapshot_path(stats, day), day * DAY_US) for day in reversed(days)]
    files.append((HISTORY_VIEW, config.feature_store / HISTORY_VIEW / "current.parquet", at_us))
    problems = []
    for view, path, stamp_us in files:
        users = set(pq.read_table(path, columns=[USER_KEY])[USER_KEY].to_pylist())
        if view == STATS_VIEW:
            users, known = users - known, known | users
        found = count_online(config.online_store, view, users, stamp_us // SECOND_US)
        if found != len(users):
            stamp = _moment(stamp_us).isoformat()
            problems.append(f"{view}: {found:,} of {len(users):,} rows of {stamp} are in the online store")
    if problems:
        problems.append(
            "a row older than its view's TTL by now is dropped: materialise the past with the embedded engine"
        )
        raise DataError("Feast's Ray engine did not write everything; Ray's logs may say more", problems)


def _use_write_ahead_log(path: Path) -> None:
    # readers go on reading while Feast writes its one long transaction
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()


def _moment(time_us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
