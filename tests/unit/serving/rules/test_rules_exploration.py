from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from rule_world import candidates, outcome, parts, request

from serving.rules.exploration import ExplorationRule, lots

POOL = candidates(range(12), np.linspace(2.0, -3.0, 12) ** 3)


def explore(**settings):
    return ExplorationRule(parts(), ExplorationRule.Settings(**settings))


def chi_square(counts, chances):
    expected = np.asarray(chances) * sum(counts)
    return float((((np.asarray(counts) - expected) ** 2) / expected).sum())


@pytest.mark.parametrize(("draw", "requests"), [("uniform", 200_000), ("softmax", 60_000)])
def test_the_logged_propensity_is_the_frequency_of_what_stands_in_the_slot(draw, requests):
    rule = explore(slot=3, rate=0.3, pool=6, draw=draw)
    counts, propensities, query = Counter(), {}, request().query
    for i in range(requests):
        kept = rule.apply(SimpleNamespace(prediction_id=f"prediction-{i}", query=query), POOL).kept
        row = int(kept.row[3])
        counts[row] += 1
        assert propensities.setdefault(row, float(kept.propensity[3])) == float(kept.propensity[3])
    rows = sorted(counts)
    assert rows == [3, 4, 5, 6, 7, 8]
    assert sum(propensities.values()) == pytest.approx(1, abs=1e-6)
    # 99.99 % of the chi-square distribution with 5 degrees of freedom
    assert chi_square([counts[row] for row in rows], [propensities[row] for row in rows]) < 25.74


def test_uniform_propensities_are_exact():
    rule = explore(slot=3, rate=0.2, pool=4)
    seen = {}
    for i in range(2000):
        kept = rule.apply(request(prediction_id=str(i)), POOL).kept
        seen[int(kept.row[3])] = float(kept.propensity[3])
    assert seen == {3: np.float32(0.8 + 0.2 / 4), **dict.fromkeys((4, 5, 6), np.float32(0.2 / 4))}


def test_a_softmax_prefers_the_better_and_gives_each_a_chance():
    rule = explore(slot=0, rate=1, pool=12, draw="softmax", temperature=0.5)
    chances = {}
    for i in range(4_000):
        kept = rule.apply(request(prediction_id=str(i)), POOL).kept
        chances[int(kept.row[0])] = float(kept.propensity[0])
    ordered = [chances[row] for row in sorted(chances)]
    assert ordered == sorted(ordered, reverse=True)
    assert min(ordered) > 0


def test_all_other_places_keep_their_order_and_are_certain():
    rule = explore(slot=2, rate=1, pool=12)
    moved = 0
    for i in range(300):
        ruled = rule.apply(request(prediction_id=str(i)), POOL)
        rows = ruled.kept.row.tolist()
        placed = rows.pop(2)
        assert rows == [row for row in range(12) if row != placed]
        assert ruled.marked[0].rows.tolist() == [placed]
        assert np.delete(ruled.kept.propensity, 2).tolist() == [1.0] * 11
        moved += placed != 2
    assert moved > 200


def test_a_request_that_is_not_explored_is_answered_as_if_there_were_no_lot_but_knows_its_propensity():
    ruled = explore(slot=2, rate=0, pool=4).apply(request(), POOL)
    assert ruled.kept.row.tolist() == list(range(12))
    assert ruled.marked == ()
    assert ruled.kept.propensity.tolist() == [1.0] * 12


def test_the_same_prediction_is_explored_alike_and_another_salt_draws_anew():
    def answer(salt, i):
        rule = explore(slot=1, rate=0.5, pool=11, salt=salt)
        return rule.apply(request(prediction_id=str(i)), POOL).kept.row.tolist()

    first = [answer("a", i) for i in range(50)]
    assert first == [answer("a", i) for i in range(50)]
    assert first != [answer("b", i) for i in range(50)]


def test_the_two_lots_of_an_id_are_independent_and_uniform():
    drawn = np.array([lots(str(i), b"k") for i in range(20_000)])
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03
    cells = np.histogramdd(drawn, bins=5, range=[(0, 1)] * 2)[0].ravel()
    # 99.99 % of the chi-square distribution with 24 degrees of freedom
    assert chi_square(cells, np.full(25, 1 / 25)) < 58.6


def test_without_enough_candidates_nothing_happens():
    for count in range(4):
        pool = candidates(range(count))
        ruled = explore(slot=3, rate=1).apply(request(), pool)
        assert ruled.kept is pool
        assert ruled.kept.propensity is None


def test_later_pages_whose_candidates_depend_on_the_lot_are_not_explored():
    ruled = explore(slot=0, rate=1).apply(request(cursor="page two"), POOL)
    assert ruled.kept is POOL


def test_the_last_candidate_alone_is_certain():
    ruled = explore(slot=3, rate=1).apply(request(), candidates(range(4)))
    assert ruled.kept.propensity.tolist() == [1.0] * 4


def test_only_what_was_left_by_the_rules_before_can_be_placed():
    rule, pool = explore(slot=0, rate=1), candidates([4, 7])
    assert {outcome(rule, request(prediction_id=str(i)), pool)[0][0] for i in range(99)} == {4, 7}
