"""The lake checked day by day: what broke, in which column, and since when."""

from dataclasses import dataclass
from datetime import date, timedelta

import duckdb
import numpy as np
import numpy.typing as npt

from training.data.alarms import WHOLE_TABLE, Alarm
from training.data.rules import COLUMNS, null_limit, table_rules, user_join
from training.data.schemas import TABLES

BROKEN_SHARE = 0.05
"""Share of a day's rows that break one rule from which on the column counts as broken."""

SHARE_JUMP = 0.3
"""How far a day's share of nulls or of a value may lie from the median of the days before it."""

MIN_ROWS = {"items": 20, "users": 20, "impressions": 100, "events": 100}
"""Days with fewer rows say nothing about a column: they are judged together with the days after them."""

MIN_HISTORY_DAYS = 3

MIN_EXPECTED = 50
VOLUME_FACTOR = 2.0
VOLUME_Z = 6.0
MIN_LOG_SCALE = 0.1
SAME_WEEKDAYS = 8


@dataclass(frozen=True)
class TableDays:
    """Daily counts of one table: `rows` int64[D], and the rows of each day by what they show, int64[D] each.

    `nulls` is by column, `broken` by reason, `valued` by (column, value) of the columns with declared values.
    """

    table: str
    days: list[date]
    rows: npt.NDArray[np.int64]
    nulls: dict[str, npt.NDArray[np.int64]]
    broken: dict[str, npt.NDArray[np.int64]]
    valued: dict[tuple[str, str], npt.NDArray[np.int64]]

    @property
    def total(self) -> int:
        """Rows of all days."""
        return int(self.rows.sum())


def count_days(connection: duckdb.DuckDBPyConnection, table: str) -> TableDays:
    """Counts rows, nulls, breaks of each rule and declared values by day, in one scan of every row ever written.

    A day is the event's UTC date; for items and users, the date of ingestion.
    """
    schema = TABLES[table]
    reasons = {rule.reason: rule.sql for rule in table_rules(table)}
    values = [(name, value) for name, column in COLUMNS[table].items() for value in column.values]
    log, day = (table, "event_date") if schema.time_column else (f"{table}_log", "ingested_at::DATE")
    conditions = [f'{log}."{name}" IS NULL' for name in schema.arrow.names]
    conditions += reasons.values()
    conditions += [f"{log}.\"{name}\" = '{value}'" for name, value in values]
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in conditions)
    source = f"{log} {user_join(schema)}"
    query = f"SELECT {day} AS day, count(*), {counts} FROM {source} GROUP BY 1 HAVING day IS NOT NULL ORDER BY 1"
    rows = connection.execute(query).fetchall()
    by_day = iter(np.array([row[1:] for row in rows], np.int64).reshape(len(rows), 1 + len(conditions)).T)
    return TableDays(
        table=table,
        days=[row[0] for row in rows],
        rows=next(by_day),
        nulls={name: next(by_day) for name in schema.arrow.names},
        broken={reason: next(by_day) for reason in reasons},
        valued={value: next(by_day) for value in values},
    )


def find_breaks(counts: TableDays) -> list[Alarm]:
    """Alarms of one table: null floods, values against the rules, shifted shares of values, odd volumes."""
    schema = TABLES[counts.table]
    spans = merge_days(counts)
    columns = [*_null_floods(spans), *_broken_values(spans), *_value_shifts(spans)]
    return [*columns, *(_volume(counts) if schema.time_column else [])]


