"""Feast's offline store for packed views: point-in-time reads by `point_in_time`, all else as Feast's DuckDB store."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.errors import FeastError
from feast.feature_view import FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig

from training.features.point_in_time import MISSING_DAY, read_view

FEATURES_TAG = "sieve.features"
"""Tag of a view with one packed field: the names of its values, in order, separated by commas."""

_CHUNK_ROWS = 1_000_000


class AsofOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """Settings of `AsofOfflineStore`: those of Feast's DuckDB store."""

    type: str = "training.features.asof_store.AsofOfflineStore"


class AsofOfflineStore(DuckDBOfflineStore):
    """Joins packed daily views by DuckDB's ASOF JOIN with their TTL."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """One row per entity row, in its order; a view without a row at that time gives null.

        Raises:
            UnsupportedView: a view is not packed (the user history is replayed from events instead), or the
                entities are given as SQL.
        """
        if not isinstance(entity_df, pd.DataFrame):
            raise UnsupportedView("entities must be a data frame")
        for view in feature_views:
            packed_field(view)
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        return AsofRetrievalJob(entity_df, feature_views, feature_refs, on_demand, full_feature_names)

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
        """The newest row of each entity stamped from `start_date` to `end_date`, both included."""
        columns = _columns(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return _TableJob(lambda: _read_rows(data_source, columns, start_date, end_date, join_key_columns))

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row stamped from `start_date` to `end_date`, both included: what materialisation reads."""
        columns = _columns(join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column)
        return _TableJob(lambda: _read_rows(data_source, columns, start_date, end_date))


class UnsupportedView(FeastError):
    """A view or a form of entities that the as-of store does not join."""


class AsofRetrievalJob(RetrievalJob):
    """A point-in-time join of packed views with rows of entities."""

    def __init__(
        self,
        entity_df: pd.DataFrame,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        on_demand: list[OnDemandFeatureView],
        full_feature_names: bool,
    ) -> None:
        self._entity_df = entity_df
        self._views = feature_views
        self._on_demand = on_demand
        self._full_feature_names = full_feature_names
        schema = dict(zip(entity_df.columns, entity_df.dtypes, strict=True))
        self._time_column = offline_utils.infer_event_timestamp_from_entity_df(schema)
        times = pd.to_datetime(entity_df[self._time_column], utc=True)
        self._metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[column for column in entity_df.columns if column != self._time_column],
            min_event_timestamp=times.min(),
            max_event_timestamp=times.max(),
        )

    @property
    def full_feature_names(self) -> bool:
        """Whether feature columns are called VIEW__FIELD."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand views that Feast computes from the joined columns."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata:
        """What was asked for."""
        return self._metadata

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return join_views(self._entities(), self._time_us(), self._joins())

    def _entities(self) -> pa.Table:
        return pa.Table.from_pandas(self._entity_df, preserve_index=False)

    def _time_us(self) -> np.ndarray:
        times = pd.to_datetime(self._entity_df[self._time_column], utc=True)
        time_us: np.ndarray = times.to_numpy("datetime64[us]").astype(np.int64)
        return time_us

    def _joins(self) -> list["ViewJoin"]:
        return [ViewJoin.of(view, self._full_feature_names) for view in self._views]


@dataclass(frozen=True)
class ViewJoin:
    """One packed view to be joined: where its files are, its own key and the entities' column with that key, its
    field and the column that the result gets, the number of values, and how old a row may be."""

    folder: Path
    key: str
    entity_column: str
    field: str
    column: str
    width: int
    ttl_us: int

    @classmethod
    def of(cls, view: FeatureView, full_feature_names: bool) -> "ViewJoin":
        """The join that a view's projection asks for; without a TTL rows stay readable for ever.

        Raises:
            UnsupportedView: the view is not packed.
        """
        name, width = packed_field(view)
        key = next(iter(view.join_keys))
        return cls(
            folder=source_folder(view),
            key=key,
            entity_column=(view.projection.join_key_map or {}).get(key, key),
            field=name,
            column=f"{view.projection.name_alias or view.name}__{name}" if full_feature_names else name,
            width=width,
            ttl_us=int(view.ttl.total_seconds() * 1_000_000) if view.ttl else int(np.iinfo(np.int64).max),
        )


def join_views(entities: pa.Table, time_us: np.ndarray, joins: Sequence[ViewJoin]) -> pa.Table:
    """`entities`, R rows, with one packed column for each join: the row in force at `time_us` int64[R], else null."""
    for join in joins:
        ids = entities[join.entity_column].combine_chunks().cast(pa.string())
        read = read_view(join.folder, join.key, join.field, join.width, ids, time_us, join.ttl_us)
        entities = entities.append_column(join.column, _list_column(read.values, read.day != MISSING_DAY))
    return entities


class _TableJob(RetrievalJob):
    """A query without on-demand views."""

    def __init__(self, read: Callable[[], pa.Table]) -> None:
        self._read = read

    @property
    def full_feature_names(self) -> bool:
        return False

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return []

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._read().to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._read()


def packed_field(view: FeatureView) -> tuple[str, int]:
    """The one packed field of a view, and how many values it holds.

    Raises:
        UnsupportedView: the view has no such field.
    """
    names = (view.tags or {}).get(FEATURES_TAG)
    if not names or len(view.features) != 1 or len(view.join_keys) != 1:
        raise UnsupportedView(f"feature view {view.name} is not one packed field of one entity: it cannot be joined")
    return view.features[0].name, len(names.split(","))


def source_folder(view: FeatureView) -> Path:
    """The folder of a view's daily files."""
    source = view.batch_source
    assert isinstance(source, FileSource)
    return Path(source.path).parent


def _columns(keys: list[str], fields: list[str], stamp: str, created: str | None) -> list[str]:
    return [*keys, *fields, stamp, *([created] if created else [])]


def _read_rows(
    source: DataSource,
    columns: list[str],
    start: datetime | None,
    end: datetime | None,
    newest_by: list[str] | None = None,
) -> pa.Table:
    """Rows of a source's Parquet files in a span of time, of each `newest_by` key only the newest."""
    assert isinstance(source, FileSource)
    bounds = [f"event_timestamp {sign} '{t.isoformat()}'" for sign, t in ((">=", start), ("<=", end)) if t]
    query = f"SELECT {', '.join(map(_name, columns))} FROM read_parquet('{source.path.replace(chr(39), chr(39) * 2)}')"
    query += f" WHERE {' AND '.join(bounds)}" if bounds else ""
    if newest_by:
        key = ", ".join(map(_name, newest_by))
        order = ", ".join(f"{_name(name)} DESC" for name in ("event_timestamp", "created") if name in columns)
        query += f" QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {order}) = 1 ORDER BY {key}"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        table: pa.Table = connection.sql(query).to_arrow_table()
    return table


def _name(column: str) -> str:
    return f'"{column}"'


def _list_column(values: np.ndarray, present: np.ndarray) -> pa.ChunkedArray:
    # 32-bit list offsets hold one chunk, not millions of rows of hundreds of values
    width = values.shape[1]
    chunks = []
    for start in range(0, max(len(values), 1), _CHUNK_ROWS):
        block = values[start : start + _CHUNK_ROWS]
        offsets = pa.array(np.arange(len(block) + 1, dtype=np.int32) * np.int32(width))
        mask = pa.array(~present[start : start + _CHUNK_ROWS])
        chunks.append(pa.ListArray.from_arrays(offsets, pa.array(block.ravel()), mask=mask))
    return pa.chunked_array(chunks)
