"""Point-in-time reads of packed views: for each row the newest snapshot at its time, if it is not too old.

The join runs on keys alone: DuckDB's ASOF JOIN pairs each (entity, time) with a snapshot, then the packed values
are copied from the files one day at a time. Memory is the result and one day, and the cost is linear.

Feast 0.67's own DuckDB store joins `feature_time <= entity_time AND feature_time + ttl >= entity_time`, then keeps
the newest pair of each row by a window. DuckDB plans that as a hash join on the entity with the two times as
residual conditions, so every row is paired with all snapshots of its entity inside the TTL, and the packed values
travel through the join and the grouping: time and memory grow with rows x TTL x width. The results agree.
`tests/bench/point_in_time.py` measures both; docs/features.md has the figures.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from serving.errors import DataError
from serving.features.spec import DAY_US
from training.features.snapshots import day_date, snapshot_days, snapshot_path

Matrix = npt.NDArray[np.float32]
Times = npt.NDArray[np.int64]

MISSING_DAY = -1
_BLOCK = 1 << 16


@dataclass(frozen=True)
class ViewRead:
    """`values` float32[R, D], NaN where there was no row; `day` int32[R] of the snapshot read, -1 where none."""

    values: Matrix
    day: npt.NDArray[np.int32]


def read_view(
    directory: Path, key: str, field: str, width: int, ids: pa.Array, time_us: Times, ttl_us: int
) -> ViewRead:
    """The packed row of `field` that was in force for each (id, time).

    `directory` holds one file per day; `ids` are R strings (dictionary-encoded or not); `time_us` is int64[R],
    the reader's lag already taken off. A row reads the newest snapshot t of its id with `t <= time < t + ttl`.
    Other ids, or times without such a snapshot, are NaN.

    Raises:
        DataError: a snapshot's rows have another number of features than `width`.
    """
    encoded = _dictionary(ids)
    day, place = match_snapshots(directory, key, encoded, time_us, ttl_us)
    values = np.full((len(day), width), np.nan, np.float32)
    # Parquet decoding releases the interpreter: the next day is read while this one is copied
    order = np.argsort(day, kind="stable")
    days = [int(d) for d in np.unique(day) if d != MISSING_DAY]
    bounds = np.searchsorted(day[order], [*days, np.iinfo(np.int32).max])
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(_read_values, directory, days[0], field, width)] if days else []
        for i, _ in enumerate(days):
            stored = pending.pop().result()
            if i + 1 < len(days):
                pending.append(pool.submit(_read_values, directory, days[i + 1], field, width))
            rows = order[bounds[i] : bounds[i + 1]]
            for block in _blocks(rows):
                values[block] = stored[place[block]]
    return ViewRead(values, day)


def match_snapshots(
    directory: Path, key: str, ids: pa.DictionaryArray, time_us: Times, ttl_us: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """int32[R] day of the snapshot in force (-1: none) and int64[R] place of the row in that day's file."""
    days = snapshot_days(directory)
    lowest = int(time_us.min()) - ttl_us if len(time_us) else 0
    days = [d for d in days if len(time_us) and lowest < d * DAY_US <= int(time_us.max())]
    day = np.full(len(time_us), MISSING_DAY, np.int32)
    place = np.full(len(time_us), -1, np.int64)
    if not days:
        return day, place
    connection = duckdb.connect()
    connection.register("known", pa.table({"id": ids.dictionary, "code": np.arange(len(ids.dictionary))}))
    codes = np.asarray(ids.indices.fill_null(-1))
    wanted = pa.table({"code": codes, "at": time_us, "place": np.arange(len(codes))})
    connection.register("wanted", wanted)
    paths = ", ".join(f"'{_quoted(str(snapshot_path(directory, d)))}'" for d in days)
    matched: pa.Table = connection.sql(
        f"""
        SELECT w.place AS row, s.stamp // {DAY_US} AS day, s.place
        FROM wanted w
        ASOF JOIN (
            SELECT k.code, epoch_us(f.event_timestamp) AS stamp, f.file_row_number AS place
            FROM read_parquet([{paths}], file_row_number = true) f JOIN known k ON k.id = f."{key}"
        ) s ON w.code = s.code AND w."at" >= s.stamp
        WHERE w."at" - s.stamp < {ttl_us}
        """
    ).to_arrow_table()
    connection.close()
    rows = matched["row"].to_numpy()
    day[rows] = matched["day"].to_numpy()
    place[rows] = matched["place"].to_numpy()
    return day, place


def packed_values(column: pa.ChunkedArray, width: int, where: str) -> Matrix:
    """float32[n, width] of a list column.

    Raises:
        DataError: the lists have another length.
    """
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    flat = np.asarray(array.flatten(), np.float32)
    if len(flat) != len(array) * width:
        found = len(flat) / len(array)
        raise DataError(f"{where} holds {found:g} features a row, not {width}", ["build the snapshots anew"])
    matrix: Matrix = flat.reshape(len(array), width)
    return matrix


def _read_values(directory: Path, day: int, field: str, width: int) -> Matrix:
    table = pq.read_table(snapshot_path(directory, day), columns=[field])
    return packed_values(table[field], width, f"{directory.name} of {day_date(day)}")


def _dictionary(ids: pa.Array) -> pa.DictionaryArray:
    return ids if pa.types.is_dictionary(ids.type) else ids.dictionary_encode()


def _blocks(rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]


def _quoted(text: str) -> str:
    return text.replace("'", "''")
