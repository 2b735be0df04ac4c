"""Parquet files of a Delta commit, written one month and one chunk at a time.

`write_deltalake` keeps a writer open for every partition until the commit (about 300 bytes for each row of a
long history); this keeps memory bounded and is still one atomic commit. Partitions are months, and rows lie
in order of `event_date` inside, so that a scan of some days skips the other row groups and twenty years of sparse
ratings are not thousands of files.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake.transaction import AddAction

DATE = "event_date"
PARTITION = "event_month"
CHUNK_ROWS = 1_000_000
ROW_GROUP_ROWS = 50_000


@dataclass(frozen=True)
class DataFile:
    """One file to be written: its month as YYYY-MM (None: not partitioned) and rows."""

    month: str | None
    rows: pa.Table


def write_files(folder: Path, chunks: Iterable[pa.Table]) -> list[AddAction]:
    """Writes each chunk's rows below `folder`, one file per chunk and month, and describes them.

    Chunks are read one after the other and not kept. Rows keep their order within a day. If a chunk cannot
    be produced or written, the files written so far are removed.
    """
    actions: list[AddAction] = []
    try:
        with ThreadPoolExecutor(pa.cpu_count()) as pool:
            for chunk in chunks:
                actions += pool.map(lambda file: _write(folder, file), _by_month(chunk))
    except BaseException:
        for action in actions:
            (folder / action.path).unlink(missing_ok=True)
        raise
    return actions


def rechunk(batches: Iterable[pa.RecordBatch], rows: int = CHUNK_ROWS) -> Iterator[pa.Table]:
    """Joins record batches into tables of at least `rows` rows (the last one may be shorter)."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(b.num_rows for b in held) >= rows:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def with_date(table: pa.Table, time_column: str) -> pa.Table:
    """Adds `event_date`, the UTC date of a time column without nulls."""
    days = pc.floor_temporal(table[time_column].cast(pa.timestamp("us")), unit="day")
    return table.append_column(DATE, days.cast(pa.date32()))


def _by_month(chunk: pa.Table) -> Iterator[DataFile]:
    if DATE not in chunk.column_names:
        yield DataFile(None, chunk)
        return
    dates = chunk[DATE].to_numpy()
    if np.any(dates[1:] < dates[:-1]):
        order = np.argsort(dates, kind="stable")
        chunk, dates = chunk.take(order), dates[order]
    months = dates.astype("datetime64[M]")
    cuts = [0, *(np.flatnonzero(months[1:] != months[:-1]) + 1), len(months)]
    for start, end in pairwise(cuts):
        yield DataFile(str(months[start]), chunk.slice(start, end - start))


def _write(folder: Path, file: DataFile) -> AddAction:
    name = f"part-{uuid.uuid4()}.zstd.parquet"
    relative = name if file.month is None else f"{PARTITION}={file.month}/{name}"
    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(file.rows, path, compression="zstd", compression_level=1, row_group_size=ROW_GROUP_ROWS)
    status = path.stat()
    return AddAction(
        path=relative,
        size=status.st_size,
        partition_values={} if file.month is None else {PARTITION: file.month},
        modification_time=int(status.st_mtime * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": file.rows.num_rows}),
    )
