from datetime import datetime, timedelta

import numpy as np
import pytest
from film_log import FilmLog, at, time_us
from hypothesis import given, settings
from hypothesis import strategies as st

from training.features.shown import MAX_ITEMS, MIN_SHOWN, WINDOW_DAYS, all_shown_in_vain, shown_in_vain

MOMENT = timedelta(microseconds=1)


def shown(log: FilmLog, user: str, before: datetime) -> dict[str, float]:
    [found] = shown_in_vain(log.connect(), [user], np.array([time_us(before)]))
    return dict(zip(found.items, found.counts.tolist(), strict=True))


def test_items_shown_twice_or_more_come_most_often_shown_first() -> None:
    log = FilmLog()
    for item, times in {"once": 1, "b": 2, "a": 2, "often": 4}.items():
        for hour in range(times):
            log.impression("ann", item, at(0, hours=hour))
    log.impression("bob", "once", at(0))

    assert list(shown(log, "ann", at(1)).items()) == [("often", 4), ("a", 2), ("b", 2)]
    assert shown(log, "bob", at(1)) == {}
    assert shown(log, "nobody", at(1)) == {}


@pytest.mark.parametrize("kind", ["click", "play", "completion", "rating", "list_add"])
def test_a_reaction_ends_the_count_and_what_is_shown_afterwards_counts_anew(kind: str) -> None:
    log = FilmLog()
    for hour in (0, 1, 2):
        log.impression("ann", "a", at(0, hours=hour))
    log.event("ann", "a", kind, at(0, hours=2), 1.0)
    log.event("bob", "a", kind, at(0, hours=9), 1.0)
    log.impression("ann", "a", at(0, hours=3))

    assert shown(log, "ann", at(0, hours=2)) == {"a": 2}
    assert shown(log, "ann", at(1)) == {}
    log.impression("ann", "a", at(0, hours=4))
    assert shown(log, "ann", at(1)) == {"a": 2}


def test_an_impression_and_a_reaction_count_once_they_are_known_to_the_microsecond() -> None:
    log = FilmLog()
    log.impression("ann", "a", at(0))
    log.impression("ann", "a", at(0, hours=1), ingested=at(0, hours=5))
    log.event("ann", "a", "play", at(0, hours=2), 500.0, ingested=at(0, hours=8))

    assert shown(log, "ann", at(0, hours=5)) == {}
    assert shown(log, "ann", at(0, hours=5) + MOMENT) == {"a": 2}
    assert shown(log, "ann", at(0, hours=8)) == {"a": 2}
    assert shown(log, "ann", at(0, hours=8) + MOMENT) == {}


def test_impressions_are_forgotten_after_the_window() -> None:
    log = FilmLog()
    log.impression("ann", "a", at(0))
    log.impression("ann", "a", at(1))

    assert shown(log, "ann", at(WINDOW_DAYS)) == {"a": 2}
    assert shown(log, "ann", at(WINDOW_DAYS) + MOMENT) == {}


def test_no_more_items_are_kept_than_a_row_may_hold() -> None:
    log = FilmLog()
    for number in range(MAX_ITEMS + 10):
        for _ in range(3 if number >= 10 else 2):
            log.impression("ann", f"i{number:03}", at(0))

    found = shown(log, "ann", at(1))

    assert list(found) == [f"i{number:03}" for number in range(10, MAX_ITEMS + 10)]


rows = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob"]),
        st.sampled_from("abc"),
        st.sampled_from(["shown", "shown", "shown", "play", "click"]),
        st.integers(0, 40),
        st.integers(0, 3),
    ),
    max_size=60,
)


@settings(max_examples=25, deadline=None)
@given(rows, st.lists(st.integers(0, 45), min_size=1, max_size=4))
def test_every_moment_is_what_a_walk_through_the_log_finds(rows, days) -> None:
    log = FilmLog()
    for user, item, kind, day, delay in rows:
        if kind == "shown":
            log.impression(user, item, at(day), ingested=at(day + delay))
        else:
            log.event(user, item, kind, at(day), 100.0, ingested=at(day + delay))
    connection = log.connect()
    moments = [(user, day) for day in days for user in ("ann", "bob")]
    before_us = np.array([time_us(at(day)) for _, day in moments])

    found = shown_in_vain(connection, [user for user, _ in moments], before_us)

    for (user, day), seen in zip(moments, found, strict=True):
        known = [r for r in rows if r[0] == user and r[3] + r[4] < day and r[3] >= day - WINDOW_DAYS]
        expected = {}
        for item in "abc":
            last = max((r[3] for r in known if r[1] == item and r[2] != "shown"), default=-1)
            times = sum(r[1] == item and r[2] == "shown" and r[3] > last for r in known)
            expected |= {item: times} if times >= MIN_SHOWN else {}
        assert dict(zip(seen.items, seen.counts.tolist(), strict=True)) == expected
        everyone = all_shown_in_vain(connection, time_us(at(day)))
        assert (everyone[user].items if user in everyone else []) == seen.items
