"""The check of the whole lake that runs before training: it leaves the alarms that stand."""

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb

from training.data.alarms import Alarm, alarms, replace_alarms
from training.data.daily import TableDays, count_days, find_breaks
from training.data.quarantine import broken_columns
from training.data.schemas import TABLES, TableSchema
from training.data.tables import Lake

DUPLICATE_SHARE = 0.001
"""Share of rows under a key that another row holds from which on the table is broken."""


@dataclass(frozen=True)
class LakeCheck:
    """What a check saw: daily counts by table, and the alarms that stand (acknowledged ones left out)."""

    tables: dict[str, TableDays]
    alarms: list[Alarm]


def check_lake(lake: Lake) -> LakeCheck:
    """Checks every table day by day and makes what it finds the lake's alarms.

    Looks for tables that are not as declared, null floods, values against the rules, duplicate
    keys, unusual volumes, and columns that send many rows to quarantine.
    """
    found, readable = list(_schema_breaks(lake)), lake.versions()
    for table in {alarm.table for alarm in found}:
        readable.pop(table, None)
    tables = {}
    with lake.connect(readable) as connection:
        for name, schema in TABLES.items():
            if name not in readable:
                continue
            tables[name] = count_days(connection, name)
            found += find_breaks(tables[name])
            found += _duplicates(connection, schema)
        found += broken_columns(connection)
    replace_alarms(lake, found)
    return LakeCheck(tables, alarms(lake))


def _schema_breaks(lake: Lake) -> Iterator[Alarm]:
    for name in lake.versions():
        for problem in lake.schema_problems(name):
            since = _since(lake, name, problem)
            yield Alarm(name, problem.split()[1], "schema", since, since, problem)


def _since(lake: Lake, table: str, problem: str) -> str:
    """The day of the oldest commit from which on the problem was there without a break."""
    since = ""
    for entry in lake.history(table):
        if problem not in lake.schema_problems(table, entry["version"]):
            break
        since = str(entry["time"].date())
    return since


def _duplicates(connection: duckdb.DuckDBPyConnection, schema: TableSchema) -> list[Alarm]:
    """An alarm where many rows repeat a key."""
    log, day = (schema.name, "event_time") if schema.time_column else (f"{schema.name}_log", "ingested_at")
    key = ", ".join(schema.key)
    rows, keys = connection.execute(f"SELECT count(*), count(DISTINCT ({key})) FROM {log}").fetchall()[0]
    if rows - keys <= DUPLICATE_SHARE * rows:
        return []
    query = f"""SELECT min(first)::DATE, max(last)::DATE FROM
        (SELECT min({day}) AS first, max({day}) AS last FROM {log} GROUP BY {key} HAVING count(*) > 1)"""
    first, last = connection.execute(query).fetchall()[0]
    detail = f"{rows - keys} row(s) repeat a key that another row holds"
    return [Alarm(schema.name, schema.key[0], "duplicates", str(first), str(last), detail)]
