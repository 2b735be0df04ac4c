"""What values may be: one declaration per column, turned into SQL conditions that name the broken rows.

A rule's SQL is true for a broken row and never null. Reasons read `column: what is wrong`, so that counts of
reasons are also counts by column.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from training.data.schemas import ID_MAX_BYTES, TABLES, Device, EventType, TableSchema

CLOCK_TOLERANCE_S = 300
"""How far an event's own clock may run ahead of the instant at which it was ingested."""

EARLIEST = "1990-01-01"
LATEST = "2200-01-01"


@dataclass(frozen=True)
class Column:
    """What one column holds, beyond its type."""

    max_null_share: float = 1.0
    """Share of nulls in a day from which on the whole column counts as broken."""
    low: float | None = None
    high: float | None = None
    values: tuple[str, ...] = ()
    pattern: str | None = None


@dataclass(frozen=True)
class RowRule:
    """A condition over several columns of a row; `sql` is true when it is broken."""

    reason: str
    sql: str


_ID = Column(max_null_share=0.05)
_COUNTRY = Column(pattern="[A-Z]{2}")
_DEVICE = Column(values=tuple(Device))

COLUMNS: dict[str, dict[str, Column]] = {
    "items": {
        "item_id": _ID,
        "title": Column(max_null_share=0.4),
        "genres": Column(max_null_share=0.4),
        "year": Column(low=1870, high=2200),
        "maturity": Column(max_null_share=0.4, low=0, high=21),
        "duration_s": Column(low=1, high=1_000_000),
        "available_at": _ID,
        "ingested_at": _ID,
    },
    "users": {
        "user_id": _ID,
        "birth_year": Column(low=1890, high=2200),
        "country": _COUNTRY,
        "created_at": _ID,
        "ingested_at": _ID,
    },
    "impressions": {
        "event_id": _ID,
        "user_id": _ID,
        "item_id": _ID,
        "position": Column(max_null_share=0.05, low=0, high=10_000),
        "device": _DEVICE,
        "country": _COUNTRY,
        "event_time": _ID,
        "ingested_at": _ID,
    },
    "events": {
        "event_id": _ID,
        "user_id": _ID,
        "item_id": _ID,
        "type": Column(max_null_share=0.05, values=tuple(EventType)),
        "device": _DEVICE,
        "country": _COUNTRY,
        "event_time": _ID,
        "ingested_at": _ID,
    },
}

_SKEW = f"event_time > ingested_at + INTERVAL {CLOCK_TOLERANCE_S} SECOND"
_TIME_TRAVEL = RowRule("event_time: later than ingested_at", _SKEW)

ROWS: dict[str, tuple[RowRule, ...]] = {
    "items": (RowRule("licence_end: before licence_start", "licence_end < licence_start"),),
    "users": (),
    "impressions": (_TIME_TRAVEL,),
    "events": (
        _TIME_TRAVEL,
        RowRule("value: missing", "type IN ('play', 'completion', 'rating') AND value IS NULL"),
        RowRule("value: not a number", "isnan(value) OR isinf(value)"),
        RowRule("value: seconds outside 0 to 604800", "type = 'play' AND value NOT BETWEEN 0 AND 604800"),
        RowRule("value: share outside 0 to 1", "type = 'completion' AND value NOT BETWEEN 0 AND 1"),
        RowRule("value: stars outside 0.5 to 5", "type = 'rating' AND value NOT BETWEEN 0.5 AND 5"),
    ),
}
_BEFORE_USER = RowRule("event_time: before the user existed", "event_time < existing.created_at")


def table_rules(table: str) -> list[RowRule]:
    """Every rule of a table's rows, in the order of its columns; to be asked of rows with `user_join`."""
    schema = TABLES[table]
    rules = [rule for name in schema.arrow.names for rule in _column_rules(schema, name)]
    rules += [*ROWS[table], *([_BEFORE_USER] if schema.time_column else [])]
    return [RowRule(rule.reason, f"coalesce({rule.sql}, false)") for rule in rules]


def user_join(schema: TableSchema) -> str:
    """SQL that joins each event with `existing`, its user's first `created_at` (null for an unknown user)."""
    if schema.time_column is None:
        return ""
    users = "SELECT user_id, min(created_at) AS created_at FROM users_log GROUP BY user_id"
    return f"LEFT JOIN ({users}) AS existing USING (user_id)"


def null_limit(table: str, column: str) -> float:
    """The declared share of nulls from which on a day of this column is broken (1: never)."""
    return COLUMNS[table].get(column, Column()).max_null_share


def _column_rules(schema: TableSchema, name: str) -> Iterator[RowRule]:
    column, kind, quoted = COLUMNS[schema.name].get(name, Column()), schema.arrow.field(name).type, f'"{name}"'
    if name in schema.required:
        yield RowRule(f"{name}: missing", f"{quoted} IS NULL")
    if name.endswith("_id"):
        yield RowRule(f"{name}: empty", f"{quoted} = ''")
        yield RowRule(f"{name}: longer than {ID_MAX_BYTES} bytes", f"strlen({quoted}) > {ID_MAX_BYTES}")
        yield RowRule(f"{name}: holds a NUL", f"contains({quoted}, chr(0))")
    if pa.types.is_timestamp(kind):
        span = f"{quoted} NOT BETWEEN '{EARLIEST}'::TIMESTAMPTZ AND '{LATEST}'::TIMESTAMPTZ"
        if name != "licence_end":
            yield RowRule(f"{name}: not between {EARLIEST} and {LATEST}", span)
    if column.low is not None:
        yield RowRule(
            f"{name}: outside {column.low:g} to {column.high:g}",
            f"{quoted} NOT BETWEEN {column.low} AND {column.high}",
        )
    if column.values:
        known = ", ".join(f"'{value}'" for value in column.values)
        yield RowRule(f"{name}: not one of {known.replace(chr(39), '')}", f"{quoted} NOT IN ({known})")
    if column.pattern:
        yield RowRule(f"{name}: not like {column.pattern}", f"NOT regexp_full_match({quoted}, '{column.pattern}')")
