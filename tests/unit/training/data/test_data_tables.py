from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import write_deltalake

from serving.errors import DataError
from training.data import tables
from training.data.files import rechunk
from training.data.tables import Lake

DAY_US = 86_400_000_000
START_US = 1_767_225_600_000_000


def count(lake: Lake, table: str, versions: dict[str, int] | None = None) -> int:
    with lake.connect(versions) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0]


def test_a_read_at_an_older_version_sees_the_rows_of_that_version(lake, rows):
    first = lake.append("events", rows("events", 3))
    second = lake.append("events", rows("events", 2, event_id=["x", "y"]))
    assert count(lake, "events", {"events": first}) == 3
    assert count(lake, "events", {"events": second}) == count(lake, "events") == 5


def test_a_connection_does_not_see_what_is_appended_after_it_was_made(lake, rows):
    lake.append("events", rows("events", 3))
    with lake.connect() as connection:
        lake.append("events", rows("events", 1, event_id=["late"]))
        assert connection.execute("SELECT count(*) FROM events").fetchall() == [(3,)]


def test_items_and_users_show_the_current_row_and_their_logs_show_all(lake, rows):
    titles = rows("items", 3, item_id=["a", "a", "b"], title=["old", "new", "only"], ingested_at=[1, 2, 1])
    lake.append("items", titles)
    with lake.connect() as connection:
        current = connection.execute("SELECT item_id, title FROM items ORDER BY item_id").fetchall()
    assert current == [("a", "new"), ("b", "only")]
    assert count(lake, "items_log") == 3


def test_a_table_that_was_never_written_reads_as_empty_with_its_columns(lake):
    with lake.connect() as connection:
        empty = connection.execute("SELECT genres, available_at FROM items").fetchall()
        assert empty == []
        assert connection.execute("SELECT event_date, value FROM events").fetchall() == []
    assert lake.versions() == {}


def test_every_column_comes_back_with_its_declared_type_and_value(lake, rows):
    table = rows("items", 2, item_id=["a", "b"], genres=[["Drama", "War"], []], year=[1999, None])
    lake.append("items", table)
    with lake.connect() as connection:
        back = connection.sql("SELECT * FROM items ORDER BY item_id").to_arrow_table()
    assert back.cast(table.schema).to_pylist() == table.to_pylist()


def test_columns_that_a_producer_leaves_out_are_null_where_the_table_allows_it(lake, rows):
    lake.append("items", rows("items", 1, item_id=["a"]).drop_columns(["edition", "provider"]))
    with lake.connect() as connection:
        assert connection.execute("SELECT item_id, edition, provider FROM items").fetchall() == [("a", None, None)]
    with pytest.raises(DataError, match="does not take these columns"):
        lake.append("items", rows("items", 1).drop_columns(["genres"]))


def test_a_table_from_before_a_column_was_declared_is_read_and_appended_to(lake, rows, monkeypatch):
    declared = tables.STORED["items"]
    earlier = replace(
        declared, arrow=declared.arrow.remove(declared.arrow.get_field_index("edition")), optional=frozenset()
    )
    monkeypatch.setitem(tables.STORED, "items", earlier)
    first = lake.append("items", rows("items", 1, item_id=["old"]).drop_columns(["edition"]))
    monkeypatch.setitem(tables.STORED, "items", declared)

    assert count(lake, "items") == 1
    lake.append("items", rows("items", 1, item_id=["new"], edition=["e"]))

    with lake.connect() as connection:
        stored = connection.execute("SELECT item_id, edition FROM items ORDER BY 1").fetchall()
    assert stored == [("new", "e"), ("old", None)]
    assert count(lake, "items", {"items": first}) == 1


def test_a_microsecond_before_midnight_is_the_day_before(lake, rows):
    lake.append("events", rows("events", 2, event_time=[START_US - 1, START_US]))
    with lake.connect() as connection:
        days = connection.execute("SELECT event_date::VARCHAR FROM events ORDER BY event_time").fetchall()
    assert days == [("2025-12-31",), ("2026-01-01",)]


