"""The number of candidates that are scored follows what scoring costs and what time is left."""

import pytest

from serving.core.deadline import NO_DEADLINE, Deadline
from serving.core.pressure import Pressure


def taught(each_ms: float = 0.1, fixed_ms: float = 1.0, **settings) -> Pressure:
    pressure = Pressure(**settings)
    for count in (100, 200, 300, 400) * 20:
        pressure.observe(count, fixed_ms + each_ms * count)
    return pressure


def test_without_a_deadline_every_candidate_is_scored():
    assert taught().admit(500, NO_DEADLINE) == 500


def test_an_untaught_scorer_may_try_all():
    assert Pressure(50.0).admit(500, Deadline.after_ms(20)) == 500


def test_as_many_are_scored_as_fit_into_nine_tenths_of_what_is_left():
    admitted = taught().admit(500, Deadline.after_ms(41))
    assert admitted == pytest.approx((41 * 0.9 - 1) / 0.1, abs=3)


def test_the_stages_own_budget_bounds_it_as_well():
    assert taught(budget_ms=11.0).admit(500, Deadline.after_ms(10_000)) <= 89


def test_no_time_for_the_fixed_cost_admits_none():
    assert taught(fixed_ms=30.0).admit(500, Deadline.after_ms(20)) == 0


def test_a_prediction_that_keeps_the_scorer_out_fades():
    pressure = taught(fixed_ms=300.0, each_ms=0.0)
    deadline = Deadline.after_ms(60_000)
    rounds = 0
    while not pressure.admit(500, Deadline(deadline.at_s - 59.98, 20)):
        rounds += 1
        assert rounds < 100
    assert rounds > 3


def test_late_requests_lower_the_quality_and_timely_ones_bring_it_back():
    pressure = Pressure(floor=0.2)
    late = Deadline.after_ms(1000, spent_ms=900)
    for _ in range(15):
        pressure.admit(500, late)
    assert pressure.quality == pytest.approx(0.9**15)
    for _ in range(15):
        pressure.admit(500, late)
    assert pressure.quality == 0.2
    assert pressure.admit(500, late) == 100
    admitted = [pressure.admit(500, Deadline.after_ms(1000)) for _ in range(80)]
    assert admitted == sorted(admitted)
    assert admitted[-1] == 500


def test_scoring_beyond_the_budget_lowers_the_quality():
    pressure = Pressure(budget_ms=10.0)
    pressure.observe(500, 25.0)
    assert pressure.quality == pytest.approx(0.9)


def test_at_least_one_candidate_is_wanted_of_few():
    pressure = Pressure()
    pressure.quality = 0.1
    assert pressure.admit(1, NO_DEADLINE) == 1
