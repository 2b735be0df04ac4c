"""A replayed request sees what serving would have seen: nothing that became known after it."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from film_log import DAY_0_INDEX, FilmLog, at, time_us

from serving.config import SieveConfig
from serving.features.spec import DAY_US, film_features
from serving.features.user_state import UserState
from training.features.replay import Replay
from training.features.snapshots import build_snapshots

USERS = ["ana", "bo", "new"]
ITEMS = [f"i{number}" for number in range(5)]
HOUR_US = 3_600_000_000
LAG = timedelta(seconds=5)
MOMENT = timedelta(microseconds=1)
FEATURES = film_features(SieveConfig().vocabulary)


def film_log() -> FilmLog:
    log = FilmLog()
    log.user("ana", country="DE")
    log.user("bo")
    log.user("new", created=at(4))
    for item in ITEMS[:-1]:
        log.item(item)
    log.item("i4", known=at(3))
    log.event("bo", "i3", "list_add", at(0))
    log.event("ana", "i0", "play", at(1, hours=12), 600)
    log.event("ana", "i3", "completion", at(1, hours=13), 0.2)
    log.event("ana", "i1", "rating", at(2, hours=6), 5.0, ingested=at(3, hours=6))
    log.event("ana", "i2", "play", at(2, hours=12), 60)
    log.event("ana", "i0", "completion", at(4, hours=12), 0.9)
    log.event("bo", "i1", "play", at(5), 600)
    return log


def replay_of(log: FilmLog, folder: Path, until: datetime | None = None) -> Replay:
    config, connection = SieveConfig(root=folder), log.connect()
    until_us = None if until is None else time_us(until)
    build_snapshots(connection, config.feature_store, FEATURES, config.features, until_us)
    return Replay(connection, config, np.array(USERS, "S"), np.array(ITEMS, "S"))


@pytest.fixture
def films(tmp_path: Path) -> Replay:
    return replay_of(film_log(), tmp_path)


def state(replay: Replay, user: str, moment: datetime) -> UserState:
    (found,) = replay.states(np.array([USERS.index(user)], np.int32), np.array([time_us(moment)], np.int64))
    assert found.user_id == user
    return found


def taken(found: UserState) -> list[tuple[str, int, float]]:
    return list(zip(found.history_items, found.history_times_us.tolist(), found.history_grades.tolist(), strict=True))


def test_a_history_holds_the_latest_of_each_film_in_order(films: Replay) -> None:
    i1, i2 = ("i1", time_us(at(2, hours=6)), 3.0), ("i2", time_us(at(2, hours=12)), 1.0)
    found = state(films, "ana", at(4))
    assert taken(found) == [("i0", time_us(at(1, hours=12)), 2.0), i1, i2]
    assert sorted(found.seen) == ["i0", "i1", "i2", "i3"]
    assert taken(state(films, "ana", at(5))) == [i1, i2, ("i0", time_us(at(4, hours=12)), 3.0)]


def test_an_event_enters_the_history_only_after_the_lag(films: Replay) -> None:
    play = at(1, hours=12)
    assert state(films, "ana", play + LAG).seen == []
    assert state(films, "ana", play + LAG + MOMENT).history_items == ["i0"]


def test_an_event_that_came_in_late_was_not_there_before(films: Replay) -> None:
    ingested = at(3, hours=6)
    assert state(films, "ana", ingested + LAG).history_items == ["i0", "i2"]
    assert state(films, "ana", ingested + LAG + MOMENT).history_items == ["i0", "i1", "i2"]


def test_statistics_are_those_of_the_newest_readable_snapshot(films: Replay) -> None:
    plays = FEATURES.position["user_plays_7d"]
    early, later = state(films, "ana", at(2, hours=1) - MOMENT), state(films, "ana", at(2, hours=1))
    assert early.stats is not None
    assert later.stats is not None
    assert (early.stats_time_us, early.stats[plays]) == ((DAY_0_INDEX + 1) * DAY_US, 0.0)
    assert (later.stats_time_us, later.stats[plays]) == ((DAY_0_INDEX + 2) * DAY_US, 1.0)


def test_a_user_who_was_not_there_yet_has_nothing(films: Replay) -> None:
    found = state(films, "new", at(3))
    assert (found.stats, found.stats_time_us, found.history_items, found.seen) == (None, None, [], [])
    assert state(films, "new", at(5, hours=1)).stats is not None


def test_history_rows_count_in_the_runs_items_newest_last(films: Replay) -> None:
    users, times = np.array([0, 1], np.int32), np.full(2, time_us(at(4)), np.int64)
    assert films.history_rows(users, times, 4).tolist() == [[-1, 0, 1, 2], [-1, -1, -1, -1]]
    assert films.history_rows(users, times, 2).tolist() == [[1, 2], [-1, -1]]


def test_the_item_table_changes_with_the_snapshot_and_hides_what_was_unknown(films: Replay) -> None:
    before, after = time_us(at(3, hours=1)) - 1, time_us(at(3, hours=1))
    assert films.item_table(before) is films.item_table(before - 23 * HOUR_US)
    table = films.item_table(before)
    assert table.available_at_us[ITEMS.index("i4")] > before
    assert np.isnan(table.features[ITEMS.index("i4")]).all()
    assert films.item_table(after) is not table
    known = films.item_table(time_us(at(4, hours=1)))
    assert known.available_at_us[ITEMS.index("i4")] == time_us(at(3))
    plays = known.feature_names.index("item_plays_7d")
    assert known.features[:4, plays].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_what_was_shown_in_vain_is_as_old_as_the_history_and_comes_only_when_asked_for(tmp_path: Path) -> None:
    log = film_log()
    log.impression("ana", "i3", at(2))
    log.impression("ana", "i3", at(3))
    replay, users = replay_of(log, tmp_path), np.zeros(2, np.int32)
    lag = timedelta(seconds=SieveConfig().features.history_lag_s)
    times = np.array([time_us(at(3) + lag), time_us(at(3) + lag + MOMENT)])

    early, late = replay.states(users, times, with_shown=True)

    assert (early.shown_items, late.shown_items, late.shown_counts.tolist()) == ([], ["i3"], [2])
    assert [s.shown_items for s in replay.states(users, times)] == [[], []]


@pytest.mark.parametrize("moment", [at(2, hours=8), at(3, hours=5), at(4, hours=18)])
def test_what_happens_afterwards_changes_nothing(tmp_path: Path, films: Replay, moment: datetime) -> None:
    """The same request on a log that ends just before it."""
    past = FilmLog()
    for table, rows in film_log().rows.items():
        past.rows[table] = [row for row in rows if max(row["ingested_at"], row.get("event_time", at(-99))) < moment]
    then = replay_of(past, tmp_path / "past", until=moment)
    assert any(len(past.rows[table]) < len(rows) for table, rows in film_log().rows.items())
    users, times = np.arange(len(USERS), dtype=np.int32), np.full(len(USERS), time_us(moment), np.int64)
    for now, before in zip(films.states(users, times), then.states(users, times), strict=True):
        assert taken(now) == taken(before)
        assert (sorted(now.seen), now.stats_time_us) == (sorted(before.seen), before.stats_time_us)
        assert (now.stats is None) == (before.stats is None)
        if now.stats is not None and before.stats is not None:
            assert now.stats.tobytes() == before.stats.tobytes()
    tables = films.item_table(time_us(moment)), then.item_table(time_us(moment))
    assert tables[0].features.tobytes() == tables[1].features.tobytes()
    for column in ("maturity", "licence_end_us", "available_at_us", "country_mask", "genre_mask", "year"):
        assert getattr(tables[0], column).tolist() == getattr(tables[1], column).tolist()
