"""MovieLens as tables: films become items, ratings become events, raters become users.

There are no impressions. A film counts as in the catalogue from 1 January of its year, or from the data's
first rating where that is later, but never from later than its own first rating. A user exists from their
first rating. Nobody's age is known, so `maturity` is 0 for every film: unknown would mean adults only.
"""

from dataclasses import dataclass
from pathlib import Path

import duckdb

from serving.errors import DataError
from training.data.mapping import CsvFormat, Mapping, TimeFormat
from training.data.sources import columns_of, convert, open_file
from training.data.tables import Lake
from training.data.validate import IngestReport, ingest

_SECONDS = TimeFormat(unit="s")

FILMS = Mapping(
    table="items",
    columns={
        "item_id": "movieId", "title": "name", "genres": "genres", "year": "year", "available_at": "available",
    },
    constants={"maturity": 0},
    times={"available_at": _SECONDS},
    lists={"genres": "|"},
    values={"genres": {"(no genres listed)": None}},
)  # fmt: skip
RATERS = Mapping(table="users", columns={"user_id": "userId", "created_at": "first"}, times={"created_at": _SECONDS})
RATINGS = Mapping(
    table="events",
    columns={"user_id": "userId", "item_id": "movieId", "value": "rating", "event_time": "timestamp"},
    templates={"event_id": "ml-{userId}-{movieId}"},
    constants={"type": "rating"},
    times={"event_time": _SECONDS},
)

_NEEDED = {"movies": ("movieId", "title", "genres"), "ratings": ("userId", "movieId", "rating", "timestamp")}

_YEAR = r"\((\d{4})(?:\s*[-–]\s*(?:\d{4})?)?\)\s*$"

_TIMES = """CREATE TEMP TABLE rated AS
SELECT userId, movieId, TRY_CAST(trim(timestamp::VARCHAR) AS BIGINT) AS rated_s FROM ratings"""

_FILMS = f"""CREATE VIEW films AS
WITH named AS (SELECT *, TRY_CAST(nullif(regexp_extract(title, '{_YEAR}', 1), '') AS INT) AS year FROM movies),
     first AS (SELECT movieId, min(rated_s) AS rated_s FROM rated GROUP BY movieId)
SELECT named.movieId, trim(regexp_replace(title, '{_YEAR}', '')) AS name, genres, year,
       least(first.rated_s,
             greatest(epoch(make_date(year, 1, 1))::BIGINT, (SELECT min(rated_s) FROM rated))) AS available
FROM named LEFT JOIN first USING (movieId)"""

_RATERS = "CREATE VIEW raters AS SELECT userId, min(rated_s) AS first FROM rated GROUP BY userId"


@dataclass(frozen=True)
class MovieLensReport:
    """What became of the rows of each table, in the order of ingestion."""

    tables: tuple[IngestReport, ...]


def import_movielens(lake: Lake, folder: Path) -> MovieLensReport:
    """Imports a MovieLens folder: `movies` and `ratings`, each `.csv` as published or `.parquet`.

    Tags and links are not read: the tables have no place for them.

    Raises:
        DataError: a file is missing, unreadable, empty or lacks columns (all problems at once), or holds no
            valid row.
    """
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        _open_all(connection, folder)
        for statement in (_TIMES, _FILMS, _RATERS):
            connection.execute(statement)
        reports = []
        for relation, mapping in (("raters", RATERS), ("films", FILMS), ("ratings", RATINGS)):
            select = mapping.select_sql(columns_of(connection, relation), relation)
            reports.append(ingest(lake, mapping.table, convert(connection, {folder / relation: select})))
    return MovieLensReport(tuple(reports))


def _open_all(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    problems = []
    for name, needed in _NEEDED.items():
        path = next((p for p in (folder / f"{name}.csv", folder / f"{name}.parquet") if p.is_file()), None)
        if path is None:
            problems.append(f"there is neither {name}.csv nor {name}.parquet")
            continue
        try:
            found = columns_of(connection, open_file(connection, path, name, CsvFormat()))
            problems += [f"{path.name}: there is no column {column}" for column in needed if column not in found]
        except DataError as error:
            problems.append(f"{path.name}: {'; '.join([error.what, *error.problems])}")
    if problems:
        raise DataError(f"{folder} is not a MovieLens data set", problems)
