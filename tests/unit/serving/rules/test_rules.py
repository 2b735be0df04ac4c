from types import SimpleNamespace

import numpy as np
import pytest
import rule_world
from rule_world import ROWS, candidates, parts, request
from serving_world import DAY_US, NOW_US, N, catalogue

from serving.core.candidates import contains
from serving.errors import InvalidRequest
from serving.rules.eligibility import EligibleRule, ExcludedRule, SeenRule, still_seen
from serving.rules.filters import FilterRule, ShortlistRule

CANDIDATES = candidates(ROWS)


def outcome(rule, asked, pool=CANDIDATES):
    return rule_world.outcome(rule, asked, pool)[:2]


def eligible(**columns):
    return EligibleRule(parts(**columns))


def test_what_was_seen_or_excluded_goes_and_the_order_of_the_rest_stays():
    assert outcome(SeenRule(parts()), request(seen=[0])) == ([3, 2, 1], {"seen": [0]})
    assert outcome(ExcludedRule(parts()), request(excluded=[3, 1])) == ([0, 2], {"excluded": [3, 1]})
    assert outcome(SeenRule(parts()), request()) == ([3, 0, 2, 1], {})


def test_what_was_seen_longer_ago_than_the_horizon_may_come_back_and_what_has_no_time_may_not():
    seen, met = np.array([1, 4, 6, 9], np.int32), np.array([9, 4, 6], np.int32)
    met_at_us = NOW_US - np.array([30 * DAY_US + 1, 30 * DAY_US, 30 * DAY_US - 1])
    assert still_seen(seen, met, met_at_us, NOW_US, horizon_days=30).tolist() == [1, 6]
    assert still_seen(seen, met[:0], met_at_us[:0], NOW_US, horizon_days=30).tolist() == [1, 4, 6, 9]


@pytest.mark.parametrize(
    ("age", "kept"),
    [
        (40.0, [3, 0, 2, 1]),
        (18.0, [3, 0, 2, 1]),
        (17.0, [0, 2, 1]),
        (12.0, [0, 2]),
        (0.0, [0]),
        (None, [0]),
        (float("nan"), []),
    ],
)
def test_the_age_gate_takes_an_unknown_age_for_the_youngest(age, kept):
    rule = eligible(maturity={1: 16, 2: 12, 3: 18})
    assert outcome(rule, request(age=age))[0] == kept


def test_a_licence_holds_from_its_start_until_before_its_end():
    rule = eligible(licence_start_us={0: NOW_US, 1: NOW_US + 1}, licence_end_us={2: NOW_US, 3: NOW_US + 1})
    assert outcome(rule, request()) == ([3, 0], {"licence": [2, 1]})


def test_a_film_is_available_from_the_moment_that_it_says():
    rule = eligible(available_at_us={0: NOW_US, 1: NOW_US + DAY_US})
    assert outcome(rule, request()) == ([3, 0, 2], {"not_available": [1]})


@pytest.mark.parametrize(("country", "kept"), [("US", [3, 0, 1]), ("DE", [3, 0, 2]), ("IT", [3]), (None, [3])])
def test_a_country_sees_its_own_licences_and_an_unknown_one_only_what_is_licensed_everywhere(country, kept):
    other = np.uint64(1 << 63)
    rule = eligible(country_mask={0: np.uint64(0b11) | other, 1: np.uint64(0b01), 2: np.uint64(0b10)})
    assert outcome(rule, request(country=country))[0] == kept


def test_each_film_is_removed_for_one_reason():
    rule = eligible(maturity={0: 18}, available_at_us={0: NOW_US + 1, 1: NOW_US + 1})
    assert outcome(rule, request(age=10.0)) == ([3, 2], {"age": [0], "not_available": [1]})


def test_items_newer_than_the_bundle_are_judged_like_all_others():
    table = catalogue()
    longer = table.take(np.append(np.arange(N), [5, 5]))
    longer.maturity[N], longer.licence_end_us[N + 1] = 18, NOW_US
    rule = EligibleRule(parts(table=longer))
    newer = candidates([N, 2, N + 1])
    assert outcome(rule, request(age=10.0), newer) == ([2], {"age": [N], "licence": [N + 1]})


def test_a_table_that_takes_over_is_what_the_next_request_is_judged_by():
    tables = [catalogue(), catalogue(maturity=np.full(N, 18, np.int16))]
    rule = EligibleRule(SimpleNamespace(table=lambda: tables[0], vocabulary=parts().vocabulary))
    assert outcome(rule, request(age=10.0))[0] == [3, 0, 2, 1]
    tables.reverse()
    assert outcome(rule, request(age=10.0))[0] == []


def test_filters_keep_any_of_the_genres_and_years_within_the_range():
    rule = FilterRule(parts())
    assert outcome(rule, request(genres=("Comedy",))) == ([3, 1], {"genre": [0, 2]})
    assert outcome(rule, request(genres=("Comedy", "Action")))[0] == [3, 0, 2, 1]
    assert outcome(rule, request(year_from=2001, year_to=2002)) == ([2, 1], {"year": [3, 0]})
    assert outcome(rule, request()) == ([3, 0, 2, 1], {})


def test_a_film_of_unknown_year_passes_no_filter_on_years():
    assert outcome(FilterRule(parts(year={0: 0})), request(year_to=2009))[0] == [3, 2, 1]


def test_a_genre_that_does_not_exist_is_the_callers_mistake():
    with pytest.raises(InvalidRequest) as caught:
        FilterRule(parts()).apply(request(genres=("Action", "Jazz")), CANDIDATES)
    assert caught.value.field == "filters.genres.1"


def test_a_shortlist_keeps_the_first():
    assert outcome(ShortlistRule(3), request()) == ([3, 0, 2], {"shortlist": [1]})
    assert outcome(ShortlistRule(4), request()) == ([3, 0, 2, 1], {})


def test_no_candidates_are_no_trouble():
    for rule in (SeenRule(parts()), ExcludedRule(parts()), EligibleRule(parts()), FilterRule(parts())):
        asked = request(seen=[1], excluded=[2], genres=("Comedy",), year_from=1990)
        assert outcome(rule, asked, candidates([])) == ([], {})
    assert contains(np.empty(0, np.int32), ROWS).tolist() == [False] * 4
