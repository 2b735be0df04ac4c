"""Validation on the way in: good rows are appended, bad rows go to quarantine with their reasons.

Own SQL rather than pandera: rows are judged where they lie (Arrow, in DuckDB) in one pass with all their
reasons, against the lake (duplicates, users) as well, and a batch larger than memory passes in chunks.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa

from serving.errors import DataError
from training.data.alarms import add_alarms
from training.data.files import rechunk
from training.data.quarantine import broken_columns, quarantine_rows
from training.data.rules import EARLIEST, LATEST, table_rules, user_join
from training.data.schemas import TABLES, TableSchema
from training.data.tables import Lake, column_problems, conform

PROBLEMS = "_problems"
SOURCE_ROW = "_row"
CONVERSION = {PROBLEMS: pa.list_(pa.string()), SOURCE_ROW: pa.string()}
"""Columns that a conversion may add: what it could not convert (list of reasons), and its row as JSON."""


@dataclass(frozen=True)
class IngestReport:
    """What became of the rows of one ingestion; the three counts sum to the rows that came in."""

    table: str
    accepted: int
    quarantined: int
    duplicates: int
    """Rows that the lake or the batch already holds, equal in every column: dropped."""
    reasons: dict[str, int]
    examples: dict[str, str]
    """One refused row, as JSON, for each reason."""


@dataclass(frozen=True)
class Verdicts:
    """One chunk, judged: the rows to append and the rows to refuse."""

    good: pa.Table
    refused: pa.Table
    """Columns `reasons` list<string>, `row` string (JSON), `event_time`."""
    duplicates: int


def ingest(lake: Lake, table: str, data: pa.Table | pa.RecordBatchReader) -> IngestReport:
    """Checks rows against the declared rules, appends the good ones and quarantines the rest.

    Rows equal to one that the lake holds are dropped and counted, so that the same rows may be sent again; an
    item or user that differs from its current row in nothing but `ingested_at` counts as equal. Another row
    under a key that is taken is refused. Duplicates of events are sought among the days of the batch. A reader
    is taken in chunks, each committed by itself. Breaks of a whole column raise an alarm beside the report.

    Raises:
        DataError: unknown table; columns missing, unknown or of another type (nothing is stored); no rows; or
            not one good row (nothing is stored).
    """
    if table not in TABLES:
        raise DataError(f"there is no table {table}; there are {', '.join(TABLES)}")
    schema = TABLES[table]
    _check_schema(schema, data.schema)
    accepted = quarantined = duplicates = 0
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for chunk in _chunks(data):
        verdicts = validate_batch(lake, table, chunk)
        duplicates += verdicts.duplicates
        accepted += verdicts.good.num_rows
        quarantined += verdicts.refused.num_rows
        _count(verdicts.refused, reasons, examples)
        if quarantined and not accepted and not duplicates:
            raise DataError(f"table {table}: none of {quarantined} row(s) is valid", _lines(reasons, examples))
        if verdicts.good.num_rows:
            lake.append(table, verdicts.good)
        quarantine_rows(lake, table, verdicts.refused)
    if accepted + quarantined + duplicates == 0:
        raise DataError(f"table {table}: there are no rows to ingest")
    if quarantined:
        with lake.connect() as connection:
            add_alarms(lake, broken_columns(connection))
    return IngestReport(table, accepted, quarantined, duplicates, dict(reasons.most_common()), examples)


def validate_batch(lake: Lake, table: str, chunk: pa.Table) -> Verdicts:
    """Judges rows that fit in memory against the rules of a declared table and the lake; stores nothing."""
    schema = TABLES[table]
    declared = conform_rows(schema, chunk)
    with lake.connect() as connection:
        connection.register("batch", declared)
        connection.execute(_JUDGE.format(reasons=_reasons(schema), join=user_join(schema)))
        connection.execute(_rivals(schema, connection))
        good = connection.sql(_GOOD.format(columns=_columns(schema))).to_arrow_table()
        refused = connection.sql(_REFUSED.format(row=_row_json(schema), clock=_clock(schema))).to_arrow_table()
    return Verdicts(good, refused, chunk.num_rows - good.num_rows - refused.num_rows)


def conform_rows(schema: TableSchema, chunk: pa.Table) -> pa.Table:
    """The declared columns as declared, then the conversion's columns (null where absent) and `_n` int64."""
    table = conform(replace(schema, time_column=None), chunk)
    for name, kind in CONVERSION.items():
        column = chunk[name] if name in chunk.column_names else pa.nulls(chunk.num_rows, kind)
        table = table.append_column(name, column)
    return table.append_column("_n", pa.array(range(chunk.num_rows), pa.int64()))


# Reasons of each row; a conversion's own problems come instead of what they lead to.
_JUDGE = """CREATE TEMP TABLE judged AS
SELECT _n, CASE WHEN len(_problems) > 0 THEN _problems ELSE {reasons} END AS reasons
FROM batch {join}"""

_GOOD = """SELECT {columns} FROM batch WHERE _n IN
(SELECT _n FROM judged WHERE len(reasons) = 0) AND _n NOT IN (SELECT _n FROM rivals) ORDER BY _n"""

