"""Quarantine: refused rows with their reasons, and the alarms that too many of them raise."""

from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from training.data.alarms import Alarm
from training.data.schemas import QUARANTINE, TABLES, TIMESTAMP
from training.data.tables import Lake

BROKEN_SHARE = 0.05
"""Share of a day's rows refused because of one column from which on the column counts as broken."""

MIN_REFUSED = 20
"""Fewer refused rows of a day are no alarm, whatever their share."""


def quarantine_rows(lake: Lake, table: str, refused: pa.Table) -> None:
    """Appends refused rows (columns `reasons`, `row`, `event_time`) that the quarantine does not hold yet."""
    if refused.num_rows == 0:
        return
    at = pa.scalar(datetime.now(UTC), TIMESTAMP)
    with lake.connect() as connection:
        connection.register("refused", refused)
        fresh = connection.sql(
            """SELECT $table AS "table", array_to_string(reasons, '; ') AS reason, row::VARCHAR AS row, event_time
            FROM refused WHERE (hash(row::VARCHAR), array_to_string(reasons, '; ')) NOT IN
              (SELECT (hash(row), reason) FROM quarantine WHERE "table" = $table)""",
            params={"table": table},
        ).to_arrow_table()
    if fresh.num_rows:
        stamps = pa.repeat(at, fresh.num_rows)
        lake.append(QUARANTINE.name, fresh.append_column("quarantined_at", stamps))


def broken_columns(connection: duckdb.DuckDBPyConnection) -> list[Alarm]:
    """Columns because of which a large share of some day's rows was refused.

    A row without a usable time counts towards the whole table instead of a day.
    """
    found = []
    for table, schema in TABLES.items():
        log = table if schema.time_column else f"{table}_log"
        day = "event_date" if schema.time_column else "ingested_at::DATE"
        rows = connection.execute(_SHARES.format(log=log, day=day), {"table": table}).fetchall()
        for column, since, until, refused, total in rows:
            detail = f"{refused} of {total} rows of these days refused"
            found.append(Alarm(table, column, "quarantine", str(since), str(until), detail))
    return found


_SHARES = f"""
WITH refused AS (
        SELECT event_time::DATE AS day, quarantined_at::DATE AS quarantined,
               unnest(list_distinct(list_transform(string_split(reason, '; '), lambda r: split_part(r, ':', 1)))) AS col
        FROM quarantine WHERE "table" = $table),
     counted AS (SELECT col, day, count(*) AS n, min(quarantined) AS first_seen, max(quarantined) AS last_seen
        FROM refused GROUP BY col, day),
     stored AS (SELECT {{day}} AS day, count(*) AS n FROM {{log}} GROUP BY 1),
     judged AS (SELECT col, coalesce(counted.day, first_seen) AS first_day,
               coalesce(counted.day, last_seen) AS last_day, counted.n,
               counted.n + CASE WHEN counted.day IS NULL THEN (SELECT coalesce(sum(n), 0) FROM stored)
                                ELSE coalesce(stored.n, 0) END AS total
        FROM counted LEFT JOIN stored ON stored.day = counted.day)
SELECT col, min(first_day), max(last_day), sum(n)::BIGINT, sum(total)::BIGINT FROM judged
WHERE n >= {MIN_REFUSED} AND n >= {BROKEN_SHARE} * total GROUP BY col ORDER BY col"""
