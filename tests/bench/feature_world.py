"""A log of film events made by DuckDB alone: as large as wanted, plausible in shape, without the simulator."""

from dataclasses import dataclass

import duckdb

from serving.config import COUNTRIES, MOVIE_GENRES
from serving.features.spec import DEVICES

START_US = 1_767_225_600_000_000  # 2026-01-01


@dataclass(frozen=True)
class WorldSize:
    """How many users, items, days, and impressions a user sees per day."""

    users: int = 10_000
    items: int = 2_000
    days: int = 120
    impressions_per_day: float = 6.0
    seed: float = 0.7


def make_world(size: WorldSize) -> duckdb.DuckDBPyConnection:
    """A connection with tables of the lake's views: users, items, their logs, impressions and events."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET threads = 1")
    connection.execute(f"SELECT setseed({size.seed})")
    genres = ", ".join(f"'{genre}'" for genre in MOVIE_GENRES)
    countries = ", ".join(f"'{country}'" for country in COUNTRIES)
    devices = ", ".join(f"'{device}'" for device in DEVICES)
    connection.execute(
        f"""
        CREATE TABLE users_log AS
        SELECT format('u{{:07d}}', i) AS user_id,
               CASE WHEN random() < 0.9 THEN 1950 + (random() * 60)::INT END AS birth_year,
               ([{countries}])[1 + (random() * 7)::INT] AS country,
               make_timestamptz(({START_US} + (i * {size.days / 2 / size.users} * 86400e6)::BIGINT)::BIGINT)
                   AS created_at,
               created_at AS ingested_at
        FROM range({size.users}) t(i);
        CREATE TABLE items_log AS
        SELECT format('i{{:07d}}', i) AS item_id, 'Film ' || i AS title,
               list_distinct([([{genres}])[1 + (random() * {len(MOVIE_GENRES) - 1})::INT],
                              ([{genres}])[1 + (random() * {len(MOVIE_GENRES) - 1})::INT]]) AS genres,
               [format('p{{}}', (random() * {size.items})::INT) for k in range(4)] AS "cast",
               1950 + (random() * 76)::INT AS year,
               ([0, 6, 12, 16, 18])[1 + (random() * 4)::INT] AS maturity,
               (4000 + random() * 6000)::INT AS duration_s, 'own' AS provider, NULL::VARCHAR AS franchise,
               NULL::VARCHAR AS edition, 'en' AS language,
               NULL::VARCHAR[] AS countries, NULL::TIMESTAMPTZ AS licence_start,
               CASE WHEN random() < 0.3
                    THEN make_timestamptz(({START_US} + (random() * 300 * 86400e6)::BIGINT)::BIGINT) END AS licence_end,
               make_timestamptz(({START_US} + (greatest(random() - 0.7, 0) * {size.days} * 86400e6)::BIGINT)::BIGINT)
                   AS available_at,
               make_timestamptz({START_US}::BIGINT) AS ingested_at
        FROM range({size.items}) t(i);
        CREATE VIEW users AS SELECT * FROM users_log;
        CREATE VIEW items AS SELECT * FROM items_log;
        """
    )
    rows = int(size.users * size.days * size.impressions_per_day)
    connection.execute(
        f"""
        CREATE TABLE shown AS
        SELECT i, (random() * random() * {size.users - 1})::INT AS u,
               (random() * random() * {size.items - 1})::INT AS f,
               (i % 20)::INT AS position, ([{devices}])[1 + (random() * 3)::INT] AS device,
               {START_US} + (i * {size.days} * 86400e6 / {rows})::BIGINT AS at_us,
               CASE WHEN random() < 0.02 THEN (random() * 200000e6)::BIGINT ELSE 800000 END AS late_us,
               random() AS luck, random() AS stay
        FROM range({rows}) t(i);
        CREATE TABLE impressions AS
        SELECT 'm' || i AS event_id, 'p' || (i // 20) AS prediction_id, 's' || (i // 20) || '-' || u AS session_id,
               format('u{{:07d}}', u) AS user_id, format('i{{:07d}}', f) AS item_id, position, device,
               'US' AS country, make_timestamptz(at_us::BIGINT) AS event_time,
               make_timestamptz((at_us + late_us)::BIGINT) AS ingested_at
        FROM shown;
        CREATE TABLE events AS
        SELECT type || i AS event_id, 'p' || (i // 20) AS prediction_id, 's' || (i // 20) || '-' || u AS session_id,
               format('u{{:07d}}', u) AS user_id, format('i{{:07d}}', f) AS item_id, type, value, device,
               'US' AS country,
               make_timestamptz((at_us + after)::BIGINT) AS event_time,
               make_timestamptz((at_us + after + late_us)::BIGINT) AS ingested_at
        FROM (
            SELECT *, 'click' AS type, NULL::DOUBLE AS value, 5000000 AS after FROM shown WHERE luck < 0.2
            UNION ALL SELECT *, 'play', stay * 6000, 9000000 FROM shown WHERE luck < 0.12
            UNION ALL SELECT *, 'completion', stay, 12000000 FROM shown WHERE luck < 0.12
            UNION ALL SELECT *, 'rating', 0.5 + round(stay * 9) / 2, 15000000 FROM shown WHERE luck < 0.03
            UNION ALL SELECT *, 'list_add', NULL, 7000000 FROM shown WHERE luck > 0.97
        );
        DROP TABLE shown; SET threads = 2;
        """
    )
    return connection