_REFUSED = """SELECT CASE WHEN len(judged.reasons) > 0 THEN judged.reasons ELSE [rivals.reason] END AS reasons,
    coalesce(_row, {row}) AS row, {clock} AS event_time
FROM batch JOIN judged USING (_n) LEFT JOIN rivals USING (_n)
WHERE len(judged.reasons) > 0 OR rivals.reason IS NOT NULL ORDER BY _n"""

# Good rows under a key that an earlier row holds: `reason` is null where the two are equal.
_RIVALS = """CREATE TEMP TABLE rivals AS
WITH own AS (SELECT {key}, _n, hash({columns}) AS content FROM batch SEMI JOIN
        (SELECT _n FROM judged WHERE len(reasons) = 0) USING (_n)),
     stored AS (SELECT {key}, -1 AS _n, hash({columns}) AS content FROM {log}
        SEMI JOIN own USING ({key}) WHERE {span}),
     shared AS (SELECT {key} FROM own GROUP BY ALL HAVING count(*) > 1 UNION SELECT {key} FROM stored),
     placed AS (SELECT _n, content, first(content) OVER (PARTITION BY {key} ORDER BY _n) AS holder,
            row_number() OVER (PARTITION BY {key} ORDER BY _n) AS place
        FROM (FROM own SEMI JOIN shared USING ({key}) UNION ALL FROM stored))
SELECT _n, CASE WHEN content <> holder THEN '{key_name}: already taken by another row' END AS reason
FROM placed WHERE place > 1 AND _n >= 0"""

_UNCHANGED = """ UNION
SELECT batch._n, NULL FROM batch JOIN judged USING (_n) JOIN {table} AS stored USING ({id})
WHERE len(judged.reasons) = 0 AND hash({own}) = hash({stored})
  AND {id} IN (SELECT {id} FROM batch GROUP BY {id} HAVING count(*) = 1)"""


def _reasons(schema: TableSchema) -> str:
    rules = table_rules(schema.name)
    cases = ", ".join(f"CASE WHEN {rule.sql} THEN {_literal(rule.reason)} END" for rule in rules)
    broken = " OR ".join(rule.sql for rule in rules)
    return f"CASE WHEN {broken} THEN list_filter([{cases}], lambda reason: reason IS NOT NULL) ELSE [] END"


def _rivals(schema: TableSchema, connection: duckdb.DuckDBPyConnection) -> str:
    span, log = "true", schema.name
    if schema.time_column is None:
        log = f"{schema.name}_log"
    else:
        first, last = connection.execute(
            "SELECT min(event_time)::DATE::VARCHAR, max(event_time)::DATE::VARCHAR FROM batch"
        ).fetchall()[0]
        span = f"event_date BETWEEN '{first}' AND '{last}'" if first else "false"
    key = ", ".join(schema.key)
    statement = _RIVALS.format(key=key, key_name=schema.key[0], columns=_columns(schema), log=log, span=span)
    if schema.time_column is None:
        statement += _unchanged(schema)
    return statement


def _unchanged(schema: TableSchema) -> str:
    names = [name for name in schema.arrow.names if name != "ingested_at"]
    own, stored = (", ".join(f'{side}."{name}"' for name in names) for side in ("batch", "stored"))
    return _UNCHANGED.format(table=schema.name, id=schema.key[0], own=own, stored=stored)


def _columns(schema: TableSchema) -> str:
    return ", ".join(f'"{name}"' for name in schema.arrow.names)


def _row_json(schema: TableSchema) -> str:
    return "to_json(struct_pack(" + ", ".join(f'"{n}" := batch."{n}"' for n in schema.arrow.names) + "))"


def _clock(schema: TableSchema) -> str:
    clock = f'batch."{schema.time_column or "ingested_at"}"'
    return f"CASE WHEN {clock} BETWEEN '{EARLIEST}'::TIMESTAMPTZ AND '{LATEST}'::TIMESTAMPTZ THEN {clock} END"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _check_schema(schema: TableSchema, found: pa.Schema) -> None:
    declared = pa.schema([field for field in found if field.name not in CONVERSION])
    problems = column_problems(schema, declared)
    if problems:
        raise DataError(f"table {schema.name} does not take these columns: the batch is refused whole", problems)


def _chunks(data: pa.Table | pa.RecordBatchReader) -> Iterator[pa.Table]:
    batches = data.to_batches() if isinstance(data, pa.Table) else data
    yield from rechunk(batch for batch in batches if batch.num_rows)


def _count(refused: pa.Table, reasons: Counter[str], examples: dict[str, str]) -> None:
    for row in refused.select(["reasons", "row"]).to_pylist():
        for reason in row["reasons"]:
            reasons[reason] += 1
            examples.setdefault(reason, row["row"])


def _lines(reasons: Counter[str], examples: dict[str, str]) -> list[str]:
    return [f"{reason} ({count} row(s), e.g. {examples[reason][:200]})" for reason, count in reasons.most_common()]
