from pathlib import Path

import pytest

from serving.errors import DataError
from training.data.movielens import import_movielens

MOVIES = """movieId,title,genres
1,Toy Story (1995),Adventure|Animation
2,"American President, The (1995)",Comedy
3,Babylon 5,(no genres listed)
4,Wonder Years (1988–1993),Drama
5,Late Arrival (2001),Drama
6,Early Bird (2010),Drama
"""
RATINGS = """userId,movieId,rating,timestamp
1,1,4.0,964982703
1,2,3.5,964981247
2,5,5.0,1100000000
2,6,1.0,1200000000
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "movies.csv").write_text(MOVIES, encoding="utf-8")
    (tmp_path / "ml" / "ratings.csv").write_text(RATINGS, encoding="utf-8")
    return tmp_path / "ml"


def stored(lake, query):
    with lake.connect() as connection:
        return connection.execute(query).fetchall()


def test_titles_years_and_genres_are_taken_apart(lake, folder):
    import_movielens(lake, folder)
    assert stored(lake, "SELECT title, year, genres, maturity FROM items ORDER BY item_id LIMIT 4") == [
        ("Toy Story", 1995, ["Adventure", "Animation"], 0),
        ("American President, The", 1995, ["Comedy"], 0),
        ("Babylon 5", None, [], 0),
        ("Wonder Years", 1988, ["Drama"], 0),
    ]


def test_a_film_is_available_from_its_year_but_not_before_the_data_nor_after_its_first_rating(lake, folder):
    import_movielens(lake, folder)
    first, new_year_2001, rated = 964_981_247, 978_307_200, 1_200_000_000
    assert stored(lake, "SELECT item_id, epoch(available_at)::BIGINT FROM items ORDER BY 1") == [
        ("1", first),
        ("2", first),
        ("3", first),
        ("4", first),
        ("5", new_year_2001),
        ("6", rated),
    ]


def test_ratings_are_events_and_users_exist_from_their_first_one(lake, folder):
    import_movielens(lake, folder)
    assert stored(lake, "SELECT event_id, type, value FROM events ORDER BY 1 LIMIT 1") == [("ml-1-1", "rating", 4.0)]
    users = stored(lake, "SELECT user_id, epoch(created_at)::BIGINT, birth_year FROM users ORDER BY 1")
    assert users == [("1", 964_981_247, None), ("2", 1_100_000_000, None)]
    assert stored(lake, "SELECT count(*) FROM impressions") == [(0,)]


def test_a_second_import_adds_nothing(lake, folder):
    import_movielens(lake, folder)
    again = import_movielens(lake, folder)
    assert [(report.accepted, report.duplicates) for report in again.tables] == [(0, 2), (0, 6), (0, 4)]


def test_every_problem_of_the_folder_is_named(lake, folder):
    (folder / "movies.csv").write_text("movieId,name\n1,x\n", encoding="utf-8")
    (folder / "ratings.csv").unlink()
    with pytest.raises(DataError) as caught:
        import_movielens(lake, folder)
    assert caught.value.problems == (
        "movies.csv: there is no column title",
        "movies.csv: there is no column genres",
        "there is neither ratings.csv nor ratings.parquet",
    )


def test_a_wrong_encoding_is_named_with_its_file(lake, folder):
    (folder / "movies.csv").write_bytes(MOVIES.replace("Toy", "Amélie").encode("latin-1", "replace"))
    with pytest.raises(DataError, match=r"movies\.csv: not utf-8: byte 0xe9 at offset \d+ in line 2"):
        import_movielens(lake, folder)


def test_the_published_data_set_is_imported_whole(lake):
    data = Path(__file__).parents[4] / "../shared/data/ml-latest-small"
    if not data.is_dir():
        pytest.skip(f"MovieLens is not at {data}")
    assert [report.accepted for report in import_movielens(lake, data).tables] == [610, 9742, 100_836]
