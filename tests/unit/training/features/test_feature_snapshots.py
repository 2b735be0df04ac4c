from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from film_log import DAY_0_INDEX, FilmLog, at, time_us

from serving.config import FeatureSettings, Vocabulary
from serving.features.spec import FeatureSet, film_features
from training.features import snapshots
from training.features.snapshots import ITEM_STATS, USER_STATS, build_snapshots, snapshot_days, snapshot_path

FEATURES = film_features(Vocabulary())
SETTINGS = FeatureSettings.model_validate({})


def build(log: FilmLog, root: Path, features: FeatureSet = FEATURES, until: int | None = None) -> Any:
    return build_snapshots(log.connect(), root, features, SETTINGS, until)


def row(root: Path, view: str, entity: str, day: int = 1) -> dict[str, float] | None:
    """One entity's features at the midnight `day` days after day 0."""
    path = snapshot_path(root / view, DAY_0_INDEX + day)
    if not path.exists():
        return None
    table = pq.read_table(path)
    found = table.filter(pa.compute.equal(table[0], entity))
    if not found.num_rows:
        return None
    features = FEATURES.user if view == USER_STATS else FEATURES.item
    return dict(zip([f.name for f in features], found[1][0].as_py(), strict=True))


def small_log() -> FilmLog:
    log = FilmLog()
    log.user("ann", birth_year=1990)
    log.item("film", genres=["Drama", "War"], year=1999, duration_s=6000, maturity=12, cast=["A", "B"])
    log.impression("ann", "film", at(0, hours=3), position=4)
    log.impression("ann", "film", at(0, hours=4), position=6)
    log.event("ann", "film", "click", at(0, hours=4))
    log.event("ann", "film", "play", at(0, hours=5), 600.0, device="tv", session_id="s1")
    log.event("ann", "film", "completion", at(0, hours=6), 0.9, session_id="s1")
    log.event("ann", "film", "rating", at(0, hours=7), 4.5, device="web", session_id="s2")
    return log


def test_a_users_day_adds_up(tmp_path: Path) -> None:
    build(small_log(), tmp_path)

    ann = row(tmp_path, USER_STATS, "ann")

    assert ann is not None
    counted = ("impressions", "clicks", "plays", "long_plays", "completions", "ratings", "sessions", "active_days")
    assert [ann[f"user_{name}_7d"] for name in counted] == [2, 1, 1, 1, 1, 1, 2, 1]
    assert (ann["user_ctr_1d"], ann["user_mean_rating_1d"], ann["user_completion_rate_1d"]) == (0.5, 4.5, 1)
    assert (ann["user_genre_drama_1d"], ann["user_genre_war_90d"], ann["user_genre_comedy_7d"]) == (0.5, 0.5, 0)
    assert (ann["user_mean_year_30d"], ann["user_mean_duration_30d"]) == (1999, 100)
    assert (ann["user_age"], ann["user_age_known"], ann["user_account_age_days"]) == (36, 1, 6)
    assert (ann["user_hours_since_interaction"], ann["user_mean_position"]) == (17, 5)
    assert (ann["user_device_tv"], ann["user_device_web"], ann["user_daypart_dawn"]) == (0.5, 0.5, 1)
    assert ann["user_weekend_share"] == 1
    assert ann["user_watch_hours_1d"] == np.float32(600 / 3600)


def test_an_items_day_adds_up(tmp_path: Path) -> None:
    log = small_log()
    log.item("other", genres=["Drama"], cast=["A"])
    build(log, tmp_path)

    film, other = row(tmp_path, ITEM_STATS, "film"), row(tmp_path, ITEM_STATS, "other")

    assert film is not None
    assert other is not None
    assert [film[f"item_{n}_1d"] for n in ("impressions", "plays", "new_viewers", "ratings")] == [2, 1, 1, 1]
    assert (film["item_popularity_7d"], other["item_popularity_7d"]) == (0.5, 0)
    assert (film["item_cast_size"], film["item_cast_popularity"], other["item_cast_popularity"]) == (2, 2, 2)
    assert (film["item_genre_war"], other["item_genre_war"], film["item_genre_count"]) == (1, 0, 2)
    assert (film["item_maturity"], other["item_maturity"], other["item_licence_days_left"]) == (12, 18, 3650)
    assert np.isnan(other["item_year"])
    assert np.isnan(other["item_mean_rating_90d"])
    assert film["item_days_available"] == 21


@pytest.mark.parametrize("late", ["event_time", "ingested_at"])
def test_a_row_moved_by_a_microsecond_across_midnight_changes_its_snapshot(tmp_path: Path, late: str) -> None:
    def plays(moment: Any, root: Path) -> list[float]:
        log = small_log()
        when = moment if late == "event_time" else at(0, hours=20)
        log.event("ann", "film", "play", when, 30.0, ingested=moment)
        log.event("ann", "film", "click", at(2))
        build(log, root)
        rows = [row(root, USER_STATS, "ann", day) for day in (1, 2)]
        return [r["user_plays_7d"] for r in rows if r]

    assert plays(at(1, microseconds=-1), tmp_path / "before") == [2, 2]
    assert plays(at(1), tmp_path / "after") == [1, 2]


