"""Small logs of film events, written by hand, behind the lake's view names."""

from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from training.data.schemas import EVENTS, IMPRESSIONS, ITEMS, USERS

DAY_0 = datetime(2026, 1, 10, tzinfo=UTC)  # a Saturday
DAY_0_INDEX = 20_463


def at(day: float = 0, **more: float) -> datetime:
    """A moment so many days (and hours, microseconds, ...) after the midnight of `DAY_0`."""
    return DAY_0 + timedelta(days=day, **more)


def time_us(moment: datetime) -> int:
    """Microseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


class FilmLog:
    """Collects rows and shows them as the views of a lake."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {t.name: [] for t in (EVENTS, IMPRESSIONS, ITEMS, USERS)}

    def user(self, user_id: str, created: datetime = at(-5), **columns: Any) -> None:
        self.rows["users"].append({"user_id": user_id, "created_at": created, "ingested_at": created} | columns)

    def item(self, item_id: str, known: datetime = at(-20), **columns: Any) -> None:
        self.rows["items"].append({"item_id": item_id, "available_at": known, "ingested_at": known} | columns)

    def event(
        self,
        user_id: str,
        item_id: str,
        kind: str,
        when: datetime,
        value: float | None = None,
        ingested: datetime | None = None,
        **columns: Any,
    ) -> None:
        row = {
            "event_id": f"e{len(self.rows['events'])}",
            "user_id": user_id,
            "item_id": item_id,
            "type": kind,
            "value": value,
            "event_time": when,
            "ingested_at": ingested or when,
        }
        self.rows["events"].append(row | columns)

    def impression(
        self, user_id: str, item_id: str, when: datetime, position: int = 0, ingested: datetime | None = None
    ) -> None:
        self.rows["impressions"].append(
            {
                "event_id": f"m{len(self.rows['impressions'])}",
                "user_id": user_id,
                "item_id": item_id,
                "position": position,
                "event_time": when,
                "ingested_at": ingested or when,
            }
        )

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A connection with the views `events`, `impressions`, `items(_log)` and `users(_log)`."""
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        for table in (EVENTS, IMPRESSIONS, ITEMS, USERS):
            rows = pa.Table.from_pylist(self.rows[table.name], schema=table.arrow)
            entity = table.time_column is None
            connection.register(f"{table.name}_log" if entity else table.name, rows)
        return connection
