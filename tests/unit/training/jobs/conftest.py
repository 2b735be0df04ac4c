"""Hand-made logs of events, written into a real lake."""

import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "features"))

from film_log import FilmLog

from training.data.schemas import TABLES
from training.data.tables import Lake


@pytest.fixture
def connect(tmp_path: Path) -> Callable[[FilmLog], duckdb.DuckDBPyConnection]:
    """Writes a log's four tables and connects to them."""

    def written(log: FilmLog) -> duckdb.DuckDBPyConnection:
        lake = Lake(tmp_path / "lake")
        for name, schema in TABLES.items():
            lake.append(name, pa.Table.from_pylist(log.rows[name], schema=schema.arrow))
        return lake.connect()

    return written
