from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import DataError
from serving.features.spec import DAY_US
from training.features.point_in_time import read_view
from training.features.snapshot_rows import snapshot_table
from training.features.snapshots import snapshot_path

WIDTH = 3


def write_days(directory: Path, days: dict[int, list[str]]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for day, ids in days.items():
        values = np.array([[day, int(i[1:]), k] for i in ids for k in [day * 100 + int(i[1:])]], np.float32)
        table = snapshot_table("id", "packed", pa.array(ids, pa.string()), values.reshape(-1, WIDTH), day)
        pq.write_table(table, snapshot_path(directory, day))


day_files = st.dictionaries(
    st.integers(0, 12), st.lists(st.integers(0, 5), unique=True).map(lambda n: [f"e{i}" for i in n]), max_size=8
)
requests = st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 14 * 4), st.integers(-1, 1)), max_size=30)


@given(day_files, requests, st.integers(1, 4))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_row_reads_the_newest_snapshot_that_is_not_too_old(
    tmp_path_factory: pytest.TempPathFactory,
    days: dict[int, list[str]],
    requests: list[tuple[int, int, int]],
    ttl_days: int,
) -> None:
    directory = tmp_path_factory.mktemp("view")
    write_days(directory, days)
    ids = pa.array([f"e{i}" for i, _, _ in requests], pa.string())
    times = np.array([quarter * DAY_US // 4 + shift for _, quarter, shift in requests], np.int64)

    read = read_view(directory, "id", "packed", WIDTH, ids, times, ttl_days * DAY_US)

    for r, (entity, _, _) in enumerate(requests):
        at = int(times[r])
        held = [d for d, ids_ in days.items() if f"e{entity}" in ids_ and d * DAY_US <= at]
        newest = max(held, default=-1)
        if newest < 0 or at - newest * DAY_US >= ttl_days * DAY_US:
            assert read.day[r] == -1
            assert np.isnan(read.values[r]).all()
        else:
            assert read.day[r] == newest
            assert read.values[r].tolist() == [newest, entity, newest * 100 + entity]


def test_a_snapshot_without_rows_and_no_snapshots_at_all_read_as_missing(tmp_path: Path) -> None:
    write_days(tmp_path / "v", {3: []})
    ids, times = pa.array(["e1"]), np.array([3 * DAY_US])

    for directory in (tmp_path / "v", tmp_path / "nothing"):
        assert np.isnan(read_view(directory, "id", "packed", WIDTH, ids, times, DAY_US).values).all()


def test_snapshots_of_another_width_are_refused_by_day(tmp_path: Path) -> None:
    write_days(tmp_path, {3: ["e1"]})

    with pytest.raises(DataError, match="1970-01-04 holds 3 features a row, not 5"):
        read_view(tmp_path, "id", "packed", 5, pa.array(["e1"]), np.array([3 * DAY_US]), DAY_US)
