"""Users and items keep their rows; what the tables do not hold has none."""

from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from film_log import FilmLog, at, time_us

from serving.errors import DataError
from training.jobs.entities import Entities, read_entities, read_positives

Connect = Callable[[FilmLog], duckdb.DuckDBPyConnection]
ENTITIES = Entities(np.array([b"ana", b"bo", "zoë".encode()]), np.array([b"i1", b"i10", b"i2"]), np.zeros(3, np.int16))


@pytest.mark.parametrize("chunks", [[["zoë", None, "ana"], ["nobody", "ana"]], [["zoë", None, "ana", "nobody", "ana"]]])
def test_unknown_and_null_ids_have_no_row(chunks: list[list[str | None]]) -> None:
    assert ENTITIES.users(pa.chunked_array(chunks, pa.string())).tolist() == [2, -1, 0, -1, 0]


def test_an_id_that_begins_like_another_is_not_taken_for_it() -> None:
    assert ENTITIES.items(pa.array(["i", "i1", "i10", "i100", "i3", ""])).tolist() == [-1, 0, 1, -1, -1, -1]


def test_no_ids_and_nothing_but_nulls_have_no_rows() -> None:
    assert ENTITIES.users(pa.array([], pa.string())).tolist() == []
    assert ENTITIES.users(pa.array([None, None], pa.string())).tolist() == [-1, -1]


def film_log() -> FilmLog:
    log = FilmLog()
    log.user("zoë", country="DE")
    log.user("bo", country="XX")
    log.user("ana")
    for item in ("i2", "i10", "i1"):
        log.item(item)
    return log


def test_users_are_sorted_by_id_and_an_unlisted_country_is_other(connect: Connect, tmp_path: Path) -> None:
    entities = read_entities(connect(film_log()), ("US", "DE"))
    assert entities.user_ids.tolist() == [b"ana", b"bo", "zoë".encode()]
    assert entities.item_ids.tolist() == [b"i1", b"i10", b"i2"]
    assert entities.country.tolist() == [-1, -1, 1]
    entities.save(tmp_path)
    again = Entities.load(tmp_path)
    for name in ("user_ids", "item_ids", "country"):
        assert getattr(again, name).tolist() == getattr(entities, name).tolist()
        assert getattr(again, name).dtype == getattr(entities, name).dtype


def test_items_stand_in_the_order_in_which_they_became_known(connect: Connect) -> None:
    log = film_log()
    log.item("a9", at(3))
    log.item("z0", at(2))
    log.item("i10", at(4), title="renamed")
    entities = read_entities(connect(log), ())
    assert entities.item_ids.tolist() == [b"i1", b"i10", b"i2", b"z0", b"a9"]
    assert entities.items(pa.array(["a9", "z0", "i1", "i3"])).tolist() == [4, 3, 0, -1]


def test_empty_tables_are_named_together(connect: Connect) -> None:
    with pytest.raises(DataError) as caught:
        read_entities(connect(FilmLog()), ("US",))
    assert caught.value.problems == ("table users has no rows", "table items has no rows")


def test_events_of_users_and_items_without_a_row_are_left_out(connect: Connect) -> None:
    log = film_log()
    log.event("zoë", "i2", "play", at(1), 600)
    log.event("zoë", "gone", "play", at(1), 600)
    log.event("gone", "i2", "play", at(1), 600)
    log.event("bo", "i1", "completion", at(2), 0.9, ingested=at(5))
    connection = connect(log)
    entities = read_entities(connection, ("US",))
    found = read_positives(connection, entities)
    assert list(zip(found.user.tolist(), found.item.tolist(), found.grade.tolist(), strict=True)) == [
        (1, 0, 3),
        (2, 2, 2),
    ]
    assert found.time_us.tolist() == [time_us(at(2)), time_us(at(1))]
    early = read_positives(connection, entities, known_before_us=time_us(at(5)))
    assert early.user.tolist() == [2]
