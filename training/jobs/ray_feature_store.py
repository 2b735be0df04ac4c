"""Feast's Ray offline store with point-in-time joins that are the embedded store's, on Ray Data.

Sessions, retrieval jobs and writes are Feast's. Two reads are not, because those of Feast 0.67 give other rows than
its own stores elsewhere (tests/feast_ray/test_feast_ray_own_join.py holds the defects, docs/scale.md lists them): its
join knows no TTL, cuts times to whole seconds and, above a size, looks for a feature in the request's own hour
only; its scan for materialisation tests every row of the whole history in Python.
"""

from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.contrib.ray_offline_store.ray import (
    RayOfflineStore,
    RayOfflineStoreConfig,
    RayRetrievalJob,
)
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig

from serving.errors import DataError
from serving.features.spec import DAY_US
from training.features.asof_store import AsofRetrievalJob, UnsupportedView, ViewJoin, join_views, packed_field
from training.features.snapshots import snapshot_days, snapshot_path

BLOCK_ROWS = 1 << 14
_ROW, _TIME_US = "__row", "__time_us"


class RayAsofOfflineStoreConfig(RayOfflineStoreConfig):
    """Settings of `RayAsofOfflineStore`: those of Feast's Ray store."""

    type: str = "training.jobs.ray_feature_store.RayAsofOfflineStore"  # type: ignore[assignment]


class RayAsofOfflineStore(RayOfflineStore):
    """Joins packed daily views block by block in Ray's workers; the files must lie where all of them can read."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **kwargs: Any,
    ) -> RetrievalJob:
        """One row per entity row, in its order; a view without a row at that time gives null.

        Raises:
            UnsupportedView: a view is not packed, or the entities are not a data frame.
        """
        if not isinstance(entity_df, pd.DataFrame):
            raise UnsupportedView("entities must be a data frame")
        for view in feature_views:
            packed_field(view)
        RayOfflineStore()._init_ray(config)
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        return RayAsofRetrievalJob(entity_df, feature_views, feature_refs, on_demand, full_feature_names)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row of each entity stamped from `start_date` to `end_date`, both included.

        Only the files of those days are opened, the newest first; of the older ones the entities that a newer one
        holds are left out. An entity is taken to be once in a file.
        """
        RayOfflineStore()._init_ray(config)
        assert isinstance(data_source, FileSource)
        columns = [*join_key_columns, *feature_name_columns, timestamp_field]
        columns += [created_timestamp_column] if created_timestamp_column else []
        files = _files_between(Path(data_source.path), start_date, end_date)
        span: dict[str, Any] = {
            "stamp": timestamp_field,
            "start": start_date,
            "end": end_date,
            "keys": join_key_columns,
        }
        parts = [
            ray.data.read_parquet(file)
            .select_columns(columns)
            .map_batches(partial(_newest_rows, **span, newer=files[place + 1 :]), batch_format="pyarrow")
            for place, file in enumerate(files)
        ]
        dataset = parts[0].union(*parts[1:]) if len(parts) > 1 else parts[0]
        return RayRetrievalJob(dataset, config.offline_store.storage_path, config.offline_store)


class RayAsofRetrievalJob(AsofRetrievalJob):
    """The as-of join, as tasks of Ray Data."""

    def to_ray_dataset(self) -> ray.data.Dataset:
        """The entities with the stored views' columns, computed block by block as it is consumed, in no fixed order.

        On-demand views are left out; `__row` is the place of a row among the entities.
        """
        return self._joined()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        joined = pa.concat_tables(ray.get(self._joined().to_arrow_refs()))
        order = np.argsort(joined[_ROW].to_numpy())
        return _take(joined.drop_columns([_ROW]), order)

    def _joined(self) -> ray.data.Dataset:
        time_us, entities = self._time_us(), self._entities()
        # in order of time, so that a block needs few days' files
        order = np.argsort(time_us, kind="stable")
        entities = entities.append_column(_ROW, pa.array(np.arange(len(time_us))))
        entities = entities.append_column(_TIME_US, pa.array(time_us)).take(pa.array(order))
        starts = range(0, max(len(time_us), 1), BLOCK_ROWS)
        blocks = [entities.slice(start, BLOCK_ROWS) for start in starts]
        dataset = ray.data.from_arrow(blocks)
        return dataset.map_batches(partial(_join_block, joins=self._joins()), batch_size=None, batch_format="pyarrow")


def _join_block(block: pa.Table, joins: list[ViewJoin]) -> pa.Table:
    return join_views(block.drop_columns([_TIME_US]), block[_TIME_US].to_numpy(), joins)


def _newest_rows(
    rows: pa.Table, stamp: str, start: datetime, end: datetime, keys: list[str], newer: list[str]
) -> pa.Table:
    """The rows stamped from `start` to `end` whose keys no `newer` file holds."""
    kind = rows.schema.field(stamp).type
    inside = pc.and_(
        pc.greater_equal(rows[stamp], pa.scalar(start, kind)), pc.less_equal(rows[stamp], pa.scalar(end, kind))
    )
    rows = rows.filter(inside)
    [key] = keys
    for file in newer:
        known = pq.read_table(file, columns=[key])[key]
        rows = rows.filter(pc.invert(pc.is_in(rows[key], value_set=known)))
    return rows


def _take(table: pa.Table, order: np.ndarray) -> pa.Table:
    # 32-bit list offsets hold one chunk, not millions of rows of hundreds of values
    chunks = [table.take(pa.array(order[i : i + BLOCK_ROWS])) for i in range(0, max(len(order), 1), BLOCK_ROWS)]
    return pa.concat_tables(chunks)


def _files_between(path: Path, start: datetime, end: datetime) -> list[str]:
    """The files of a source, in order of time, that can hold rows of that span; a day's file holds its midnight.

    Raises:
        DataError: there is none.
    """
    files = [path]
    if "*" in path.name:
        first, last = start.timestamp() * 1e6, end.timestamp() * 1e6
        files = [snapshot_path(path.parent, d) for d in snapshot_days(path.parent) if first <= d * DAY_US <= last]
    if not files:
        raise DataError(f"{path.parent} holds no snapshot from {start.isoformat()} to {end.isoformat()}")
    return [str(file) for file in files]
