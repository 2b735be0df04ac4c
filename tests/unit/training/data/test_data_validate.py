import json

import pyarrow as pa
import pytest

from serving.errors import DataError
from training.data.alarms import alarms, raise_if_alarmed
from training.data.tables import Lake
from training.data.validate import ingest

DAY_US = 86_400_000_000
START_US = 1_767_225_600_000_000


def stored(lake: Lake, query: str) -> list[tuple]:
    with lake.connect() as connection:
        return connection.execute(query).fetchall()


BROKEN_EVENTS = {
    "event_id: empty": {"event_id": ""},
    "event_id: missing": {"event_id": None},
    "user_id: missing": {"user_id": None},
    "item_id: longer than 128 bytes": {"item_id": "ä" * 65},
    "item_id: holds a NUL": {"item_id": "a\0b"},
    "type: not one of click, play, completion, rating, list_add": {"type": "watch"},
    "device: not one of tv, mobile, tablet, web": {"device": "fridge"},
    "country: not like [A-Z]{2}": {"country": "Germany"},
    "value: missing": {"type": "play"},
    "value: share outside 0 to 1": {"type": "completion", "value": 70.0},
    "value: stars outside 0.5 to 5": {"type": "rating", "value": 6.0},
    "value: not a number": {"value": float("nan")},
    "event_time: later than ingested_at": {"ingested_at": START_US - 300_000_001},
    "event_time: not between 1990-01-01 and 2200-01-01": {"event_time": 0, "ingested_at": START_US},
}


@pytest.mark.parametrize("reason", BROKEN_EVENTS)
def test_a_broken_event_goes_to_quarantine_with_its_reason_and_the_others_are_kept(lake, rows, reason):
    good = rows("events", 2, event_id=["good-1", "good-2"])
    bad = rows("events", 1, **{"event_id": ["bad"], **BROKEN_EVENTS[reason]})
    report = ingest(lake, "events", pa.concat_tables([good, bad]))
    assert (report.accepted, report.quarantined, report.reasons) == (2, 1, {reason: 1})
    assert stored(lake, "SELECT event_id FROM events ORDER BY 1") == [("good-1",), ("good-2",)]
    (table, told, row), = stored(lake, 'SELECT "table", reason, row FROM quarantine')  # fmt: skip
    assert (table, told) == ("events", reason)
    assert json.loads(row)["event_id"] == bad["event_id"][0].as_py()


def test_values_at_their_limits_are_good(lake, rows):
    events = rows(
        "events", 5,
        type=["completion", "completion", "rating", "rating", "play"], value=[0.0, 1.0, 0.5, 5.0, 0.0],
        item_id="ä" * 64, ingested_at=START_US - 300_000_000,
    )  # fmt: skip
    assert ingest(lake, "events", events).accepted == 5


def test_an_event_is_judged_against_its_users_creation_to_the_microsecond(lake, rows):
    ingest(lake, "users", rows("users", created_at=START_US))
    events = rows("events", 3, user_id=["u1", "u1", "stranger"], event_time=[START_US - 1, START_US, START_US - 1])
    report = ingest(lake, "events", events)
    assert report.reasons == {"event_time: before the user existed": 1}
    assert stored(lake, "SELECT event_id FROM events ORDER BY 1") == [("events-1",), ("events-2",)]


def test_all_reasons_of_a_row_are_told(lake, rows):
    events = rows("events", 2, user_id=["u1", ""], device=["tv", "fridge"])
    assert set(ingest(lake, "events", events).reasons) == {
        "user_id: empty",
        "device: not one of tv, mobile, tablet, web",
    }


def test_sending_the_same_events_again_adds_nothing(lake, rows):
    events = rows("events", 5)
    ingest(lake, "events", events)
    report = ingest(lake, "events", events)
    assert (report.accepted, report.duplicates, report.quarantined) == (0, 5, 0)
    assert stored(lake, "SELECT count(*) FROM events") == [(5,)]


