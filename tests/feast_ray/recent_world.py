"""The small feature world of `tests/bench`, moved so that its last day is yesterday: Feast's Ray engine drops rows that
are older than their TTL by the time on the wall."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from feature_world import START_US, WorldSize, make_world

from serving.config import OnlineStore, SieveConfig, SqliteOnlineStore
from serving.features.spec import DAY_US
from training.data.tables import Lake

SIZE = WorldSize(users=80, items=60, days=12)
USERS = [f"u{i:07d}" for i in range(SIZE.users)] + ["nobody"]
ITEMS = [f"i{i:07d}" for i in range(SIZE.items)]
_TIMES = {
    "users": ("created_at", "ingested_at"),
    "items": ("available_at", "licence_end", "ingested_at"),
    "impressions": ("event_time", "ingested_at"),
    "events": ("event_time", "ingested_at"),
}


@dataclass(frozen=True)
class Recent:
    """A root whose lake is filled, and the midnight (UTC) that ends its events."""

    root: Path
    lake: Lake
    end_us: int

    def config(self, name: str, engine: str, online_store: OnlineStore | None = None) -> SieveConfig:
        """The same lake with a feature store of its own for each name."""
        root = self.root / name
        training = {"feature_engine": {"type": engine}}
        store = online_store or SqliteOnlineStore(path=root / "online.db")
        return SieveConfig(root=root, online_store=store, training=training)


def fill_lake(root: Path) -> Recent:
    """Writes the world's four tables."""
    made, lake = make_world(SIZE), Lake(root / "lake")
    end_us = time.time_ns() // 1000 // DAY_US * DAY_US
    shift = end_us - SIZE.days * DAY_US - START_US
    for table, columns in _TIMES.items():
        moved = ", ".join(f"{column} + to_microseconds({shift}) AS {column}" for column in columns)
        lake.append(table, made.sql(f"SELECT * REPLACE ({moved}) FROM {table}").to_arrow_table())
    return Recent(root, lake, end_us)
