"""The lake: append-only, versioned Delta tables on disk or object storage, read by DuckDB.

DuckDB reads the file list of a pinned Delta version with its own Parquet scan rather than through its `delta`
extension (a download at run time) or a pyarrow data set (slower): the scan is parallel and pushes filters
down to partitions and row groups.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, PostCommitHookProperties
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction

from serving.config import SieveConfig
from serving.errors import DataError
from training.config import training_config
from training.data.files import DATE, PARTITION, rechunk, with_date, write_files
from training.data.object_store import ObjectStore
from training.data.schemas import STORED, TableSchema

# Expired logs are kept, so that a training run's table versions stay readable.
_CONFIGURATION: dict[str, str | None] = {"delta.appendOnly": "true", "delta.enableExpiredLogCleanup": "false"}
_HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
_ROWS_ADDED = "rows_added"


class Lake:
    """The folder of Delta tables; every read is of one version, every write is one or more commits.

    With `objects` the tables lie on object storage; `root` then holds only what one machine notes beside them.
    """

    def __init__(self, root: Path, objects: ObjectStore | None = None) -> None:
        self.root = Path(root)
        self.objects = objects
        self._options = objects.options if objects else None

    def exists(self, table: str) -> bool:
        """Whether the table was ever written."""
        return DeltaTable.is_deltatable(self._uri(table), self._options)

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
        rows = (conform(schema, chunk) for chunk in chunks if chunk.num_rows)
        if self.objects is None:
            return self._commit(schema, write_files(self.root / table, rows))
        with tempfile.TemporaryDirectory() as folder:
            actions = write_files(Path(folder), rows)
            self.objects.upload(table, Path(folder), actions)
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
        declared columns. Times are `TIMESTAMP WITH TIME ZONE`, shown in UTC. Cursors of a connection to object
        storage do not see the tables.

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
            rows = self._rows(connection, name, pinned[name]) if name in pinned else None
            for statement in _views(schema, rows):
                connection.execute(statement)
        return connection

    def schema_problems(self, table: str, version: int | None = None) -> list[str]:
        """What keeps a stored version (None: the current one) from the declared columns; one line each."""
        schema = _declared(table)
        found = pa.schema(self._open(table, version).schema().to_arrow())
        own = (DATE, PARTITION) if schema.time_column else ()
        missing = [f"column {name} is missing" for name in own if name not in found.names]
        return column_problems(schema, pa.schema([f for f in found if f.name not in own])) + missing

    def _rows(self, connection: duckdb.DuckDBPyConnection, table: str, version: int) -> str | None:
        """What SQL calls the stored rows of a version; None where it has no files."""
        delta = self._open(table, version)
        files = [unquote(uri) for uri in delta.file_uris()]
        if not files:
            return None
        if self.objects is None:
            paths = ", ".join("'" + path.replace("'", "''") + "'" for path in files)
            widened = bool(_declared(table).optional)
            return f"read_parquet([{paths}], union_by_name = {widened}, hive_partitioning = false)"
        # DuckDB's own reader of remote files is an extension, and its threads break a Python file system
        connection.register(f"{table}_files", delta.to_pyarrow_dataset())
        return f"{table}_files"

    def _uri(self, table: str) -> str:
        name = _declared(table).name
        return self.objects.table_url(name) if self.objects else (self.root.resolve() / name).as_uri()

    def _open(self, table: str, version: int | None = None) -> DeltaTable:
        try:
            return DeltaTable(self._uri(table), version=version, storage_options=self._options)
        except DeltaError as error:
            wanted = "" if version is None else f" at version {version}"
            raise DataError(f"table {table}{wanted} cannot be read from {self.root}", [str(error)]) from None

    def _commit(self, schema: TableSchema, actions: Sequence[AddAction]) -> int:
        delta = self._create(schema)
        if actions:
            _add_columns(delta, schema)
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
        if self.objects is None:
            (self.root / schema.name).mkdir(parents=True, exist_ok=True)
        return DeltaTable.create(
            self._uri(schema.name),
            schema=columns,
            mode="ignore",
            partition_by=_partition(schema),
            configuration=_CONFIGURATION,
            storage_options=self._options,
        )


def open_lake(config: SieveConfig) -> Lake:
    """The configured lake: on object storage where `training.lake` says so, else the folder below `root`.

    Raises:
        ConfigError: a mistake in the `training` section.
    """
    remote = training_config(config).lake
    return Lake(config.lake, ObjectStore(remote.url, remote.storage_options) if remote else None)


def conform(schema: TableSchema, data: pa.Table) -> pa.Table:
    """The rows in the declared column order and types, with `event_date` where the table has a clock.

    Only spellings of the same type are converted (large or dictionary strings, timestamp units); see
    `column_problems` for what counts as the same.

    Raises:
        DataError: a null in the time column, or a time that microseconds cannot hold.
    """
    try:
        table = _with_optional(schema, data).select(schema.arrow.names).cast(schema.arrow)
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
    needed = [name for name in declared.names if name not in schema.optional]
    problems = [f"column {name} is missing" for name in needed if name not in found.names]
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


def _with_optional(schema: TableSchema, data: pa.Table) -> pa.Table:
    """The rows with nulls in the optional columns that they lack."""
    for name in sorted(schema.optional - set(data.column_names)):
        data = data.append_column(schema.arrow.field(name), pa.nulls(data.num_rows, schema.arrow.field(name).type))
    return data


def _add_columns(delta: DeltaTable, schema: TableSchema) -> None:
    """Declares the optional columns that a table made before them lacks."""
    lacking = schema.optional - {field.name for field in delta.schema().fields}
    if lacking:
        delta.alter.add_columns([Field.from_arrow(schema.arrow.field(name)) for name in sorted(lacking)])
        delta.update_incremental()


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


def _views(schema: TableSchema, rows: str | None) -> list[str]:
    """SQL that makes the views of one table from the rows of one of its versions."""
    entity = schema.time_column is None and schema.name != "quarantine"
    log = f"{schema.name}_log" if entity else schema.name
    statements = [f"CREATE VIEW {log} AS {_scan(schema, rows)}"]
    if entity:
        statements.append(
            f"CREATE VIEW {schema.name} AS SELECT * FROM {log} "
            f"QUALIFY row_number() OVER (PARTITION BY {schema.key[0]} ORDER BY ingested_at DESC) = 1"
        )
    return statements


def _scan(schema: TableSchema, rows: str | None) -> str:
    columns = [f'"{name}"' for name in schema.arrow.names]
    columns += [DATE] if schema.time_column else []
    if rows:
        if schema.optional:  # files written before a column was declared lack it
            kinds = {name: _sql_type(schema.arrow.field(name).type) for name in sorted(schema.optional)}
            absent = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in kinds.items())
            rows = f"(FROM {rows} UNION ALL BY NAME SELECT {absent} WHERE false)"
        return f"SELECT {', '.join(columns)} FROM {rows}"
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
