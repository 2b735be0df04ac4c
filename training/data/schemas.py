"""The declared schemas of Sieve's tables: what every producer writes and every reader may rely on.

All four tables are append-only. `items` and `users` hold versions of an entity; the newest `ingested_at` is
the current one. Times are microseconds in UTC. Ids are opaque UTF-8 of at most 128 bytes without NUL.
"""

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")
ID_MAX_BYTES = 128


class Device(StrEnum):
    """What the request or event came from."""

    TV = "tv"
    MOBILE = "mobile"
    TABLET = "tablet"
    WEB = "web"


class EventType(StrEnum):
    """What happened; the meaning of an event's `value` depends on it."""

    CLICK = "click"  # opened the item's page; value is null
    PLAY = "play"  # seconds watched in this sitting
    COMPLETION = "completion"  # share of the item watched when the sitting ended, 0 to 1
    RATING = "rating"  # stars, 0.5 to 5
    LIST_ADD = "list_add"  # put on the watch list; value is null


@dataclass(frozen=True)
class TableSchema:
    """One table: its columns, what must never be null, its key and its clock."""

    name: str
    arrow: pa.Schema
    required: frozenset[str]
    key: tuple[str, ...]
    time_column: str | None
    """The column whose UTC date is stored as `event_date`, and its month partitions (None: not partitioned)."""
    optional: frozenset[str] = frozenset()
    """Columns that producers and stored tables may lack; absent is null."""


ITEMS = TableSchema(
    name="items",
    arrow=pa.schema(
        [
            ("item_id", pa.string()),
            ("title", pa.string()),
            ("genres", pa.list_(pa.string())),
            ("cast", pa.list_(pa.string())),
            ("year", pa.int32()),
            ("maturity", pa.int32()),  # youngest age that may see it; null is unknown: adults only
            ("duration_s", pa.int32()),
            ("provider", pa.string()),
            ("franchise", pa.string()),  # films that belong together share one; null is none
            ("edition", pa.string()),  # versions of the same film share one; null is the only version
            ("language", pa.string()),
            ("countries", pa.list_(pa.string())),  # licensed countries; null or empty is everywhere
            ("licence_start", TIMESTAMP),
            ("licence_end", TIMESTAMP),  # null is open-ended
            ("available_at", TIMESTAMP),  # when it entered the catalogue
            ("ingested_at", TIMESTAMP),
        ]
    ),
    required=frozenset({"item_id", "available_at", "ingested_at"}),
    key=("item_id", "ingested_at"),
    time_column=None,
    optional=frozenset({"provider", "franchise", "edition"}),
)

USERS = TableSchema(
    name="users",
    arrow=pa.schema(
        [
            ("user_id", pa.string()),
            ("birth_year", pa.int32()),  # null is unknown: the most restrictive age
            ("country", pa.string()),  # ISO 3166-1 alpha-2
            ("created_at", TIMESTAMP),
            ("ingested_at", TIMESTAMP),
        ]
    ),
    required=frozenset({"user_id", "created_at", "ingested_at"}),
    key=("user_id", "ingested_at"),
    time_column=None,
)

IMPRESSIONS = TableSchema(
    name="impressions",
    arrow=pa.schema(
        [
            ("event_id", pa.string()),
            ("prediction_id", pa.string()),
            ("session_id", pa.string()),
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("position", pa.int32()),  # 0 is the top
            ("device", pa.string()),
            ("country", pa.string()),
            ("event_time", TIMESTAMP),
            ("ingested_at", TIMESTAMP),
        ]
    ),
    required=frozenset({"event_id", "user_id", "item_id", "position", "event_time", "ingested_at"}),
    key=("event_id",),
    time_column="event_time",
)

EVENTS = TableSchema(
    name="events",
    arrow=pa.schema(
        [
            ("event_id", pa.string()),
            ("prediction_id", pa.string()),
            ("session_id", pa.string()),
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("type", pa.string()),
            ("value", pa.float64()),
            ("device", pa.string()),
            ("country", pa.string()),
            ("event_time", TIMESTAMP),
            ("ingested_at", TIMESTAMP),
        ]
    ),
    required=frozenset({"event_id", "user_id", "item_id", "type", "event_time", "ingested_at"}),
    key=("event_id",),
    time_column="event_time",
)

TABLES = {table.name: table for table in (ITEMS, USERS, IMPRESSIONS, EVENTS)}

QUARANTINE = TableSchema(
    name="quarantine",
    arrow=pa.schema(
        [
            ("table", pa.string()),
            ("reason", pa.string()),  # rule names, joined by "; "
            ("row", pa.string()),  # the refused row as JSON
            ("event_time", TIMESTAMP),
            ("quarantined_at", TIMESTAMP),
        ]
    ),
    required=frozenset({"table", "reason", "row", "quarantined_at"}),
    key=(),
    time_column=None,
)

STORED = {**TABLES, QUARANTINE.name: QUARANTINE}
"""Every table of the lake: the four that producers write, and what validation refused."""
