from types import SimpleNamespace

import numpy as np
import pytest
from serving_world import DAY_US, NOW_US, N, catalogue

from serving.core.candidates import found_by
from serving.core.query import Context, Filters
from serving.errors import InvalidRequest
from serving.rules.eligibility import EligibleRule, ExcludedRule, SeenRule
from serving.rules.filters import FilterRule, ShortlistRule

ROWS = np.array([3, 0, 2, 1], np.int32)
CANDIDATES = found_by(1, ROWS, np.arange(4, 0, -1).astype(np.float32))


def request(age=40.0, country=None, seen=(), excluded=(), **filters):
    masks = np.zeros((2, N), np.bool_)
    masks[0, list(seen)], masks[1, list(excluded)] = True, True
    query = SimpleNamespace(context=Context(country=country), filters=Filters(**filters))
    return SimpleNamespace(query=query, now_us=NOW_US, age_years=age, seen=masks[0], excluded=masks[1])


def outcome(rule, asked):
    """Rows kept in their order, and rows removed by reason."""
    ruled = rule.apply(asked, CANDIDATES)
    assert len(ruled.kept) + sum(len(r.rows) for r in ruled.removed) == len(CANDIDATES)
    return ruled.kept.row.tolist(), {r.reason: r.rows.tolist() for r in ruled.removed}


def eligible(**columns):
    table = catalogue(**{name: set_(name, values) for name, values in columns.items()})
    return EligibleRule(lambda: table, ("US", "DE"))


def set_(name, values):
    column = getattr(catalogue(), name).copy()
    for row, value in values.items():
        column[row] = value
    return column


def test_what_was_seen_or_excluded_goes_and_the_order_of_the_rest_stays():
    assert outcome(SeenRule(), request(seen=[0])) == ([3, 2, 1], {"seen": [0]})
    assert outcome(ExcludedRule(), request(excluded=[3, 1])) == ([0, 2], {"excluded": [3, 1]})
    assert outcome(SeenRule(), request()) == ([3, 0, 2, 1], {})


@pytest.mark.parametrize(
    ("age", "kept"),
    [(40.0, [3, 0, 2, 1]), (18.0, [3, 0, 2, 1]), (17.0, [0, 2, 1]), (12.0, [0, 2]), (0.0, [0]), (None, [0])],
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


def test_filters_keep_any_of_the_genres_and_years_within_the_range():
    rule = FilterRule(catalogue, ("Action", "Comedy"))
    assert outcome(rule, request(genres=("Comedy",))) == ([3, 1], {"genre": [0, 2]})
    assert outcome(rule, request(genres=("Comedy", "Action")))[0] == [3, 0, 2, 1]
    assert outcome(rule, request(year_from=2001, year_to=2002)) == ([2, 1], {"year": [3, 0]})
    assert outcome(rule, request()) == ([3, 0, 2, 1], {})


def test_a_film_of_unknown_year_passes_no_filter_on_years():
    rule = FilterRule(lambda: catalogue(year=set_("year", {0: 0})), ())
    assert outcome(rule, request(year_to=2009))[0] == [3, 2, 1]


def test_a_genre_that_does_not_exist_is_the_callers_mistake():
    with pytest.raises(InvalidRequest) as caught:
        FilterRule(catalogue, ("Action",)).apply(request(genres=("Action", "Jazz")), CANDIDATES)
    assert caught.value.field == "filters.genres.1"


def test_a_shortlist_keeps_the_first():
    assert outcome(ShortlistRule(3), request()) == ([3, 0, 2], {"shortlist": [1]})
    assert outcome(ShortlistRule(4), request()) == ([3, 0, 2, 1], {})
