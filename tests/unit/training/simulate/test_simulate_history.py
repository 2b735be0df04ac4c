"""The batch history: declared, possible, reproducible, and drawn from the truth."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from training.data.schemas import EVENTS, IMPRESSIONS, ITEMS, USERS, EventType
from training.simulate.choice import attention
from training.simulate.world import World, WorldSettings

SETTINGS = WorldSettings(users=700, items=300, days=14, sessions_per_day=0.5)


@pytest.fixture(scope="module")
def world() -> World:
    return World(SETTINGS)


@pytest.fixture(scope="module")
def history(world: World) -> tuple[pa.Table, pa.Table]:
    impressions, events = zip(*world.days(), strict=True)
    return pa.concat_tables(impressions), pa.concat_tables(events)


def microseconds(table: pa.Table, column: str) -> np.ndarray:
    return table[column].cast(pa.int64()).to_numpy()


def shown(world: World, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    return world.user_rows(table["user_id"].to_pylist()), world.item_rows(table["item_id"].to_pylist())


def test_every_table_has_its_declared_schema_and_no_nulls_where_none_may_be(world, history):
    tables = {ITEMS: world.items_table(), USERS: world.users_table(), IMPRESSIONS: history[0], EVENTS: history[1]}
    for schema, table in tables.items():
        assert table.schema == schema.arrow
        table.validate(full=True)
        assert [name for name in schema.required if table[name].null_count] == []
    assert tables[USERS].num_rows == 700
    assert tables[ITEMS].num_rows == 300


def test_the_same_settings_give_the_same_rows_and_another_seed_other_ones():
    small = WorldSettings(users=200, items=150, days=3)
    first, again = World(small), World(small)
    other = World(WorldSettings(users=200, items=150, days=3, seed=8))
    assert first.items_table().equals(again.items_table())
    assert first.users_table().equals(again.users_table())
    for (impressions, events), (impressions2, events2) in zip(first.days(), again.days(), strict=True):
        assert impressions.equals(impressions2)
        assert events.equals(events2)
    assert not first.users_table().equals(other.users_table())


def test_history_can_be_read_by_block_or_by_day_and_is_the_same():
    world = World(WorldSettings(users=20_000, items=200, days=2, sessions_per_day=0.03))
    blocks = list(world.blocks())
    assert [block.last_of_day for block in blocks] == [False, True, False, True]
    days = list(world.days())
    assert pa.concat_tables(b.impressions for b in blocks).equals(pa.concat_tables(d[0] for d in days))
    assert pa.concat_tables(b.events for b in blocks).equals(pa.concat_tables(d[1] for d in days))


def test_event_ids_are_unique_over_both_tables(history):
    ids = pa.chunked_array([*history[0]["event_id"].chunks, *history[1]["event_id"].chunks])
    assert pc.count_distinct(ids).as_py() == len(ids)


def test_nothing_happens_outside_the_period_or_is_known_before_it_happened(history):
    for table in history:
        event_us, ingested_us = microseconds(table, "event_time"), microseconds(table, "ingested_at")
        assert event_us.min() >= SETTINGS.start_us
        assert ingested_us.max() < SETTINGS.end_us
        assert (ingested_us >= event_us).all()
        late = (ingested_us - event_us) > 3600 * 1_000_000
        assert 0 < late.mean() < 0.02


def test_nobody_sees_a_film_before_joining_or_one_they_may_not_see(world, history):
    impressions = history[0]
    users, items = shown(world, impressions)
    time_us = microseconds(impressions, "event_time")
    assert (time_us > world.users.created_us[users]).all()
    for user in np.unique(users)[:150]:
        for row in np.flatnonzero(users == user)[:60]:
            assert world.eligible(int(user), int(time_us[row]))[items[row]]


def test_events_follow_an_impression_of_the_same_page_and_film(history):
    impressions, events = history
    keys = ["prediction_id", "item_id"]
    seen = impressions.select([*keys, "event_time"]).rename_columns([*keys, "seen_at"])
    joined = events.join(seen, keys, join_type="inner")
    # An impression that arrives late may miss the end of the history; its events need not.
    assert joined.num_rows > 0.995 * events.num_rows
    assert (microseconds(joined, "event_time") > microseconds(joined, "seen_at")).all()


def test_pages_number_positions_from_the_top_and_repeat_no_film(history):
    pages = (
        history[0]
        .group_by("prediction_id")
        .aggregate(
            [("position", "max"), ("position", "count_distinct"), ("item_id", "count_distinct"), ("position", "count")]
        )
    )
    count = pages["position_count"].to_numpy()
    assert (pages["position_count_distinct"].to_numpy() == count).all()
    assert (pages["item_id_count_distinct"].to_numpy() == count).all()
    deepest = pages["position_max"].to_numpy() + 1
    assert (deepest == count).mean() > 0.9  # the rest lost a late impression at the end
    assert 8 < count.mean() < 24


def test_a_film_is_opened_once_by_a_user_and_not_shown_on_later_days(world, history):
    impressions, events = history
    clicks = events.filter(pc.equal(events["type"], EventType.CLICK))
    pairs = clicks.group_by(["user_id", "item_id"]).aggregate([("event_time", "min"), ("event_time", "count")])
    assert max(pairs["event_time_count"].to_pylist()) == 1
    again = impressions.join(pairs, ["user_id", "item_id"], join_type="inner")
    day_us = 86_400_000_000
    shown_on = microseconds(again, "event_time") // day_us
    assert (shown_on <= microseconds(again, "event_time_min") // day_us).all()


def test_values_mean_what_their_type_says(world, history):
    events = history[1]
    values = {kind: events.filter(pc.equal(events["type"], kind))["value"] for kind in EventType}
    assert values[EventType.CLICK].null_count == len(values[EventType.CLICK]) > 0
    assert values[EventType.LIST_ADD].null_count == len(values[EventType.LIST_ADD]) > 0
    seconds = values[EventType.PLAY].to_numpy()
    share = values[EventType.COMPLETION].to_numpy()
    assert seconds.min() >= 10
    assert seconds.max() <= world.films.duration_s.max()
    assert 0 < share.min() < share.max() <= 1
    assert set(values[EventType.RATING].to_pylist()) <= {half / 2 for half in range(1, 11)}


def test_about_one_impression_in_twelve_is_clicked_and_every_grade_occurs(history):
    impressions, events = history
    clicks = pc.sum(pc.equal(events["type"], EventType.CLICK)).as_py()
    assert 0.05 < clicks / impressions.num_rows < 0.1
    plays = events.filter(pc.equal(events["type"], EventType.PLAY))["value"].to_numpy()
    shares = events.filter(pc.equal(events["type"], EventType.COMPLETION))["value"].to_numpy()
    assert 0.1 < (plays < 480).mean() < 0.5
    assert 0.3 < (shares >= 0.7).mean() < 0.7


def test_clicks_in_the_history_are_as_frequent_as_the_truth_says(world, history):
    impressions, events = history
    clicks = events.filter(pc.equal(events["type"], EventType.CLICK)).select(["prediction_id", "item_id", "type"])
    rows = impressions.join(clicks, ["prediction_id", "item_id"], join_type="left outer")
    users, items = shown(world, rows)
    position = rows["position"].to_numpy()
    codes = pc.index_in(rows["device"], pa.array(["tv", "mobile", "tablet", "web"])).to_numpy()
    time_us = microseconds(rows, "event_time")
    truth = attention(position) * world.click_probability(users, items, time_us, codes)
    clicked = rows["type"].is_valid().to_numpy()
    # A film that was opened is not opened again later that day: look at each day's first chance.
    day = time_us // 86_400_000_000
    order = np.lexsort((time_us, day, items, users))
    _, first = np.unique(np.stack([users, items, day], axis=1)[order], axis=0, return_index=True)
    chance = order[first]
    truth, clicked, position = truth[chance], clicked[chance], position[chance]
    for group in (position == 0, position == 3, position > 10, truth < 0.05, truth > 0.3):
        spread = np.sqrt((truth[group] * (1 - truth[group])).sum())
        assert abs(clicked[group].sum() - truth[group].sum()) < 4 * spread


def test_top_positions_are_clicked_more_than_the_films_there_deserve(world, history):
    assert attention(np.array([0.0]))[0] == pytest.approx(1.0)
    assert (np.diff(world.examination(np.arange(40))) < 0).all()


def test_films_of_a_franchise_look_alike_and_other_editions_nearly_the_same(world):
    films = world.films
    editions = np.flatnonzero(films.edition)
    assert len(editions) > 0
    assert (films.franchise[editions] == films.franchise[films.leader[editions]]).all()
    assert (films.cast[editions] == films.cast[films.leader[editions]]).all()
    titles = world.items_table()["title"].to_pylist()
    for film in editions.tolist():
        assert titles[film] == f"{titles[films.leader[film]]}: Extended Edition"


def test_a_film_and_its_other_editions_share_an_edition_and_no_others_do(world):
    films, items = world.films, world.items_table()
    groups: dict[str, set[int]] = {}
    for film, edition in enumerate(items["edition"].to_pylist()):
        if edition is not None:
            groups.setdefault(edition, set()).add(film)
    leaders = np.unique(films.leader[films.edition])
    expected = [{int(leader), *np.flatnonzero(films.edition & (films.leader == leader)).tolist()} for leader in leaders]
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, expected))


def test_a_few_of_many_providers_bring_most_films(world):
    shares = np.sort(np.unique(world.items_table()["provider"].to_pylist(), return_counts=True)[1])[::-1]
    assert len(shares) == 15
    assert shares[:3].sum() > 0.4 * shares.sum()
    assert shares[-5:].sum() < 0.15 * shares.sum()


def test_some_of_everything_is_missing_or_ends_as_in_life(world):
    items, users = world.items_table(), world.users_table()
    for column in ("maturity", "franchise", "edition", "countries", "licence_start", "licence_end"):
        assert 0 < items[column].null_count < items.num_rows
    assert 0 < users["birth_year"].null_count < 0.1 * users.num_rows
    during = (world.films.available_us > SETTINGS.start_us).mean()
    assert 0.05 < during < 0.25
    ended = world.films.licence_end_us < SETTINGS.end_us
    assert 0 < (users["created_at"].cast(pa.int64()).to_numpy() > SETTINGS.start_us).mean() < 0.4
    assert ended.any()


def test_clickbait_is_opened_but_not_watched(world):
    films = world.films
    bait = films.substance < -1.8
    assert bait.any()
    user, time_us = 3, SETTINGS.end_us - 1
    rows = np.arange(films.count)
    click = world.reward_probability(user, rows, time_us)
    completed = world.reward_probability(user, rows, time_us, "completion") / click
    assert completed[bait].mean() < 0.5 * completed[~bait].mean()
