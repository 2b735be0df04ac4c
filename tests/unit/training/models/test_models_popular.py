"""Popular: counts of distinct users in a window, overall and by country."""

import numpy as np

from training.config import PopularSettings
from training.models.interactions import DAY_US, sort_interactions
from training.models.popular import fit_popular

NOW = 100 * DAY_US


def fit(rows, country=(0, 0, 1, -1), window_days=7):
    """`rows` are (user, item, days before now)."""
    user, item, age = (np.array(column) for column in zip(*rows, strict=True))
    time_us = (NOW - age * DAY_US).astype(np.int64)
    data = sort_interactions(user, item, time_us, np.ones(len(user), int), len(country), 6)
    return fit_popular(data, np.array(country), 2, NOW, PopularSettings(window_days=window_days, length=100))


def test_items_are_ranked_by_distinct_users_and_ties_go_to_the_lower_row():
    rows, scores = fit([(0, 4, 1), (1, 4, 1), (0, 3, 1), (0, 3, 2), (0, 3, 3), (2, 1, 1)])
    assert rows[0, :4].tolist() == [4, 1, 3, -1]
    assert scores[0, :4].tolist() == [2, 1, 1, 0]


def test_each_country_has_its_own_ranking_and_others_count_only_overall():
    rows, _ = fit([(0, 4, 1), (2, 1, 1), (3, 5, 1)])
    assert rows[:, :3].tolist() == [[1, 4, 5], [4, -1, -1], [1, -1, -1]]


def test_the_window_ends_just_before_now_and_starts_exactly_seven_days_back():
    rows, _ = fit([(0, 0, 0), (0, 1, 7), (0, 2, 7.00001), (0, 3, -1)])
    assert rows[0, :2].tolist() == [1, -1]


def test_without_a_window_all_history_counts():
    rows, _ = fit([(0, 2, 90), (1, 1, 0.5)], window_days=None)
    assert rows[0, :3].tolist() == [1, 2, -1]


def test_rows_are_padded_to_the_length_with_score_zero():
    rows, scores = fit([(0, 2, 1)])
    assert rows.shape == scores.shape == (3, 100)
    assert (rows.dtype, scores.dtype) == (np.int32, np.float32)
    assert (rows[0, 1:] == -1).all()
    assert not scores[0, 1:].any()
