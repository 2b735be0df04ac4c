"""The lake: append-only, versioned Delta tables on disk, read by DuckDB.

DuckDB reads the file list of a pinned Delta version with its own Parquet scan rather than through its `delta`
extension (a download at run time) or a pyarrow data set (slower): the scan is parallel and pushes filters
down to partitions and row groups.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction

from serving.errors import DataError
from training.data.files import DATE, PARTITION, rechunk, with_date, write_files
from training.data.schemas import STORED, TableSchema

# Expired logs are kept, so that a training run's table versions stay readable.
_CONFIGURATION: dict[str, str | None] = {"delta.appendOnly": "true", "delta.enableExpiredLogCleanup": "false"}
_HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
_ROWS_ADDED = "rows_added"


class Lake:
    """The folder of Delta tables; every read is of one version, every write is one or more commits."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def exists(self, table: str) -> bool:
        """Whether the table was ever written."""
        return DeltaTable.is_deltatable(self._uri(table))

    def append(self, table: str, data: pa.Table | pa.RecordBatchReader) -> int:
        """Appends rows of the declared columns, in any column order, and returns the new Delta version.

        One atomic commit, whatever the rows come as; a reader is written in bounded memory. Nothing but the
        Arrow schema and the presence of the time column is checked: imports and feeds go through
        `validate.ingest`. Zero rows make the table if there is none and add nothing otherwise.

        Raises:
            DataError: an unknown table, columns missing, unknown or of another type (all of them listed), or
                a null in the column that partitions the table.
        """
        schema = _declared(table)
        _check_columns(schema, data.schema)
        chunks = [data] if isinstance(data, pa.Table) else rechunk(data)
        folder = self.root / table
        actions = write_files(folder, (conform(schema, chunk) for chunk in chunks if chunk.num_rows))
        return self._commit(schema, actions)

    def versions(self) -> dict[str, int]:
        """The current version of every table that exists."""
        return {name: self._open(name).version() for name in STORED if self.exists(name)}

    def history(self, table: str) -> list[dict[str, Any]]:
        """Commits of a table, newest first: version, time (UTC), operation, rows added."""
        if not self.exists(table):
            return []
        return [
            {
                "version": int(entry["version"]),
                "time": datetime.fromtimestamp(entry["timestamp"] / 1000, UTC),
                "operation": str(entry["operation"]),
                "rows_added": int(entry.get(_ROWS_ADDED, 0)),
            }
            for entry in self._open(table).history()
        ]

    def connect(self, versions: Mapping[str, int] | None = None) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with one view per table, frozen at these versions (None: the current ones).

        Views: `events`, `impressions`, `quarantine`; `items_log` and `users_log` hold every row ever written,
        `items` and `users` the current row per key (newest `ingested_at`). Time tables also show their
        `event_date`. A table that does not exist, or that `versions` leaves out, is an empty view of the
        declared columns. Times are `TIMESTAMP WITH TIME ZONE`, shown in UTC.

        Raises:
            DataError: a version that is not there (any more), or a table whose columns are not as declared.
        """
        pinned = self.versions() if versions is None else dict(versions)
        broken = [f"{name}: {problem}" for name in pinned for problem in self.schema_problems(name, pinned[name])]
        if broken:
            raise DataError(f"tables of {self.root} are not as declared", broken)
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        for name, schema in STORED.items():
            files = self._open(name, pinned[name]).file_uris() if name in pinned else []
            for statement in _views(schema, [unquote(uri) for uri in files]):
                connection.execute(statement)
        return connection

    def schema_problems(self, table: str, version: int | None = None) -> list[str]:
        """What keeps a stored version (None: the current one) from the declared columns; one line each."""
        schema = _declared(table)
        found = pa.schema(self._open(table, version).schema().to_arrow())
        own = (DATE, PARTITION) if schema.time_column else ()
        missing = [f"column {name} is missing" for name in own if name not in found.names]
        return column_problems(schema, pa.schema([f for f in found if f.name not in own])) + missing

    def _uri(self, table: str) -> str:
        return (self.root.resolve() / _declared(table).name).as_uri()

    def _open(self, table: str, version: int | None = None) -> DeltaTable:
        try:
            return DeltaTable(self._uri(table), version=version)
        except DeltaError as error:
            wanted = "" if version is None else f" at version {version}"
            raise DataError(f"table {table}{wanted} cannot be read from {self.root}", [str(error)]) from None

    def _commit(self, schema: TableSchema, actions: Sequence[AddAction]) -> int:
        delta = self._create(schema)
        if actions:
            rows = sum(json.loads(action.stats)["numRecords"] for action in actions)
            delta.create_write_transaction(
                [*actions],
                mode="append",
                schema=delta.schema(),
                partition_by=_partition(schema),
                commit_properties=CommitProperties(custom_metadata={_ROWS_ADDED: str(rows)}),
                post_commithook_properties=_HOOKS,
            )
            delta.update_incremental()
        return delta.version()

    def _create(self, schema: TableSchema) -> DeltaTable:
        columns = schema.arrow
        if schema.time_column:
            columns = columns.append(pa.field(DATE, pa.date32())).append(pa.field(PARTITION, pa.string()))
        (self.root / schema.name).mkdir(parents=True, exist_ok=True)
        return DeltaTable.create(
            self._uri(schema.name),
            schema=columns,
            mode="ignore",
            partition_by=_partition(schema),
            configuration=_CONFIGURATION,
        )


def conform(schema: TableSchema, data: pa.Table) -> pa.Table:
    """The rows in the declared column order and types, with `event_date` where the table has a clock.

    Only spellings of the same type are converted (large or dictionary strings, timestamp units); see
    `column_problems` for what counts as the same.

    Raises:
        DataError: a null in the time column, or a time that microseconds cannot hold.
    """
    try:
        table = data.select(schema.arrow.names).cast(schema.arrow)
    except pa.ArrowInvalid as error:
        raise DataError(f"table {schema.name} cannot hold these values", [str(error)]) from None
    if schema.time_column is None:
        return table
    times = table[schema.time_column]
    if times.null_count:
        raise DataError(f"table {schema.name}: {times.null_count} row(s) without {schema.time_column}")
    return with_date(table, schema.time_column)


def column_problems(schema: TableSchema, found: pa.Schema) -> list[str]:
    """What keeps columns from being the declared ones: missing, unknown, or of another type; one line each."""
    declared = schema.arrow
    problems = [f"column {name} is missing" for name in declared.names if name not in found.names]
    problems += [f"column {name} is not declared" for name in found.names if name not in declared.names]
    problems += [f"column {n} appears twice" for n in sorted({n for n in found.names if found.names.count(n) > 1})]
    for name in declared.names:
        if found.names.count(name) == 1 and not same_kind(declared.field(name).type, found.field(name).type):
            problems.append(f"column {name} is declared {declared.field(name).type}, found {found.field(name).type}")
    return problems


def same_kind(declared: pa.DataType, found: pa.DataType) -> bool:
    """Whether two Arrow types hold the same values: string spellings, time units and list spellings aside."""
    if pa.types.is_dictionary(found):
        return same_kind(declared, found.value_type)
    if pa.types.is_string(declared):
        kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
        return any(is_kind(found) for is_kind in kinds)
    if pa.types.is_list(declared):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return bool(is_list and same_kind(declared.value_type, found.value_type))
    if pa.types.is_timestamp(declared):
        return bool(pa.types.is_timestamp(found) and found.tz is not None)
    return bool(declared == found)


def _declared(table: str) -> TableSchema:
    if table not in STORED:
        raise DataError(f"there is no table {table}; there are {', '.join(STORED)}")
    return STORED[table]


def _check_columns(schema: TableSchema, found: pa.Schema) -> None:
    problems = column_problems(schema, found)
    if problems:
        raise DataError(f"table {schema.name} does not take these columns", problems)


def _partition(schema: TableSchema) -> list[str] | None:
    return [PARTITION] if schema.time_column else None


def _views(schema: TableSchema, files: list[str]) -> list[str]:
    """SQL that makes the views of one table from the data files of one of its versions."""
    entity = schema.time_column is None and schema.name != "quarantine"
    log = f"{schema.name}_log" if entity else schema.name
    statements = [f"CREATE VIEW {log} AS {_scan(schema, files)}"]
    if entity:
        statements.append(
            f"CREATE VIEW {schema.name} AS SELECT * FROM {log} "
            f"QUALIFY row_number() OVER (PARTITION BY {schema.key[0]} ORDER BY ingested_at DESC) = 1"
        )
    return statements


def _scan(schema: TableSchema, files: list[str]) -> str:
    columns = [f'"{name}"' for name in schema.arrow.names]
    columns += [DATE] if schema.time_column else []
    if files:
        paths = ", ".join("'" + path.replace("'", "''") + "'" for path in files)
        return f"SELECT {', '.join(columns)} FROM read_parquet([{paths}], hive_partitioning = false)"
    types = [*schema.arrow, *([pa.field(DATE, pa.date32())] if schema.time_column else [])]
    nulls = [f'NULL::{_sql_type(field.type)} AS "{field.name}"' for field in types]
    return f"SELECT {', '.join(nulls)} WHERE false"


def _sql_type(arrow: pa.DataType) -> str:
    if pa.types.is_list(arrow):
        return f"{_sql_type(arrow.value_type)}[]"
    if pa.types.is_timestamp(arrow):
        return "TIMESTAMPTZ"
    if pa.types.is_date(arrow):
        return "DATE"
    return {pa.string(): "VARCHAR", pa.int32(): "INTEGER", pa.float64(): "DOUBLE", pa.int64(): "BIGINT"}[arrow]
