"""Interactions: sorted, checked, cut by time."""

import numpy as np
import pytest

from serving.errors import DataError
from training.models.interactions import sort_interactions


def make(user, item, time_us, grade=None, n_users=3, n_items=4):
    grade = [1] * len(user) if grade is None else grade
    return sort_interactions(*(np.array(c, dtype=np.int64) for c in (user, item, time_us, grade)), n_users, n_items)


def test_rows_come_sorted_by_user_then_time_then_item():
    found = make([1, 0, 0, 0], [0, 3, 2, 1], [5, 9, 7, 9])
    assert found.user.tolist() == [0, 0, 0, 1]
    assert found.item.tolist() == [2, 1, 3, 0]


def test_a_window_holds_its_first_microsecond_and_not_its_last():
    found = make([0, 0, 0], [0, 1, 2], [10, 11, 12]).between(10, 12)
    assert found.item.tolist() == [0, 1]


def test_taking_an_item_twice_is_one_in_the_binary_matrix():
    matrix = make([0, 0, 2], [1, 1, 3], [1, 2, 3]).matrix()
    assert matrix.toarray().tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_every_problem_is_reported_at_once():
    with pytest.raises(DataError) as caught:
        make([0, 3], [0, -1], [1, 2], grade=[0, 1])
    text = str(caught.value)
    assert "user holds 0 to 3" in text
    assert "item holds -1 to 0" in text
    assert "grade holds 0 to 1" in text


def test_no_interactions_at_all_are_fine():
    assert make([], [], []).matrix().nnz == 0
