"""Daily snapshots of the user and item views: what serving materialises and training joins.

A snapshot stamped midnight t holds what was known before t and nothing else. It is one Parquet file per view and
day; one packed list of float32 per row in the order of the feature set.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from serving.config import FeatureSettings
from serving.durable import flush
from serving.features.spec import DAY_US, FeatureSet
from training.features.daily import create_sources, read_daily
from training.features.snapshot_rows import ItemSnapshots, Snapshots, UserSnapshots
from training.features.statistics import item_statistics, user_statistics

USER_STATS = "user_stats"
ITEM_STATS = "item_stats"
USERS_PER_PARTITION = 100_000
FORMAT = 1
_FINGERPRINT = b"sieve.fingerprint"
_EPOCH = date(1970, 1, 1)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class SnapshotReport:
    """How many days were built and found up to date (both views together), the newest one, and the time taken."""

    built: int
    kept: int
    newest: date | None
    seconds: float


def build_snapshots(
    connection: duckdb.DuckDBPyConnection,
    root: Path,
    features: FeatureSet,
    settings: FeatureSettings,
    until_us: int | None = None,
    progress: Progress | None = None,
) -> SnapshotReport:
    """Writes the missing snapshots up to `until_us` under `root`; those whose inputs are unchanged are kept.

    `connection` shows the lake's views at fixed versions. Without `until_us` the last snapshot is the midnight
    after the newest row. A day appears whole or not at all. Tables without rows give no snapshot.
    """
    started = time.monotonic()
    fingerprints = _fingerprints(connection, features, settings, until_us)
    wanted = {view: _outdated(root / view, fingerprints) for view in (USER_STATS, ITEM_STATS)}
    create_sources(connection, features.vocabulary)
    for view, days in wanted.items():
        if days:
            for day in _build_view(connection, root / view, view, features, fingerprints, days):
                if progress:
                    progress(f"{view} {day_date(day)}")
    built = sum(map(len, wanted.values()))
    newest = day_date(max(fingerprints)) if fingerprints else None
    return SnapshotReport(built, 2 * len(fingerprints) - built, newest, time.monotonic() - started)


def snapshot_path(directory: Path, day: int) -> Path:
    """The file of one view's snapshot of the midnight that begins `day` (days since 1970)."""
    return directory / f"day={day_date(day)}.parquet"


def snapshot_days(directory: Path) -> list[int]:
    """The days that a view has snapshots of, ascending."""
    names = (path.name.removeprefix("day=").removesuffix(".parquet") for path in directory.glob("day=*.parquet"))
    return sorted((date.fromisoformat(name) - _EPOCH).days for name in names)


def day_date(day: int) -> date:
    """The UTC date of a number of days since 1970."""
    return _EPOCH + timedelta(days=day)