def merge_days(counts: TableDays) -> TableDays:
    """Joins consecutive days into spans of at least `MIN_ROWS` rows, each named by its first day.

    A rest that is too short goes to the span before it; a table with too few rows has no span.
    """
    starts, filled = [0], 0
    for day, rows in enumerate(counts.rows.tolist()):
        if filled >= MIN_ROWS[counts.table]:
            starts, filled = [*starts, day], 0
        filled += rows
    if filled < MIN_ROWS[counts.table]:
        starts = starts[:-1]

    def merged(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.add.reduceat(rows, starts) if starts else rows[:0]

    return TableDays(
        table=counts.table,
        days=[counts.days[start] for start in starts],
        rows=merged(counts.rows),
        nulls={name: merged(rows) for name, rows in counts.nulls.items()},
        broken={reason: merged(rows) for reason, rows in counts.broken.items()},
        valued={value: merged(rows) for value, rows in counts.valued.items()},
    )


def _null_floods(counts: TableDays) -> list[Alarm]:
    found = []
    for column, nulls in counts.nulls.items():
        share = nulls / counts.rows
        bad = (share > null_limit(counts.table, column)) | (_jumps(share) > 0)
        found += _alarm(counts, column, "nulls", bad, nulls, "null")
    return found


def _jumps(share: npt.NDArray[np.float64]) -> npt.NDArray[np.int8]:
    """+1 or -1 where a day's share lies far from the median of the earlier days that did not jump, else 0.

    A day without a share (NaN) is passed over.
    """
    jumped = np.zeros(len(share), np.int8)
    calm: list[float] = []
    for day in np.flatnonzero(~np.isnan(share)):
        distance = share[day] - float(np.median(calm)) if len(calm) >= MIN_HISTORY_DAYS else 0.0
        if abs(distance) > SHARE_JUMP:
            jumped[day] = np.sign(distance)
        else:
            calm.append(float(share[day]))
    return jumped


def _value_shifts(counts: TableDays) -> list[Alarm]:
    """Days on which known values trade places; the last one is left out, as it may still be filling."""
    found = []
    for column in dict.fromkeys(name for name, _ in counts.valued):
        by_value = {value: rows for (name, value), rows in counts.valued.items() if name == column}
        filled = (counts.rows - counts.nulls[column]).astype(np.float64)
        filled[filled < MIN_ROWS[counts.table] / 2] = np.nan
        jumps = {value: _jumps(rows / filled) for value, rows in by_value.items()}
        bad = np.any([jump != 0 for jump in jumps.values()], axis=0)
        bad[-1:] = False
        moved = ", ".join(value for value, jump in jumps.items() if jump[:-1].any())
        found += _alarm(counts, column, "values", bad, counts.rows, f"the share of {moved} is far from the days before")
    return found


def _broken_values(counts: TableDays) -> list[Alarm]:
    found = []
    for reason, broken in counts.broken.items():
        column, what = reason.split(": ", 1)
        if what == "missing" and column in counts.nulls and column in TABLES[counts.table].required:
            continue
        bad = (broken >= BROKEN_SHARE * counts.rows) & (broken > 0)
        found += _alarm(counts, column, "values", bad, broken, what)
    return found


def _alarm(
    counts: TableDays, column: str, kind: str, bad: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64], what: str
) -> list[Alarm]:
    if not bad.any():
        return []
    days = np.flatnonzero(bad)
    share = rows[days].sum() / counts.rows[days].sum()
    detail = f"{share:.0%} of the rows on {len(days)} day(s): {what}"
    first, last = str(counts.days[days[0]]), str(counts.days[days[-1]])
    return [Alarm(counts.table, column, kind, first, last, detail)]


def _volume(counts: TableDays) -> list[Alarm]:
    """Days far from the median of earlier same weekdays, on a log scale with a robust spread.

    Where the usual day is off by `VOLUME_FACTOR` there is no rhythm to break, and nothing is said. Silence
    counts: days without rows between the first and the last are zero. The last day may still be filling, so it
    can only be too large.
    """
    if len(counts.days) < MIN_HISTORY_DAYS * 7:
        return []
    calendar = (counts.days[-1] - counts.days[0]).days + 1
    rows = np.zeros(calendar)
    rows[[(day - counts.days[0]).days for day in counts.days]] = counts.rows
    expected = np.array([_expected(rows, day) for day in range(calendar)])
    distance = np.log(rows + 1) - np.log(expected + 1)
    settled = distance[expected >= 1]
    if len(settled) == 0:
        return []
    spread = 1.4826 * np.median(np.abs(settled - np.median(settled)))
    if spread > np.log(VOLUME_FACTOR):
        return []
    limit = max(VOLUME_Z * max(spread, MIN_LOG_SCALE), np.log(VOLUME_FACTOR))
    bad = (expected >= MIN_EXPECTED) & (np.abs(distance) > limit)
    bad[-1] &= distance[-1] > 0
    if not bad.any():
        return []
    days = np.flatnonzero(bad)
    worst = days[np.argmax(np.abs(distance[days]))]
    when = [str(counts.days[0] + timedelta(days=int(day))) for day in (days[0], days[-1], worst)]
    detail = (
        f"{len(days)} day(s) of unusual volume; on {when[2]} {rows[worst]:.0f} rows, expected {expected[worst]:.0f}"
    )
    return [Alarm(counts.table, WHOLE_TABLE, "volume", when[0], when[1], detail)]


def _expected(rows: npt.NDArray[np.float64], day: int) -> float:
    """Median of the last same weekdays before a day; 0 while there are too few."""
    before = rows[day % 7 : day : 7][-SAME_WEEKDAYS:]
    return float(np.median(before)) if len(before) >= MIN_HISTORY_DAYS else 0.0
