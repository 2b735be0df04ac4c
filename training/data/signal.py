"""Whether the lake holds enough signal to learn from."""

from dataclasses import dataclass

import duckdb

from training.data.labels import COMPLETED_SHARE, GRADE_SQL
from training.data.tables import Lake

ENOUGH = 10
"""Interactions per user and per item below which a model of either learns little."""

MIN_SHOWN = 50
"""Impressions of an item below which its click rate says nothing."""


@dataclass(frozen=True)
class Side:
    """Interactions of users, or of items.

    `count` are those that the tables know, with or without interactions; `median` is over those with at least
    one; the shares are of `count` (0 when there are none). `cold_share` have no interaction at all.
    """

    count: int
    median: float
    below_ten_share: float
    cold_share: float


@dataclass(frozen=True)
class SignalReport:
    """What there is to learn from; a measure without data behind it is None."""

    interactions: int
    users: Side
    items: Side
    clicked_not_completed: float | None
    """Share of the clicked user and item pairs that never reached a completion."""
    click_completion_correlation: float | None
    """Spearman correlation over items of click rate and completion rate (-1 to 1); ties get their mean rank."""

    @property
    def enough(self) -> bool:
        """Whether the median user and the median item have ten interactions."""
        return min(self.users.median, self.items.median) >= ENOUGH


def signal_report(lake: Lake) -> SignalReport:
    """Measures interactions (distinct user and item pairs with a graded event) against ten of each."""
    with lake.connect() as connection:
        connection.execute(_PAIRS)
        interactions = connection.execute("SELECT count(*) FROM pairs").fetchall()[0][0]
        clicked = connection.execute(
            "SELECT avg((NOT completed)::INT) FILTER (clicked AND (SELECT bool_or(watched) FROM pairs)) FROM pairs"
        ).fetchall()[0][0]
        correlation = connection.execute(_CORRELATION).fetchall()[0][0]
        return SignalReport(
            interactions=int(interactions),
            users=_side(connection, "user_id", "users"),
            items=_side(connection, "item_id", "items"),
            clicked_not_completed=clicked,
            click_completion_correlation=correlation,
        )


# One row per user and item with an interaction; `watched`: it was told how much of the item was watched.
_PAIRS = f"""CREATE TEMP TABLE pairs AS
SELECT user_id, item_id, bool_or(type = 'click') AS clicked, bool_or(type = 'completion') AS watched,
       bool_or(type = 'completion' AND coalesce(value >= {COMPLETED_SHARE}, false)) AS completed
FROM events WHERE ({GRADE_SQL}) IS NOT NULL GROUP BY user_id, item_id"""

_SIDE = """WITH known AS (SELECT {id} FROM {table} UNION SELECT {id} FROM pairs),
     counted AS (SELECT {id}, count(pairs.{id}) AS n FROM known LEFT JOIN pairs USING ({id}) GROUP BY {id})
SELECT count(*), coalesce(median(n) FILTER (n > 0), 0),
       coalesce(avg((n < {enough})::INT), 0), coalesce(avg((n = 0)::INT), 0) FROM counted"""

_CORRELATION = f"""
WITH shown AS (SELECT item_id, count(*) AS n FROM impressions GROUP BY item_id HAVING n >= {MIN_SHOWN}),
     acted AS (SELECT item_id, count(*) FILTER (clicked) AS clicks, count(*) FILTER (completed) AS completions
        FROM pairs WHERE watched OR clicked GROUP BY item_id),
     rates AS (SELECT clicks / n AS click_rate, completions / clicks AS completion_rate
        FROM shown JOIN acted USING (item_id) WHERE clicks > 0 AND (SELECT bool_or(watched) FROM pairs)),
     ranks AS (SELECT rank() OVER (ORDER BY click_rate) + (count(*) OVER (PARTITION BY click_rate) - 1) / 2 AS a,
               rank() OVER (ORDER BY completion_rate) + (count(*) OVER (PARTITION BY completion_rate) - 1) / 2 AS b
        FROM rates)
SELECT CASE WHEN count(*) > 2 AND stddev_pop(a) > 0 AND stddev_pop(b) > 0 THEN corr(a, b) END FROM ranks"""


def _side(connection: duckdb.DuckDBPyConnection, key: str, table: str) -> Side:
    row = connection.execute(_SIDE.format(id=key, table=table, enough=ENOUGH)).fetchall()[0]
    return Side(int(row[0]), float(row[1]), float(row[2]), float(row[3]))
