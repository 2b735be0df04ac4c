"""Small tables with known content, made column by column."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from training.data.schemas import TABLES
from training.data.tables import Lake

DAY_US = 86_400_000_000
START_US = 1_767_225_600_000_000  # 2026-01-01, a Thursday

Rows = Callable[..., pa.Table]

_DEFAULTS: dict[str, dict[str, Any]] = {
    "items": {"item_id": "i1", "title": "Film", "genres": ["Drama"], "maturity": 0, "available_at": START_US},
    "users": {"user_id": "u1", "created_at": START_US},
    "impressions": {"user_id": "u1", "item_id": "i1", "position": 0, "device": "tv", "event_time": START_US},
    "events": {"user_id": "u1", "item_id": "i1", "type": "click", "device": "tv", "event_time": START_US},
}
_CLOCK = {"items": "available_at", "users": "created_at", "impressions": "event_time", "events": "event_time"}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def rows() -> Rows:
    """Builds `n` rows of a table; columns given as lists vary, others are constant, ids are numbered."""

    def build(table: str, n: int = 1, **columns: Any) -> pa.Table:
        schema = TABLES[table].arrow
        given = {**_DEFAULTS[table], **columns}
        if "event_id" in schema.names:
            given.setdefault("event_id", [f"{table}-{i}" for i in range(n)])
        given.setdefault("ingested_at", given[_CLOCK[table]])
        arrays = [_column(field, given.get(field.name), n) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)

    return build


def _column(field: pa.Field, value: Any, n: int) -> pa.Array:
    varies = isinstance(value, list) and (not pa.types.is_list(field.type) or any(isinstance(v, list) for v in value))
    return pa.array(value if varies else [value] * n, field.type)