def definition_hash(features: FeatureSet) -> str:
    """Names the meaning of the user and item views: it changes when a feature is added, moved or redefined."""
    names = [[f.name, f.description] for f in (*features.user, *features.item)]
    vocabulary = features.vocabulary.model_dump()
    text = json.dumps([FORMAT, names, vocabulary], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def _fingerprints(
    connection: duckdb.DuckDBPyConnection, features: FeatureSet, settings: FeatureSettings, until_us: int | None
) -> dict[int, str]:
    """For every day to have: a digest of the definitions and of all rows known before it."""
    logs = {
        "events": ("event_id", "greatest(event_time, ingested_at)"),
        "impressions": ("event_id", "greatest(event_time, ingested_at)"),
        "users_log": ("(user_id, ingested_at)", "ingested_at"),
        "items_log": ("(item_id, ingested_at)", "ingested_at"),
    }
    union = " UNION ALL ".join(
        f"SELECT {i} AS log, epoch_us({known}) // {DAY_US} AS day, count(*) AS n, bit_xor(hash({key})) AS x "
        f"FROM {table} GROUP BY 2"
        for i, (table, (key, known)) in enumerate(logs.items())
    )
    by_day: dict[int, list[tuple[int, int, int]]] = {}
    for log, day, count, xor in connection.execute(union).fetchall():
        by_day.setdefault(day, []).append((log, count, xor))
    interactions = [day for day, rows in by_day.items() if any(log < 2 for log, _, _ in rows)]
    if not interactions:
        return {}
    last = max(interactions) + 1 if until_us is None else min(max(interactions) + 1, until_us // DAY_US)
    state = hashlib.sha256(definition_hash(features).encode())
    fingerprints = {}
    for day in range(min(by_day) + 1, last + 1):
        for row in sorted(by_day.get(day - 1, ())):
            state.update(repr((day, row)).encode())
        if day > min(interactions) and day % settings.snapshot_every_days == 0:
            fingerprints[day] = state.hexdigest()
    return fingerprints


def _outdated(directory: Path, fingerprints: dict[int, str]) -> list[int]:
    return [
        day
        for day, fingerprint in sorted(fingerprints.items())
        if _stored_fingerprint(snapshot_path(directory, day)) != fingerprint
    ]


def _stored_fingerprint(path: Path) -> str | None:
    if not path.exists():
        return None
    metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    return metadata.get(_FINGERPRINT, b"").decode()


def _build_view(
    connection: duckdb.DuckDBPyConnection,
    directory: Path,
    view: str,
    features: FeatureSet,
    fingerprints: dict[int, str],
    days: Sequence[int],
) -> Iterator[int]:
    directory.mkdir(parents=True, exist_ok=True)
    if view == ITEM_STATS:
        daily = read_daily(connection, item_statistics())
        yield from _write_days(directory, ItemSnapshots(connection, daily, features), fingerprints, days)
        return
    [(users,)] = connection.execute("SELECT approx_count_distinct(user_id) FROM users_log").fetchall()
    partitions = max(1, -(-users // USERS_PER_PARTITION))
    if partitions == 1:
        daily = read_daily(connection, user_statistics(features.vocabulary))
        yield from _write_days(directory, UserSnapshots(connection, daily, features), fingerprints, days)
        return
    yield from _write_partitions(connection, directory, features, fingerprints, days, partitions)


def _write_partitions(
    connection: duckdb.DuckDBPyConnection,
    directory: Path,
    features: FeatureSet,
    fingerprints: dict[int, str],
    days: Sequence[int],
    partitions: int,
) -> Iterator[int]:
    """One partition of the users at a time; each adds a row group to every day's draft."""
    statistics = user_statistics(features.vocabulary)
    writers = {day: _SnapshotWriter(snapshot_path(directory, day), fingerprints[day]) for day in days}
    try:
        for partition in range(partitions):
            daily = read_daily(connection, statistics, partition, partitions)
            rows = UserSnapshots(connection, daily, features, partition, partitions)
            for day in days:
                writers[day].write(rows.table(day))
        for day in days:
            writers[day].publish()
            yield day
    finally:
        for writer in writers.values():
            writer.discard()


def _write_days(directory: Path, rows: Snapshots, fingerprints: dict[int, str], days: Sequence[int]) -> Iterator[int]:
    for day in days:
        writer = _SnapshotWriter(snapshot_path(directory, day), fingerprints[day])
        try:
            writer.write(rows.table(day))
            writer.publish()
        finally:
            writer.discard()
        yield day


class _SnapshotWriter:
    """Writes one day beside its place and moves it there when it is whole."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}")
        self._fingerprint = fingerprint
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            schema = table.schema.with_metadata({_FINGERPRINT: self._fingerprint.encode()})
            self._writer = pq.ParquetWriter(self._draft, schema, compression="zstd", compression_level=1)
        self._writer.write_table(table.replace_schema_metadata(self._writer.schema.metadata))

    def publish(self) -> None:
        assert self._writer is not None
        self._writer.close()
        flush(self._draft)
        os.replace(self._draft, self._path)

    def discard(self) -> None:
        self._draft.unlink(missing_ok=True)
