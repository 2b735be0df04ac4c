"""Builds the serving item table: the current catalogue with the features of the newest readable snapshot."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq

from serving.config import SieveConfig
from serving.features.item_table import ItemTable, ItemTablePointer, write_item_table
from serving.features.spec import DAY_US, FeatureSet
from training.features.attributes import maturity_years, read_items
from training.features.point_in_time import packed_values
from training.features.snapshot_rows import ITEM_FIELD, ITEM_KEY
from training.features.snapshots import ITEM_STATS, day_date, snapshot_days, snapshot_path


class ItemCatalogue:
    """The versions of all items, read once, from which the table of any moment is made."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, root: Path, features: FeatureSet) -> None:
        """`connection` shows the lake's views; `root` holds the snapshots."""
        codes: dict[str, int] = {}
        self._root = root
        self._features = features
        self._versions = read_items(connection, codes, features.vocabulary)
        self._ids = np.array(list(codes), dtype=object)

    def table(self, at_us: int, ttl_us: int) -> ItemTable:
        """Every item known before `at_us`, first seen first, with features as a reader at `at_us` finds them.

        Of items that were seen first at one time the lower id comes first, so that a later table begins with the
        rows of an earlier one, unless an item came in with a time long past. `at_us` has the reader's lag already
        taken off. Items that the newest snapshot of the last `ttl_us` does not hold have NaN features; a snapshot
        holds every item that was available. The watermark is its stamp, 0 where there is none.
        """
        known = np.flatnonzero(self._versions.since_us < at_us)
        newest = dict(zip(self._versions.entity[known].tolist(), known.tolist(), strict=True))
        codes = sorted(newest)  # codes were given out in the order of the log
        ids = [str(self._ids[code]) for code in codes]
        rows = np.array([newest[code] for code in codes], np.int64)
        columns = {name: values[rows] for name, values in self._versions.columns.items()}
        values, watermark_us = _read_features(self._root / ITEM_STATS, self._features, ids, at_us, ttl_us)
        return ItemTable(
            ids=np.array([item.encode() for item in ids], dtype="S") if ids else np.empty(0, "S1"),
            features=values,
            feature_names=tuple(feature.name for feature in self._features.item),
            maturity=maturity_years(columns["maturity"].astype(np.float64)),
            licence_start_us=columns["licence_start_us"].astype(np.int64),
            licence_end_us=columns["licence_end_us"].astype(np.int64),
            country_mask=columns["country_mask"].astype(np.uint64),
            available_at_us=columns["available_us"].astype(np.int64),
            genre_mask=columns["genre_mask"].astype(np.uint64),
            cast=columns["cast"].astype(np.int32),
            franchise=columns["franchise"].astype(np.int32),
            edition=columns["edition"].astype(np.int32),
            provider=columns["provider"].astype(np.int32),
            year=np.nan_to_num(columns["year"].astype(np.float64)).astype(np.int16),
            watermark_us=watermark_us,
        )


def publish_item_table(config: SieveConfig, table: ItemTable, made_us: int) -> Path:
    """Writes the table under `config.item_tables` and puts it in force; the one before it is kept, older ones go."""
    root = config.item_tables
    name = f"{day_date(table.watermark_us // DAY_US):%Y%m%d}-{made_us}"
    directory = root / name
    previous = ItemTablePointer.current(root)
    if not directory.exists():
        write_item_table(directory, table)
    ItemTablePointer.publish(root, directory)
    _remove_others(root, {directory, previous})
    return directory


def _read_features(
    directory: Path, features: FeatureSet, ids: list[str], at_us: int, ttl_us: int
) -> tuple[np.ndarray, int]:
    out = np.full((len(ids), len(features.item)), np.nan, np.float32)
    days = [day for day in snapshot_days(directory) if at_us - ttl_us < day * DAY_US <= at_us]
    if not days:
        return out, 0
    newest = days[-1]
    table = pq.read_table(snapshot_path(directory, newest), columns=[ITEM_KEY, ITEM_FIELD])
    stored = packed_values(table[ITEM_FIELD], len(features.item), f"{ITEM_STATS} of {day_date(newest)}")
    row_of = {item: row for row, item in enumerate(ids)}
    rows = np.array([row_of.get(item, -1) for item in table[ITEM_KEY].to_pylist()], np.int64)
    out[rows[rows >= 0]] = stored[rows >= 0]
    return out, newest * DAY_US


def _remove_others(root: Path, kept: set[Path | None]) -> None:
    import shutil

    for path in root.iterdir():
        if path.is_dir() and path not in kept:
            shutil.rmtree(path)
