import math

import numpy as np
import pytest

from training.evaluate.bootstrap import mean_interval, paired_difference, resampled_means
from training.evaluate.slices import activity_terciles, sliced, user_slices


def test_a_resample_is_the_mean_of_users_drawn_with_replacement() -> None:
    values = np.array([[0.0], [1.0]])
    means = resampled_means(values, samples=20_000, seed=1)[:, 0]
    assert set(np.unique(means)) == {0.0, 0.5, 1.0}
    assert means.mean() == pytest.approx(0.5, abs=0.01)
    assert (means == 0.5).mean() == pytest.approx(0.5, abs=0.02)


def test_resampling_in_pieces_keeps_the_number_of_samples_and_the_spread() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30_000, 1))
    means = resampled_means(values, samples=300, seed=2)[:, 0]
    assert len(means) == 300
    assert means.std() == pytest.approx(1 / math.sqrt(30_000), rel=0.2)


def test_the_interval_of_a_mean_agrees_with_the_normal_one_on_many_users() -> None:
    values = np.random.default_rng(3).normal(5, 2, 4000)
    interval = mean_interval(values, samples=2000, seed=0)
    half = 1.96 * values.std() / math.sqrt(4000)
    assert interval.mean == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_pairing_sees_a_small_difference_that_users_differences_would_hide() -> None:
    rng = np.random.default_rng(4)
    reference = rng.uniform(0, 1, 500)
    candidate = reference + rng.normal(0.01, 0.02, 500)
    paired = paired_difference(candidate, reference, samples=2000, seed=0)
    assert paired.lower_bound > 0
    shuffled = paired_difference(rng.permutation(candidate), reference, samples=2000, seed=0)
    assert shuffled.mean == pytest.approx(paired.mean)
    assert shuffled.lower_bound < 0


def test_the_one_sided_bound_lies_between_the_interval_and_the_mean() -> None:
    rng = np.random.default_rng(5)
    reference = rng.uniform(0, 1, 300)
    difference = paired_difference(reference * 1.1, reference, samples=2000, seed=0)
    assert difference.low < difference.lower_bound < difference.mean < difference.high
    assert difference.relative == pytest.approx(0.1)
    assert difference.relative_lower_bound == pytest.approx(difference.lower_bound / reference.mean())


def test_the_bound_is_wrong_about_as_often_as_it_says() -> None:
    """Of no difference at all, a one-sided 95 % bound should claim one in about 5 % of worlds."""
    rng = np.random.default_rng(6)
    claims = [
        paired_difference(rng.normal(size=100), rng.normal(size=100), samples=400, seed=i).lower_bound > 0
        for i in range(400)
    ]
    assert 0.02 < np.mean(claims) < 0.09


def test_equal_arguments_give_equal_results_and_another_seed_does_not() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.random(50), rng.random(50)
    assert paired_difference(a, b, 200, seed=1) == paired_difference(a, b, 200, seed=1)
    assert paired_difference(a, b, 200, seed=1) != paired_difference(a, b, 200, seed=2)


def test_users_without_a_value_for_either_are_left_out_of_both() -> None:
    difference = paired_difference(np.array([1.0, np.nan, 3.0, 9.0]), np.array([0.0, 5.0, 1.0, np.nan]), 100, 0)
    assert (difference.users, difference.candidate, difference.reference) == (2, 2.0, 0.5)


def test_fewer_than_two_users_give_nan_and_not_certainty() -> None:
    difference = paired_difference(np.array([1.0]), np.array([0.0]), 100, 0)
    assert math.isnan(difference.mean)
    assert math.isnan(difference.lower_bound)
    assert math.isnan(mean_interval(np.array([np.nan]), 100, 0).mean)


def test_different_users_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="3 users against 2"):
        paired_difference(np.zeros(3), np.zeros(2), 100, 0)


def test_a_reference_of_zero_has_no_relative_difference() -> None:
    assert math.isnan(paired_difference(np.ones(5), np.zeros(5), 100, 0).relative)


def test_terciles_are_equal_thirds_and_users_equally_active_stay_together() -> None:
    thirds = activity_terciles(np.arange(9))
    assert [mask.sum() for mask in thirds.values()] == [3, 3, 3]
    tied = activity_terciles(np.array([1, 1, 1, 1, 1, 7]))
    assert [mask.sum() for mask in tied.values()] == [5, 0, 1]
    assert np.sum(list(tied.values()), axis=0).tolist() == [1] * 6
    assert [len(mask) for mask in activity_terciles(np.empty(0, int)).values()] == [0, 0, 0]


def test_slices_are_measured_apart_and_empty_ones_are_left_out() -> None:
    slices = user_slices(np.array([1, 4, 50, 60]), np.array([0, 1, 0, -1]), ("US", "GB", "DE"))
    metric = np.array([0.0, 1.0, 0.5, 0.7])
    found = {result.name: result.interval for result in sliced(metric, slices, samples=100, seed=0)}
    assert found["new users (under 5 interactions)"].mean == 0.5
    assert found["country US"].mean == 0.25
    assert found["country other"].mean == pytest.approx(0.7)
    assert "country DE" not in found
