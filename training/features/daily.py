"""Daily aggregates of events by entity, event day and the day on which they were known.

A row is known at `max(event_time, ingested_at)`. With the day of both times as keys, a snapshot at any midnight is
a sum of daily rows that leaves out what came late, and windows are cut by the event's own day.
"""

from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.config import Vocabulary
from serving.features.spec import DAY_US
from training.features.statistics import INTERACTIONS, Aggregates, Statistics

NO_TIME_US = np.iinfo(np.int64).min
_DAY_LIMIT = 1_000_000


@dataclass(frozen=True)
class Daily:
    """n daily rows: `entity` int32[n] codes into `ids`, `event_day` and `known_day` int32[n] (days since 1970),
    `values` int32 or int64[n, len(columns)], `latest` int64[n, len(latest_columns)] in microseconds, `NO_TIME_US`
    where there is none."""

    ids: list[str]
    columns: tuple[str, ...]
    latest_columns: tuple[str, ...]
    entity: npt.NDArray[np.int32]
    event_day: npt.NDArray[np.int32]
    known_day: npt.NDArray[np.int32]
    values: npt.NDArray[np.signedinteger]
    latest: npt.NDArray[np.int64]


def create_sources(connection: duckdb.DuckDBPyConnection, vocabulary: Vocabulary) -> None:
    """Makes temporary views of the rows that statistics count, each with `event_us` and `known_us`.

    `shown` are impressions, `met` plays and ratings with what was known of the item by then (`genre_mask`,
    `item_year`, `item_duration_s`), `acted` all other events, `any_row` the keys of all three.
    """
    masks = " + ".join(
        f"(CASE WHEN list_contains(genres, '{_quoted(genre)}') THEN {1 << i}::UBIGINT ELSE 0::UBIGINT END)"
        for i, genre in enumerate(vocabulary.genres)
    )
    keys = """user_id, item_id, session_id, epoch_us(event_time) AS event_us,
              greatest(epoch_us(event_time), epoch_us(ingested_at)) AS known_us"""
    met = ", ".join(f"'{kind}'" for kind in INTERACTIONS)
    statements = (
        f"""TEMP TABLE item_versions AS
            SELECT item_id, epoch_us(ingested_at) AS since_us, {masks} AS genre_mask, year AS item_year,
                   duration_s AS item_duration_s FROM items_log""",
        f"TEMP VIEW shown AS SELECT {keys}, position FROM impressions",
        f"TEMP VIEW acted AS SELECT {keys}, type, value FROM events WHERE type NOT IN ({met})",
        f"""TEMP VIEW met AS
            SELECT e.*, v.genre_mask, v.item_year, v.item_duration_s
            FROM (SELECT {keys}, type, value, device FROM events WHERE type IN ({met})) e
            ASOF LEFT JOIN item_versions v ON e.item_id = v.item_id AND e.known_us >= v.since_us""",
        f"TEMP VIEW any_row AS SELECT {keys} FROM impressions UNION ALL SELECT {keys} FROM events",
    )
    for statement in statements:
        connection.execute(f"CREATE OR REPLACE {statement}")


def read_daily(
    connection: duckdb.DuckDBPyConnection, statistics: Statistics, partition: int = 0, partitions: int = 1
) -> Daily:
    """Aggregates the source views by day for the entities whose hash falls in this partition."""
    table: pa.Table = connection.sql(_daily_sql(statistics, partition, partitions)).to_arrow_table()
    ids = table[statistics.entity].combine_chunks().dictionary_encode()
    # Arrow columns are written into their place one by one: the table is never held twice
    dtype = np.int64 if statistics.entity == "item_id" else np.int32
    values = np.empty((table.num_rows, len(statistics.columns)), dtype)
    for i, name in enumerate(statistics.columns):
        values[:, i] = table[name].to_numpy()
    latest = np.empty((table.num_rows, len(statistics.latest)), np.int64)
    for i, name in enumerate(statistics.latest):
        latest[:, i] = table[name].to_numpy()
    entity, event_day = _int32(ids.indices), _int32(table["event_day"])
    if statistics.active_days:
        values[:, statistics.columns.index(statistics.active_days)] = _is_first_of_day(entity, event_day)
    return Daily(
        ids=ids.dictionary.to_pylist(),
        columns=statistics.columns,
        latest_columns=statistics.latest,
        entity=entity,
        event_day=event_day,
        known_day=_int32(table["known_day"]),
        values=values,
        latest=latest,
    )


def _daily_sql(statistics: Statistics, partition: int, partitions: int) -> str:
    entity = statistics.entity
    here = f"hash({entity}) % {partitions} = {partition}" if partitions > 1 else "true"
    integer = "BIGINT" if entity == "item_id" else "INTEGER"
    parts = [_source_sql(entity, source, columns, here) for source, columns in statistics.sources.items()]
    parts += [_firsts_sql(entity, name, *first, here) for name, first in statistics.firsts.items()]
    summed = [name for name in statistics.columns if name != statistics.active_days]
    totals = [f"CAST(coalesce(sum({name}), 0) AS {integer}) AS {name}" for name in summed]
    totals += [f"0 AS {statistics.active_days}"] if statistics.active_days else []
    totals += [f"coalesce(max({name}), {NO_TIME_US}) AS {name}" for name in statistics.latest]
    return f"""
        SELECT {entity}, CAST(event_day AS INTEGER) AS event_day, CAST(known_day AS INTEGER) AS known_day,
               {", ".join(totals)}
        FROM ({" UNION ALL BY NAME ".join(parts)})
        GROUP BY ALL ORDER BY known_day, event_day, {entity}
    """


def _source_sql(entity: str, source: str, columns: Aggregates, here: str) -> str:
    aggregates = [
        *(f"count(*) FILTER ({condition}) AS {name}" for name, condition in columns.counts.items()),
        *(f"sum({value}) FILTER ({condition}) AS {name}" for name, (condition, value) in columns.sums.items()),
        *(f"max(event_us) AS {name}" for name in columns.latest),
    ]
    return f"""
        SELECT {entity}, event_us // {DAY_US} AS event_day, known_us // {DAY_US} AS known_day, {", ".join(aggregates)}
        FROM {source} WHERE {here} GROUP BY ALL"""


def _firsts_sql(entity: str, name: str, source: str, met: str, here: str) -> str:
    """Counts what an entity meets for the first time, on the day on which it was first known.

    Of the rows known on that day the earliest event day counts; both days travel in one integer.
    """
    first = f"min(known_us // {DAY_US} * {_DAY_LIMIT} + event_us // {DAY_US})"
    return f"""
        SELECT {entity}, first % {_DAY_LIMIT} AS event_day, first // {_DAY_LIMIT} AS known_day, count(*) AS {name}
        FROM (SELECT {entity}, {first} AS first FROM {source}
              WHERE {here} AND {met} IS NOT NULL GROUP BY {entity}, hash({met}))
        GROUP BY ALL"""


def _is_first_of_day(entity: npt.NDArray[np.int32], event_day: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Marks, in rows ordered by the day they were known, the first of each entity and event day."""
    _, first = np.unique(entity.astype(np.int64) * _DAY_LIMIT + event_day, return_index=True)
    marks = np.zeros(len(entity), np.bool_)
    marks[first] = True
    return marks


def _int32(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.int32]:
    return np.asarray(column.cast(pa.int32()))


def _quoted(text: str) -> str:
    return text.replace("'", "''")
