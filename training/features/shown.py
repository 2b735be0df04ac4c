"""What a user was shown again and again without reacting, at any instant: counted by DuckDB, never held as a log.

At a reader's time L an impression counts when it was known before `L - lag`, happened in the `WINDOW_DAYS` days
before that, and lies after everything that the user was known to have done with the item in those days: opened its
page, played, rated or listed it. An item that counts at least twice was shown in vain.

Legend: R moments of users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.features.spec import DAY_US

WINDOW_DAYS = 30
MIN_SHOWN = 2
MAX_ITEMS = 200


@dataclass(frozen=True)
class Shown:
    """Items shown in vain, most often first, the lower id of equals; `counts` float32 says how often."""

    items: list[str]
    counts: npt.NDArray[np.float32]


NOTHING_SHOWN = Shown([], np.empty(0, np.float32))

_COUNT = f"""
WITH reacted AS (
    SELECT asked.moment, item_id, max(epoch_us(event_time)) AS at_us
    FROM events JOIN asked USING (user_id)
    WHERE event_time >= make_timestamptz($from_us) AND event_time < make_timestamptz($to_us)
      AND greatest(epoch_us(event_time), epoch_us(ingested_at)) < before_us
    GROUP BY ALL),
counted AS (
    SELECT asked.moment, impressions.item_id, count(*) AS times
    FROM impressions JOIN asked USING (user_id)
    LEFT JOIN reacted ON reacted.moment = asked.moment AND reacted.item_id = impressions.item_id
    WHERE event_time >= make_timestamptz($from_us) AND event_time < make_timestamptz($to_us)
      AND epoch_us(event_time) >= before_us - {WINDOW_DAYS * DAY_US}
      AND greatest(epoch_us(event_time), epoch_us(ingested_at)) < before_us
      AND epoch_us(event_time) > coalesce(reacted.at_us, 0)
    GROUP BY ALL HAVING count(*) >= {MIN_SHOWN}),
placed AS (
    SELECT *, row_number() OVER (PARTITION BY moment ORDER BY times DESC, item_id) AS place FROM counted)
SELECT moment, list(item_id ORDER BY place) AS items, list(times::FLOAT ORDER BY place) AS counts
FROM placed WHERE place <= {MAX_ITEMS} GROUP BY moment"""


def shown_in_vain(
    connection: duckdb.DuckDBPyConnection, user_ids: Sequence[str], before_us: npt.NDArray[np.int64]
) -> list[Shown]:
    """What each of R users was shown in vain as known before an instant int64[R], the lag already taken off."""
    if not len(user_ids):
        return []
    asked = pa.table({"moment": np.arange(len(user_ids)), "user_id": pa.array(user_ids, pa.string()),
                      "before_us": before_us})  # fmt: skip
    table = _count(connection, asked, int(before_us.min()), int(before_us.max()))
    found = [NOTHING_SHOWN] * len(user_ids)
    for moment, shown in zip(table["moment"].to_pylist(), _rows(table), strict=True):
        found[moment] = shown
    return found


def all_shown_in_vain(connection: duckdb.DuckDBPyConnection, before_us: int) -> dict[str, Shown]:
    """What everyone was shown in vain as known before an instant, for the users to whom that happened."""
    asked = connection.sql(
        f"""SELECT user_id, row_number() OVER () - 1 AS moment, $before_us AS before_us FROM (SELECT DISTINCT user_id
            FROM impressions WHERE event_time >= make_timestamptz($before_us - {WINDOW_DAYS * DAY_US}))""",
        params={"before_us": before_us},
    ).to_arrow_table()
    table = _count(connection, asked, before_us, before_us)
    users = asked["user_id"].take(table["moment"]).to_pylist() if table.num_rows else []
    return dict(zip(users, _rows(table), strict=True))


def _count(connection: duckdb.DuckDBPyConnection, asked: pa.Table, first_us: int, last_us: int) -> pa.Table:
    # constant bounds of time let the scans skip what is older or newer than any moment asked for
    span = {"from_us": first_us - WINDOW_DAYS * DAY_US, "to_us": last_us}
    connection.register("asked", asked)
    try:
        counted: pa.Table = connection.sql(_COUNT, params=span).to_arrow_table()
        return counted
    finally:
        connection.unregister("asked")


def _rows(table: pa.Table) -> list[Shown]:
    columns = zip(table["items"].to_pylist(), table["counts"].to_pylist(), strict=True)
    return [Shown(items, np.array(counts, np.float32)) for items, counts in columns]
