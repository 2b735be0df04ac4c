"""Files to import: opened as DuckDB relations, with every fault named by file before a row is stored."""

import codecs
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import duckdb
import pyarrow as pa

from serving.errors import DataError
from training.data.mapping import CsvFormat, Mapping
from training.data.tables import Lake
from training.data.validate import IngestReport, ingest

PARQUET, CSV = (".parquet", ".pq"), (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".dat", ".txt")
BATCH_ROWS = 500_000
_BLOCK_BYTES = 1 << 20


def import_files(lake: Lake, mapping: Mapping, files: Sequence[Path]) -> IngestReport:
    """Converts files by a mapping and ingests their rows into the mapping's table, in bounded memory.

    Values that cannot be converted send their row to quarantine; the same files may be imported again.

    Raises:
        DataError: a file that is missing, unreadable, of another encoding or without rows, or that lacks
            columns of the mapping (every file's problems at once); no valid row.
    """
    problems: list[str] = []
    relations: dict[Path, str] = {}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for number, path in enumerate(files):
            try:
                relation = open_file(connection, path, f"source_{number}", mapping.csv)
                relations[path] = mapping.select_sql(columns_of(connection, relation), relation)
            except DataError as error:
                problems.append(f"{path}: {'; '.join([error.what, *error.problems])}")
        if problems:
            raise DataError("nothing was imported", problems)
        return ingest(lake, mapping.table, convert(connection, relations))


def open_file(connection: duckdb.DuckDBPyConnection, path: Path, name: str, csv: CsvFormat) -> str:
    """Makes a view of a CSV file (all columns text) or a Parquet file, and returns the view's name.

    Raises:
        DataError: what is wrong with the file, without its name.
    """
    if not path.is_file():
        raise DataError("there is no such file")
    if path.stat().st_size == 0:
        raise DataError("the file is empty")
    quoted = "'" + str(path).replace("'", "''") + "'"
    if path.name.lower().endswith(PARQUET):
        scan = f"read_parquet({quoted}, hive_partitioning = false)"
    elif path.name.lower().endswith(CSV):
        check_encoding(path, csv.encoding)
        delimiter, quote = (value.replace("'", "''") for value in (csv.delimiter, csv.quote))
        scan = (
            f"read_csv({quoted}, all_varchar = true, header = true, delim = '{delimiter}', quote = '{quote}', "
            f"escape = '{quote}', encoding = '{csv.encoding}', hive_partitioning = false)"
        )
    else:
        raise DataError(f"unknown kind of file: expected one of {', '.join((*PARQUET, *CSV))}")
    try:
        connection.execute(f"CREATE VIEW {name} AS FROM {scan}")
        if connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() is None:
            raise DataError("the file has 0 rows")
    except duckdb.Error as error:
        raise DataError("the file cannot be read", [_first_lines(error)]) from None
    return name


def columns_of(connection: duckdb.DuckDBPyConnection, relation: str) -> dict[str, str]:
    """The columns of a relation with their DuckDB types."""
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE {relation}").fetchall()}


def convert(connection: duckdb.DuckDBPyConnection, selects: dict[Path, str]) -> pa.RecordBatchReader:
    """One stream over the queries of several files.

    Raises:
        DataError: while it is read, a line that is not as the file's other lines, with the file's name.
    """
    schema = connection.sql(f"{next(iter(selects.values()))} LIMIT 0").to_arrow_table().schema

    def batches() -> Iterator[pa.RecordBatch]:
        for path, select in selects.items():
            try:
                yield from connection.sql(select).to_arrow_reader(BATCH_ROWS)
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                raise DataError(f"{path} cannot be read", [_first_lines(error)]) from None

    return pa.RecordBatchReader.from_batches(schema, batches())


def check_encoding(path: Path, encoding: str) -> None:
    """Decodes a text file and keeps nothing.

    Raises:
        DataError: the first bytes that are not of the encoding, with their line.
    """
    decoder = codecs.getincrementaldecoder(encoding)()
    line, offset = 1, 0
    with _open(path) as file:
        while block := file.read(_BLOCK_BYTES):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                at = offset - pending + error.start
                line += block[: max(error.start - pending, 0)].count(b"\n")
                wrong = error.object[error.start : error.start + 1].hex()
                hint = "set csv.encoding in the mapping, or convert the file"
                raise DataError(f"not {encoding}: byte 0x{wrong} at offset {at} in line {line}; {hint}") from None
            line += block.count(b"\n")
            offset += len(block)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split("\n")[:3]).strip()
