import numpy as np
from rule_world import candidates, outcome, parts, request
from serving_world import DAY_US, NOW_US

from serving.rules.caps import ProviderCapRule
from serving.rules.freshness import FreshnessRule
from serving.rules.ignored import IgnoredRule
from serving.rules.near_duplicates import NearDuplicatesRule
from serving.rules.order import levels, standardised

ALL = candidates(range(12))


def rule(cls, world=None, **settings):
    return cls(world or parts(), cls.Settings(**settings))


def near_duplicates(**arguments):
    settings = {key: arguments.pop(key) for key in ("per_franchise", "head", "excess") if key in arguments}
    return rule(NearDuplicatesRule, parts(**arguments), **settings)


def test_what_was_ignored_often_goes_or_moves_behind_all_others():
    asked = request(ignored=[0, 2])
    pool = candidates([3, 0, 2, 1])
    assert outcome(rule(IgnoredRule), asked, pool) == ([3, 1], {"ignored": [0, 2]}, {})
    assert outcome(rule(IgnoredRule, action="demote"), asked, pool) == ([3, 1, 0, 2], {}, {"ignored": [0, 2]})
    assert outcome(rule(IgnoredRule, action="demote"), request(), pool) == ([3, 0, 2, 1], {}, {})


def test_a_long_list_keeps_its_order_among_the_ignored_and_among_the_others():
    asked, pool = request(ignored=range(0, 300, 3)), candidates(range(300))
    rows = outcome(rule(IgnoredRule, action="demote"), asked, pool)[0]
    assert rows == [row for row in range(300) if row % 3] + list(range(0, 300, 3))


def test_of_one_works_editions_the_best_ranked_stays():
    cut = near_duplicates(edition={1: 77, 4: 77, 9: 77, 5: 8})
    assert outcome(cut, request(), candidates([9, 1, 5, 4, 0])) == ([9, 5, 0], {"near_duplicate": [1, 4]}, {})


def test_films_without_an_edition_are_no_editions_of_each_other():
    assert outcome(near_duplicates(), request(), ALL)[0] == list(range(12))


def test_no_more_of_a_franchise_than_the_limit_stand_in_the_head_and_the_rest_comes_right_behind():
    saga = near_duplicates(franchise=dict.fromkeys((0, 1, 2, 4), 5), per_franchise=2, head=4)
    assert outcome(saga, request(), ALL) == ([0, 1, 3, 5, 2, 4, 6, 7, 8, 9, 10, 11], {}, {"franchise": [2, 4]})


def test_a_franchise_can_be_cut_instead():
    saga = near_duplicates(franchise=dict.fromkeys((0, 1, 2, 11), 5), per_franchise=1, head=4, excess="remove")
    kept = [0, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert outcome(saga, request(), ALL) == (kept, {"franchise": [1, 2]}, {})


def test_an_edition_that_is_removed_takes_none_of_its_franchises_places():
    saga = near_duplicates(franchise=dict.fromkeys((0, 1, 2), 5), edition={0: 9, 1: 9}, per_franchise=2, head=3)
    assert outcome(saga, request(), candidates([0, 1, 2, 3])) == ([0, 2, 3], {"near_duplicate": [1]}, {})


def test_a_provider_has_no_more_than_its_part_of_the_window():
    cap = rule(ProviderCapRule, parts(provider=dict.fromkeys(range(6), 3)), per_provider=2, window=5)
    rows, removed, marked = outcome(cap, request(), ALL)
    assert rows == [0, 1, 6, 7, 8, 2, 3, 4, 5, 9, 10, 11]
    assert (removed, marked) == ({}, {"provider_cap": [2, 3, 4, 5]})


def test_a_cap_gives_way_where_there_is_nobody_else():
    cap = rule(ProviderCapRule, parts(provider=dict.fromkeys(range(6), 3)), per_provider=2, window=5)
    assert outcome(cap, request(), candidates([5, 4, 3, 2]))[0] == [5, 4, 3, 2]


def fresh(available_at_us, **settings):
    return rule(FreshnessRule, parts(available_at_us=available_at_us), **settings)


def test_a_new_film_rises_by_its_strength_in_deviations_and_by_half_of_it_after_a_half_life():
    scores = [-1.0, -2.0, -3.0, -4.0]
    deviation = np.std(scores)
    for age_days, lift in ((0, 1.0), (10, 0.5), (20, 0.25)):
        lifted = fresh({3: NOW_US - age_days * DAY_US}, strength=2.0, half_life_days=10)
        kept = lifted.apply(request(), candidates([0, 1, 2, 3], scores)).kept
        np.testing.assert_allclose(kept.score[kept.row == 3], -4 + 2 * deviation * lift, rtol=1e-6)
        assert (np.diff(kept.score) <= 0).all()


def test_scores_have_no_zero_so_moving_them_all_changes_no_order():
    lifted = fresh({row: NOW_US - row * DAY_US for row in range(0, 12, 3)}, strength=1.0)
    scores = np.linspace(3, -3, 12)
    orders = [outcome(lifted, request(), candidates(range(12), scores * a + b))[0] for a, b in ((1, 0), (5, -100))]
    assert orders[0] == orders[1] != list(range(12))


def test_what_rose_is_marked_fresh_and_what_is_old_is_untouched():
    lifted = fresh({3: NOW_US, 0: NOW_US}, strength=10)
    assert outcome(lifted, request(), candidates([0, 1, 2, 3])) == ([0, 3, 1, 2], {}, {"fresh": [3]})
    pool = candidates([0, 1, 2, 3])
    assert fresh({}, strength=10).apply(request(), pool).kept is pool


def test_where_all_scores_are_equal_nothing_is_fresher_than_its_place():
    assert outcome(fresh({3: NOW_US}), request(), candidates([0, 1, 3], [2, 2, 2]))[0] == [0, 1, 3]


def test_what_a_rule_moved_down_stays_down_for_the_next():
    world = parts(provider=dict.fromkeys((0, 1, 2), 3), available_at_us={11: NOW_US})
    capped = rule(ProviderCapRule, world, per_provider=1, window=4).apply(request(), ALL).kept
    lifted = rule(FreshnessRule, world, strength=0.5).apply(request(), capped).kept
    assert [row for row in lifted.row.tolist() if row != 11] == [0, 3, 4, 5, 1, 2, 6, 7, 8, 9, 10]


def test_a_place_is_worth_the_score_that_would_stand_there_in_order():
    assert levels(np.array([1, 5, 3], np.float32)).tolist() == [5, 3, 1]
    assert standardised(levels(np.array([2, 2], np.float32))).tolist() == [0, 0]
    np.testing.assert_allclose(standardised(np.array([3.0, -3.0])), [1, -1])