def test_a_stream_is_one_commit_and_loses_no_row(lake, rows, monkeypatch):
    monkeypatch.setattr("training.data.tables.rechunk", lambda batches: rechunk(batches, 10))
    times = [START_US + (i * 37 % 60) * DAY_US for i in range(1000)]
    table = rows("events", 1000, event_time=times)
    stream = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=7))
    lake.append("events", stream)
    assert [entry["rows_added"] for entry in lake.history("events")] == [1000, 0]
    with lake.connect() as connection:
        stored = connection.sql("SELECT event_id, event_time FROM events").to_arrow_table()
    assert sorted(stored["event_id"].to_pylist()) == sorted(table["event_id"].to_pylist())
    assert pc.sum(stored["event_time"].cast(pa.int64())).as_py() == sum(times)


def test_a_stream_that_fails_half_way_leaves_no_rows_and_no_files(lake, rows, monkeypatch):
    monkeypatch.setattr("training.data.tables.rechunk", lambda batches: (pa.Table.from_batches([b]) for b in batches))
    table = rows("events", 4)

    def batches():
        yield from table.to_batches()
        raise OSError("the source went away")

    with pytest.raises(OSError, match="went away"):
        lake.append("events", pa.RecordBatchReader.from_batches(table.schema, batches()))
    assert not lake.exists("events")
    assert not list(lake.root.rglob("*.parquet"))


def test_a_renamed_and_a_retyped_column_are_refused_by_name_and_type(lake, rows):
    table = rows("events", 1).rename_columns(
        ["user" if name == "user_id" else name for name in rows("events").column_names]
    )
    table = table.set_column(table.column_names.index("item_id"), "item_id", pa.array([7]))
    with pytest.raises(DataError) as caught:
        lake.append("events", table)
    assert set(caught.value.problems) == {
        "column user_id is missing",
        "column user is not declared",
        "column item_id is declared string, found int64",
    }
    assert not lake.exists("events")


def test_other_spellings_of_text_and_time_are_taken(lake, rows):
    table = rows("events", 2)
    table = table.set_column(3, "user_id", table["user_id"].cast(pa.large_string()))
    table = table.set_column(4, "item_id", table["item_id"].combine_chunks().dictionary_encode())
    table = table.set_column(9, "event_time", table["event_time"].cast(pa.timestamp("ms", tz="UTC")))
    lake.append("events", table)
    assert count(lake, "events") == 2


def test_times_without_a_zone_are_refused(lake, rows):
    table = rows("events", 1)
    naive = table.set_column(9, "event_time", table["event_time"].cast(pa.timestamp("us")))
    with pytest.raises(DataError, match="event_time is declared"):
        lake.append("events", naive)


def test_a_version_that_is_not_there_is_named(lake, rows):
    lake.append("events", rows("events", 1))
    with pytest.raises(DataError, match="table events at version 9"):
        lake.connect({"events": 9})


def test_an_unknown_table_is_named(lake, rows):
    with pytest.raises(DataError, match="no table evens"):
        lake.append("evens", rows("events"))


def test_a_table_changed_from_outside_is_refused_on_reading(lake, rows):
    lake.append("users", rows("users"))
    alien = rows("users").append_column("age", pa.array([7]))
    write_deltalake(str(lake.root / "users"), alien, mode="append", schema_mode="merge")
    with pytest.raises(DataError, match="users: column age is not declared"):
        lake.connect()


def test_a_folder_with_spaces_and_quotes_holds_a_lake(tmp_path, rows):
    lake = Lake(tmp_path / "the user's lake")
    lake.append("events", rows("events", 2))
    assert count(lake, "events") == 2


def test_rows_cannot_be_deleted_by_accident(lake, rows):
    from deltalake import DeltaTable

    lake.append("users", rows("users"))
    with pytest.raises(Exception, match=r"(?i)append"):
        DeltaTable(str(lake.root / "users")).delete()
    assert count(lake, "users") == 1
