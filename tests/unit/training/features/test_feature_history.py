from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from film_log import FilmLog, at, time_us
from hypothesis import given, settings
from hypothesis import strategies as st

from training.features.history import InteractionLog, replay, write_history
from training.features.shown import Shown

LAG_US = 5_000_000
KINDS = {"play": (100.0, 900.0), "completion": (0.2, 0.9), "rating": (2.0, 5.0), "click": (None, None)}


def read(log: FilmLog) -> InteractionLog:
    return InteractionLog.read(log.connect())


def names(log: InteractionLog, user: str, moment_us: int, length: int = 100) -> list[tuple[str, float]]:
    [code] = log.user_codes([user])
    history = log.history(int(code), moment_us - LAG_US, length)
    return [(log.item_ids[i], g) for i, g in zip(history.items, history.grades.tolist(), strict=True)]


def test_grades_follow_what_was_watched_and_rated() -> None:
    log = FilmLog()
    for hour, (item, kind, value) in enumerate(
        [
            ("short", "play", 479.9),
            ("long", "play", 480.0),
            ("whole", "completion", 0.7),
            ("half", "completion", 0.69),
            ("good", "rating", 4.0),
            ("bad", "rating", 3.5),
            ("seen-only", "click", None),
        ]
    ):
        log.event("ann", item, kind, at(0, hours=hour), value)
    interactions = read(log)

    assert names(interactions, "ann", time_us(at(1))) == [
        ("short", 1), ("long", 2), ("whole", 3), ("good", 3), ("bad", 1),
    ]  # fmt: skip
    seen = interactions.seen(0, time_us(at(1)))
    assert sorted(interactions.item_ids[i] for i in seen) == ["bad", "good", "half", "long", "short", "whole"]


@pytest.mark.parametrize("late", ["event_time", "ingested_at"])
def test_an_event_enters_the_history_a_microsecond_after_its_lag(late: str) -> None:
    log = FilmLog()
    moment = at(0, hours=5)
    log.event("ann", "film", "play", moment if late == "event_time" else at(0), 500.0, ingested=moment)
    interactions = read(log)

    at_lag_us = time_us(moment) + LAG_US
    assert names(interactions, "ann", at_lag_us) == []
    assert names(interactions, "ann", at_lag_us + 1) == [("film", 2)]


def test_an_item_stands_once_at_its_latest_interaction() -> None:
    log = FilmLog()
    log.event("ann", "a", "completion", at(0, hours=1), 0.9)
    log.event("ann", "b", "play", at(0, hours=2), 500.0)
    log.event("ann", "a", "play", at(0, hours=3), 10.0)

    assert names(read(log), "ann", time_us(at(1))) == [("b", 2), ("a", 1)]
    assert names(read(log), "ann", time_us(at(1)), length=1) == [("a", 1)]


def test_late_events_take_their_place_by_the_time_they_happened() -> None:
    log = FilmLog()
    log.event("ann", "early", "play", at(0, hours=1), 500.0, ingested=at(0, hours=9))
    log.event("ann", "later", "play", at(0, hours=2), 500.0)

    assert names(read(log), "ann", time_us(at(0, hours=5))) == [("later", 2)]
    assert names(read(log), "ann", time_us(at(1))) == [("early", 2), ("later", 2)]


def test_replayed_rows_are_padded_in_front_and_mapped_to_a_bundles_rows() -> None:
    log = FilmLog()
    for hour, item in enumerate("abc"):
        log.event("ann", item, "play", at(0, hours=hour), 500.0)
    interactions = read(log)
    users, times = interactions.user_codes(["ann", "nobody"]), np.full(2, time_us(at(1)))
    rows = np.array([{"a": 7, "b": -1, "c": 3}[i] for i in interactions.item_ids], np.int32)

    assert replay(interactions, users, times, LAG_US, 4, rows).tolist() == [[-1, -1, 7, 3], [-1, -1, -1, -1]]


events = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob"]),
        st.sampled_from("abcde"),
        st.sampled_from(list(KINDS)),
        st.integers(0, 1),
        st.integers(0, 20),
        st.integers(0, 5),
    ),
    max_size=25,
)


@given(events, st.integers(0, 30))
@settings(deadline=None, max_examples=40)
def test_the_history_is_that_of_its_definition(rows: list[tuple[str, str, str, int, int, int]], minute: int) -> None:
    log = FilmLog()
    latest: dict[str, tuple[tuple[int, int, int], int]] = {}
    now = at(0, minutes=minute)
    for user, item, kind, strong, when, late in rows:
        value = KINDS[kind][strong]
        known = when + late
        log.event(user, item, kind, at(0, minutes=when), value, ingested=at(0, minutes=known))
        grade = {"play": 1 + strong, "completion": 3 * strong, "rating": 1 + 2 * strong, "click": 0}[kind]
        if user == "ann" and grade and at(0, minutes=known) + timedelta(seconds=5) < now:
            latest[item] = max(latest.get(item, ((-1, -1, -1), 0)), ((when, known, grade), grade))

    expected = {(item, grade, key[0]) for item, (key, grade) in latest.items()}
    interactions = read(log)
    history = interactions.history(int(interactions.user_codes(["ann"])[0]), time_us(now) - LAG_US, 100)
    minutes = (history.times_us - time_us(at(0))) // 60_000_000

    found = zip(history.items, history.grades.tolist(), minutes.tolist(), strict=True)
    assert {(interactions.item_ids[i], g, m) for i, g, m in found} == expected
    assert minutes.tolist() == sorted(minutes.tolist())


def test_the_written_history_is_what_a_reader_finds_at_that_time(tmp_path: Path) -> None:
    log = FilmLog()
    for hour, item in enumerate("cab"):
        log.event("ann", item, "play", at(0, hours=hour), 500.0)
    log.event("bob", "a", "completion", at(0), 0.1)
    log.event("eve", "a", "play", at(2), 500.0)

    shown = {"ann": Shown(["d"], np.array([3], np.float32)), "zoe": Shown(["a", "d"], np.array([4, 2], np.float32))}

    table = pq.read_table(write_history(read(log), shown, tmp_path, time_us(at(1)), LAG_US, 2)).to_pylist()

    assert [row["user_id"] for row in table] == ["ann", "bob", "zoe"]
    assert (table[0]["items"], table[0]["grades"], table[0]["seen"]) == (["a", "b"], [2, 2], ["a", "b", "c"])
    assert table[0]["times_us"] == [time_us(at(0, hours=1)), time_us(at(0, hours=2))]
    assert (table[0]["shown"], table[0]["shown_counts"]) == (["d"], [3])
    assert (table[1]["items"], table[1]["seen"], table[1]["shown"]) == ([], ["a"], [])
    assert (table[2]["items"], table[2]["seen"], table[2]["shown"]) == ([], [], ["a", "d"])