def test_a_late_row_counts_on_its_own_day_once_it_is_known(tmp_path: Path) -> None:
    log = small_log()
    log.event("ann", "film", "play", at(0, hours=9), 30.0, ingested=at(2, hours=1))
    log.event("ann", "film", "click", at(8, hours=1))
    build(log, tmp_path)

    seven_days = [row(tmp_path, USER_STATS, "ann", day) for day in (1, 2, 3, 7, 8)]

    assert [r["user_plays_7d"] for r in seven_days if r] == [1, 1, 2, 2, 0]
    assert [r["user_plays_30d"] for r in seven_days if r] == [1, 1, 2, 2, 2]
    assert [r["user_active_days_30d"] for r in seven_days if r] == [1] * 5


def test_what_is_said_of_an_item_later_does_not_change_earlier_snapshots(tmp_path: Path) -> None:
    log = small_log()
    log.item("film", at(1, hours=5), genres=["Comedy"], year=2020)
    log.event("ann", "film", "play", at(2, hours=1), 30.0)
    build(log, tmp_path)

    first, third = row(tmp_path, USER_STATS, "ann", 1), row(tmp_path, USER_STATS, "ann", 3)
    film = [row(tmp_path, ITEM_STATS, "film", day) for day in (1, 2)]

    assert first is not None
    assert third is not None
    assert (first["user_genre_comedy_30d"], third["user_genre_comedy_1d"]) == (0, 1)
    assert [f["item_year"] for f in film if f] == [1999, 2020]


def test_users_appear_from_their_creation_and_go_after_90_quiet_days(tmp_path: Path) -> None:
    log = small_log()
    log.user("bob", at(2, hours=1))
    log.user("old", at(-200))
    log.event("ann", "film", "click", at(4))
    build(log, tmp_path)

    assert row(tmp_path, USER_STATS, "bob", 2) is None
    bob = row(tmp_path, USER_STATS, "bob", 3)
    assert bob is not None
    assert (bob["user_plays_90d"], bob["user_age_known"]) == (0, 0)
    assert np.isnan(bob["user_age"])
    assert row(tmp_path, USER_STATS, "old", 3) is None


def test_snapshots_made_in_one_go_or_day_by_day_are_the_same_bytes(tmp_path: Path) -> None:
    log = small_log()
    for day in range(1, 6):
        log.event("ann", "film", "play", at(day, hours=2), 700.0, ingested=at(day + day % 3, hours=3))
    build(log, tmp_path / "once")
    for day in range(1, 9):
        build(log, tmp_path / "daily", until=time_us(at(day)))

    once, daily = sorted((tmp_path / "once").rglob("*.parquet")), sorted((tmp_path / "daily").rglob("*.parquet"))

    assert [p.name for p in once] == [p.name for p in daily]
    assert [p.read_bytes() for p in once] == [p.read_bytes() for p in daily]


def test_only_days_whose_inputs_changed_are_built_again(tmp_path: Path) -> None:
    log = small_log()
    log.event("ann", "film", "click", at(3, hours=1))
    first = build(log, tmp_path)
    again = build(log, tmp_path)
    log.event("ann", "film", "click", at(2, hours=1))
    changed = build(log, tmp_path)
    other = build(log, tmp_path, film_features(Vocabulary(countries=("NL",))))

    assert (first.built, again.built, again.kept, changed.built, other.built) == (8, 0, 8, 4, 8)


def test_no_snapshot_is_stamped_after_the_given_time(tmp_path: Path) -> None:
    build(small_log(), tmp_path, until=time_us(at(1)) - 1)

    assert snapshot_days(tmp_path / USER_STATS) == []
    assert build(FilmLog(), tmp_path).built == 0


def test_users_in_partitions_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = small_log()
    for i in range(40):
        log.user(f"u{i}", at(-3, hours=i))
        log.event(f"u{i}", "film", "play", at(i % 4, hours=1), 100.0)
    build(log, tmp_path / "whole")
    monkeypatch.setattr(snapshots, "USERS_PER_PARTITION", 10)
    build(log, tmp_path / "parts")

    for path in sorted((tmp_path / "whole" / USER_STATS).iterdir()):
        whole = pq.read_table(path).sort_by("user_id")
        parts = pq.read_table(tmp_path / "parts" / USER_STATS / path.name).sort_by("user_id")
        assert whole["user_id"] == parts["user_id"]
        values = [t["user_values"].combine_chunks().flatten().to_numpy().tobytes() for t in (whole, parts)]
        assert values[0] == values[1]
