"""Labels from events: the grade of an interaction and of an impression, with its attribution window.

Grades and windows are those of the label table: 1 a click or a play under 8 minutes (30 minutes after the
impression), 2 a play of 8 minutes or more (24 hours), 3 a completion of 70 % or more (7 days) or a rating of 4
or more (14 days). A lower rating is an interaction of grade 1 within its 14 days. Windows are closed at both
ends and exact to the microsecond.
"""

import duckdb
import pyarrow as pa

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
LONG_PLAY_S = 480.0
COMPLETED_SHARE = 0.7
LIKED_STARS = 4.0
CLICK_WINDOW_US = 30 * 60 * SECOND_US
PLAY8_WINDOW_US = DAY_US
COMPLETION_WINDOW_US = 7 * DAY_US
RATING_WINDOW_US = 14 * DAY_US
LONGEST_WINDOW_US = RATING_WINDOW_US

GRADE_SQL = f"""CASE type
    WHEN 'click' THEN 1
    WHEN 'play' THEN CASE WHEN value >= {LONG_PLAY_S} THEN 2 ELSE 1 END
    WHEN 'completion' THEN CASE WHEN value >= {COMPLETED_SHARE} THEN 3 ELSE 1 END
    WHEN 'rating' THEN CASE WHEN value >= {LIKED_STARS} THEN 3 ELSE 1 END
END"""
"""The grade that one event earns; null for events that are no interaction."""

_WINDOW_SQL = f"""CASE
    WHEN type = 'rating' THEN {RATING_WINDOW_US}
    WHEN type = 'completion' AND value >= {COMPLETED_SHARE} THEN {COMPLETION_WINDOW_US}
    WHEN type = 'play' AND value >= {LONG_PLAY_S} THEN {PLAY8_WINDOW_US}
    ELSE {CLICK_WINDOW_US}
END"""

# One row per graded event: what it earns, until when after its impression, and since when it is known.
_SIGNALS = f"""SELECT event_id, prediction_id, user_id, item_id, epoch_us(event_time) AS time_us,
    greatest(epoch_us(event_time), epoch_us(ingested_at)) AS known_us,
    ({GRADE_SQL})::TINYINT AS grade, ({_WINDOW_SQL})::BIGINT AS window_us
    FROM events WHERE type IN ('click', 'play', 'completion', 'rating')"""

# The highest grade, and of the events that earn it the one known first.
_BEST = "max({'grade': grade, 'sooner': -known_us})"

_POSITIVES = f"""
WITH signals AS ({_SIGNALS} AND greatest(epoch_us(event_time), epoch_us(ingested_at)) < $known_before_us),
     first AS (SELECT user_id, item_id, min(time_us) AS start_us FROM signals GROUP BY ALL),
     best AS (
        SELECT user_id, item_id, any_value(start_us) AS time_us, {_BEST} AS best
        FROM signals JOIN first USING (user_id, item_id)
        WHERE time_us <= start_us + window_us GROUP BY user_id, item_id)
SELECT user_id, item_id, time_us, -best.sooner AS known_us, best.grade AS grade
FROM best ORDER BY user_id, time_us, item_id"""

_LABELLED = f"""
WITH shown AS (
        SELECT event_id, prediction_id, session_id, user_id, item_id, position, device, country,
               epoch_us(event_time) AS time_us
        FROM impressions
        WHERE event_date BETWEEN make_timestamp($from_us)::DATE AND make_timestamp($to_us)::DATE
          AND epoch_us(event_time) >= $from_us AND epoch_us(event_time) < $to_us),
     signals AS ({_SIGNALS}
          AND event_date BETWEEN make_timestamp($from_us)::DATE
                             AND make_timestamp($to_us + {LONGEST_WINDOW_US})::DATE
          AND greatest(epoch_us(event_time), epoch_us(ingested_at)) < $known_before_us),
     direct AS (
        SELECT shown.event_id, signals.grade, signals.known_us, false AS inferred
        FROM shown JOIN signals ON signals.prediction_id = shown.prediction_id AND signals.item_id = shown.item_id
        WHERE signals.time_us BETWEEN shown.time_us AND shown.time_us + signals.window_us),
     inferred AS (
        SELECT shown.event_id, signals.grade, signals.known_us, true AS inferred
        FROM (FROM signals WHERE prediction_id IS NULL) AS signals
        ASOF JOIN shown ON signals.user_id = shown.user_id AND signals.item_id = shown.item_id
                       AND signals.time_us >= shown.time_us
        WHERE signals.time_us <= shown.time_us + signals.window_us),
     earned AS (
        SELECT event_id, {_BEST} AS best, bool_and(inferred) AS inferred
        FROM (FROM direct UNION ALL FROM inferred) GROUP BY event_id)
SELECT shown.*, coalesce(earned.best.grade, 0)::TINYINT AS grade, -earned.best.sooner AS known_us,
       coalesce(earned.inferred, false) AS inferred
FROM shown LEFT JOIN earned USING (event_id)
ORDER BY time_us, prediction_id, position, event_id"""

_FOREVER_US = 2**62


def positives(connection: duckdb.DuckDBPyConnection, known_before_us: int | None = None) -> pa.Table:
    """Each user's interactions: one row per user and item, at the time of the first one, with its grade.

    Columns: `user_id`, `item_id` string; `time_us` int64, the first graded event; `known_us` int64, when the
    final grade was known (event time or ingestion, the later); `grade` int8, 1 to 3, the best that events earn
    inside their windows counted from `time_us`. Sorted by user, time, item. Empty without such events.

    Args:
        connection: a connection of `Lake.connect`.
        known_before_us: events known at or after this instant are not used (None: all are).
    """
    limit = _FOREVER_US if known_before_us is None else known_before_us
    return connection.sql(_POSITIVES, params={"known_before_us": limit}).to_arrow_table()


def labelled_impressions(
    connection: duckdb.DuckDBPyConnection, from_us: int, to_us: int, known_before_us: int | None = None
) -> pa.Table:
    """Impressions of `from_us <= time < to_us` with the grade that their events earned.

    Events join by (`prediction_id`, `item_id`) inside their window after the impression; an event without a
    prediction id goes to the user's latest impression of the item inside the window. Columns: `event_id`,
    `prediction_id`, `session_id`, `user_id`, `item_id` string, `position` int32, `device`, `country` string,
    `time_us` int64, `grade` int8 (0 without a play), `known_us` int64 (null at grade 0), `inferred` bool (every
    event of the row was attributed without a prediction id). Sorted by time, prediction, position.

    Args:
        connection: a connection of `Lake.connect`.
        from_us: first microsecond, inclusive.
        to_us: last microsecond, exclusive.
        known_before_us: events known at or after this instant are not used (None: all are).
    """
    limit = _FOREVER_US if known_before_us is None else known_before_us
    params = {"from_us": from_us, "to_us": to_us, "known_before_us": limit}
    return connection.sql(_LABELLED, params=params).to_arrow_table()
