"""What the world says about the truth, and live answers that follow it."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from serving.errors import InvalidRequest, NotFound
from training.data.schemas import EVENTS, IMPRESSIONS, EventType
from training.simulate.world import World, WorldSettings

SETTINGS = WorldSettings(users=300, items=400, days=30)
NOW_US = SETTINGS.end_us - 4 * 3_600_000_000


@pytest.fixture(scope="module")
def world() -> World:
    return World(SETTINGS)


def item_ids(rows: np.ndarray) -> list[str]:
    return [f"i{row + 1:07d}" for row in rows]


def respond(world: World, rows: np.ndarray, seed: int, **more) -> tuple[pa.Table, pa.Table]:
    rng = np.random.default_rng(seed)
    return world.respond("u0000012", item_ids(rows), NOW_US, rng, f"p{seed}", "s1", device="tv", **more)


def clicked_rows(world: World, events: pa.Table) -> np.ndarray:
    clicks = events.filter(pc.equal(events["type"], EventType.CLICK))
    return world.item_rows(clicks["item_id"].to_pylist())


def test_the_probability_of_one_click_does_not_depend_on_what_else_is_asked(world):
    rows = np.arange(400)
    together = world.click_probability(5, rows, NOW_US, "web")
    alone = np.array([world.click_probability(5, np.array([row]), NOW_US, "web")[0] for row in rows])
    assert (together == alone).all()
    assert 0 < together.min() < together.max() < 1


def test_users_times_and_devices_can_differ_from_row_to_row(world):
    users, rows = np.array([1, 2, 1]), np.array([7, 7, 9])
    times_us = np.array([SETTINGS.start_us, NOW_US, NOW_US])
    mixed = world.click_probability(users, rows, times_us, np.array([0, 1, 3]))
    single = [
        world.click_probability(int(u), np.array([i]), int(t), device)[0]
        for u, i, t, device in zip(users, rows, times_us, ("tv", "mobile", "web"), strict=True)
    ]
    assert mixed.tolist() == single


def test_the_expected_reward_is_the_sum_of_examination_times_click(world):
    rows = np.array([3, 8, 1])
    by_hand = world.examination(np.arange(3)) @ world.click_probability(4, rows, NOW_US)
    assert world.expected_reward(4, rows, NOW_US) == pytest.approx(by_hand)
    assert world.expected_reward(4, np.array([], dtype=int), NOW_US) == 0


def test_rewards_that_ask_for_more_are_rarer(world):
    rows = np.arange(400)
    click, play8, completion = (
        world.reward_probability(4, rows, NOW_US, reward) for reward in ("click", "play8", "completion")
    )
    assert (click > play8).all()
    assert (play8 > completion).all()


def test_no_list_earns_more_than_the_best_one(world):
    rng = np.random.default_rng(1)
    for user in (0, 17, 200):
        best = world.best_list(user, NOW_US, k=10)
        reward = world.expected_reward(user, best, NOW_US)
        allowed = np.flatnonzero(world.eligible(user, NOW_US))
        others = [rng.permutation(allowed)[:10] for _ in range(50)] + [best[::-1], np.roll(best, 1)]
        assert all(world.expected_reward(user, other, NOW_US) <= reward for other in others)


def test_the_best_list_keeps_to_the_rules_and_leaves_out_what_is_excluded(world):
    for user in range(40):
        free = world.best_list(user, NOW_US, k=400, rules=False)
        ruled = world.best_list(user, NOW_US, k=400)
        eligible = world.eligible(user, NOW_US)
        assert sorted(free.tolist()) == list(range(400))
        assert set(ruled.tolist()) == set(np.flatnonzero(eligible).tolist())
        rest = world.best_list(user, NOW_US, k=20, excluded=ruled[:5])
        assert rest.tolist() == ruled[5:25].tolist()


def test_rules_follow_licence_country_and_age(world):
    films, users = world.films, world.users
    for user in range(60):
        allowed = world.eligible(user, NOW_US)
        age = 2026 - users.birth_year[user] if users.birth_year[user] else 0
        rated = np.where(films.maturity < 0, 18, films.maturity)
        licensed_here = (films.countries == 0) | (films.countries >> users.country[user].astype(np.uint16) & 1 == 1)
        on = (films.available_us <= NOW_US) & (films.licence_start_us <= NOW_US) & (films.licence_end_us > NOW_US)
        assert (allowed == ((rated <= age) & licensed_here & on)).all()


def test_a_user_of_unknown_age_may_see_films_for_all_ages_only(world):
    user = int(np.flatnonzero(world.users.birth_year == 0)[0])
    assert set(world.films.maturity[world.eligible(user, NOW_US)].tolist()) == {0}


def test_live_clicks_are_as_frequent_as_the_truth_says(world):
    rows = world.best_list(11, NOW_US, k=12)[::-1]
    draws = 3000
    rng = np.random.default_rng(5)
    clicks = np.zeros(400)
    for _ in range(draws):
        _, events = world.respond("u0000012", item_ids(rows), NOW_US, rng, "p", "s", device="tv")
        clicks[clicked_rows(world, events)] += 1
    truth = world.examination(np.arange(12)) * world.click_probability(11, rows, NOW_US, "tv")
    spread = np.sqrt(draws * truth * (1 - truth))
    assert (abs(clicks[rows] - draws * truth) < 4 * spread).all()
    assert clicks.sum() == clicks[rows].sum()


def test_a_live_answer_has_the_declared_schema_and_the_servers_ids(world):
    impressions, events = respond(world, np.arange(30), seed=3)
    assert impressions.schema == IMPRESSIONS.arrow
    assert events.schema == EVENTS.arrow
    assert set(impressions["prediction_id"].to_pylist()) == {"p3"}
    assert set(impressions["session_id"].to_pylist()) == {"s1"}
    assert impressions["position"].to_pylist() == list(range(impressions.num_rows))
    assert impressions["item_id"].to_pylist() == item_ids(np.arange(impressions.num_rows))
    ids = [*impressions["event_id"].to_pylist(), *events["event_id"].to_pylist()]
    assert len(set(ids)) == len(ids)


def test_the_same_chance_gives_the_same_live_answer(world):
    assert respond(world, np.arange(30), 9)[1].equals(respond(world, np.arange(30), 9)[1])


def test_films_watched_before_are_passed_over(world):
    best = world.best_list(11, NOW_US, k=20)
    for seed in range(40):
        _, events = respond(world, best, seed, watched=item_ids(best[:19]))
        assert set(clicked_rows(world, events).tolist()) <= {int(best[19])}


def test_an_empty_list_is_answered_with_nothing(world):
    impressions, events = respond(world, np.array([], dtype=int), seed=1)
    assert impressions.num_rows == events.num_rows == 0


def test_strangers_are_named(world):
    rng = np.random.default_rng(0)
    with pytest.raises(NotFound, match="u0000301"):
        world.respond("u0000301", [], NOW_US, rng, "p", "s")
    with pytest.raises(NotFound, match=r"item_ids\[1\].*i0000401"):
        world.respond("u0000300", ["i0000400", "i0000401"], NOW_US, rng, "p", "s")
    with pytest.raises(NotFound, match="film"):
        world.item_rows(["film"])
    with pytest.raises(InvalidRequest, match="twice"):
        world.respond("u0000300", ["i0000400", "i0000400"], NOW_US, rng, "p", "s")
    with pytest.raises(InvalidRequest, match="toaster"):
        world.click_probability(0, np.array([0]), NOW_US, "toaster")


def test_knowing_tastes_earns_far_more_than_popularity_and_popularity_more_than_chance(world):
    rng = np.random.default_rng(2)
    earned = {"best": 0.0, "popular": 0.0, "chance": 0.0}
    everyone = world.users.taste.shape[0]
    sample = rng.choice(everyone, size=60, replace=False).tolist()
    popularity = sum(world.click_probability(user, np.arange(400), NOW_US) for user in range(everyone))
    for user in sample:
        allowed = np.flatnonzero(world.eligible(user, NOW_US))
        popular = allowed[np.argsort(-popularity[allowed])][:20]
        earned["best"] += world.expected_reward(user, world.best_list(user, NOW_US), NOW_US)
        earned["popular"] += world.expected_reward(user, popular, NOW_US)
        earned["chance"] += world.expected_reward(user, rng.permutation(allowed)[:20], NOW_US)
    assert 0.35 < earned["popular"] / earned["best"] < 0.75
    assert earned["chance"] < 0.5 * earned["popular"]