def test_repeats_inside_a_batch_are_counted_once(lake, rows):
    report = ingest(lake, "events", rows("events", 3, event_id=["a", "b", "a"]))
    assert (report.accepted, report.duplicates) == (2, 1)


def test_another_row_under_a_taken_key_is_refused(lake, rows):
    ingest(lake, "events", rows("events", 1, event_id=["a"]))
    report = ingest(lake, "events", rows("events", 2, event_id=["a", "b"], item_id=["other", "i1"]))
    assert (report.accepted, report.reasons) == (1, {"event_id: already taken by another row": 1})


def test_an_item_that_did_not_change_is_not_stored_again_and_a_changed_one_is(lake, rows):
    ingest(lake, "items", rows("items", 2, item_id=["a", "b"]))
    again = rows("items", 2, item_id=["a", "b"], title=["Film", "Renamed"], ingested_at=START_US + DAY_US)
    report = ingest(lake, "items", again)
    assert (report.accepted, report.duplicates) == (1, 1)
    assert stored(lake, "SELECT title FROM items ORDER BY item_id") == [("Film",), ("Renamed",)]


def test_a_batch_with_a_retyped_column_is_refused_whole_and_nothing_is_stored(lake, rows):
    table = rows("events", 2)
    retyped = table.set_column(table.column_names.index("item_id"), "item_id", pa.array([1, 2]))
    with pytest.raises(DataError, match="item_id is declared string, found int64"):
        ingest(lake, "events", retyped)
    assert lake.versions() == {}


def test_a_batch_of_bad_rows_only_is_refused_and_nothing_is_stored(lake, rows):
    with pytest.raises(DataError, match=r"none of 3 row\(s\) is valid\n.*user_id: missing \(3 row"):
        ingest(lake, "events", rows("events", 3, user_id=None))
    assert lake.versions() == {}


def test_no_rows_are_an_error(lake, rows):
    with pytest.raises(DataError, match="no rows to ingest"):
        ingest(lake, "events", rows("events", 0, event_id=[]))


def test_a_half_null_column_is_quarantined_and_raises_an_alarm_with_its_first_day(lake, rows):
    n = 400
    times = [START_US + (i * 4 // n) * DAY_US for i in range(n)]
    users = [None if i >= n // 2 and i % 2 else "u1" for i in range(n)]
    report = ingest(lake, "events", rows("events", n, event_time=times, user_id=users))
    assert report.reasons == {"user_id: missing": 100}
    (alarm,) = alarms(lake)
    assert (alarm.table, alarm.column, alarm.since, alarm.until) == ("events", "user_id", "2026-01-03", "2026-01-04")
    with pytest.raises(DataError, match=r"events.user_id .* since 2026-01-03"):
        raise_if_alarmed(lake)


def test_a_few_bad_rows_among_many_raise_no_alarm(lake, rows):
    users = [None if i < 15 else "u1" for i in range(600)]
    ingest(lake, "events", rows("events", 600, user_id=users))
    raise_if_alarmed(lake)


def test_bad_rows_that_are_sent_again_are_quarantined_once(lake, rows):
    events = rows("events", 2, user_id=["u1", None])
    ingest(lake, "events", events)
    ingest(lake, "events", events)
    assert stored(lake, "SELECT count(*) FROM quarantine") == [(1,)]


def test_a_stream_is_ingested_in_chunks_that_know_of_each_other(lake, rows, monkeypatch):
    monkeypatch.setattr("training.data.validate.rechunk", lambda batches: (pa.Table.from_batches([b]) for b in batches))
    events = rows("events", 6, event_id=["a", "b", "c", "a", "d", "b"])
    stream = pa.RecordBatchReader.from_batches(events.schema, events.to_batches(max_chunksize=3))
    report = ingest(lake, "events", stream)
    assert (report.accepted, report.duplicates) == (4, 2)
