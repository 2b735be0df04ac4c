import numpy as np
import pytest

from serving.errors import DataError
from training.config import LeaveLastOut, TimeSplit
from training.data.splits import assign_segments, item_ranks

DAY_US = 86_400_000_000
START_US = 1_767_225_600_000_000
NO_IDS: list[str] = []


def at(*days: float) -> np.ndarray:
    return np.array([START_US + round(day * DAY_US) for day in days], np.int64)


def test_a_time_split_cuts_whole_days_back_from_the_midnight_after_the_last_positive():
    times = np.concatenate([at(0, 3, 5, 9.5), at(3, 5) - 1])
    result = assign_segments(["u"] * 6, ["i"] * 6, times, TimeSplit(holdout_days=5, ranker_days=2))
    assert (result.t1_us, result.t2_us, result.t3_us) == tuple(at(3, 5, 10))
    assert result.segment.tolist() == [0, 1, 2, 2, 0, 1]
    assert result.segment.dtype == np.int8


def test_positives_after_a_given_end_are_not_used():
    times = at(0, 1, 2, 3)
    result = assign_segments(
        ["u"] * 4, ["i"] * 4, times, TimeSplit(holdout_days=1, ranker_days=1), end_us=int(at(3)[0])
    )
    assert result.segment.tolist() == [0, 1, 2, -1]


def test_a_positive_at_midnight_belongs_to_the_day_that_begins():
    result = assign_segments(["u"] * 3, ["i"] * 3, at(0, 1, 2), TimeSplit(holdout_days=1, ranker_days=1))
    assert result.t3_us == at(3)[0]


def test_leave_last_out_holds_out_each_users_last_and_ranks_on_the_ones_before():
    users = ["a", "b", "a", "a", "a", "b"]
    split = LeaveLastOut(method="leave_last_out", ranker_events=2)
    result = assign_segments(users, list("123456"), at(4, 1, 1, 2, 3, 0), split)
    assert result.segment.tolist() == [2, 2, 0, 1, 1, 1]
    assert (result.t1_us, result.t2_us) == (None, None)


def test_skip_drops_the_last_positives_first_so_that_the_test_item_is_not_seen():
    split = LeaveLastOut(method="leave_last_out", ranker_events=1, skip=1)
    result = assign_segments(["a"] * 5 + ["b"], list("123456"), at(0, 1, 2, 3, 4, 5), split)
    assert result.segment.tolist() == [0, 0, 1, 2, -1, -1]


def test_ties_at_the_last_timestamp_go_to_the_highest_number_where_ids_are_numbers():
    split = LeaveLastOut(method="leave_last_out", ranker_events=1)
    result = assign_segments(["a"] * 3, ["9", "10", "2"], at(1, 1, 1), split)
    assert result.segment.tolist() == [1, 2, 0]


def test_ties_go_to_the_highest_text_where_ids_are_text():
    split = LeaveLastOut(method="leave_last_out", ranker_events=1)
    result = assign_segments(["a"] * 3, ["i9", "i10", "i2"], at(1, 1, 1), split)
    assert result.segment.tolist() == [2, 0, 1]


def test_ids_may_be_codes_text_or_bytes():
    assert item_ranks(np.array([30, 4, 30])).tolist() == [1, 0, 1]
    assert item_ranks(np.array([b"30", b"4"])).tolist() == [1, 0]


def test_too_few_days_name_the_empty_window_and_the_span_of_the_data():
    with pytest.raises(DataError) as caught:
        assign_segments(["u"] * 2, ["i"] * 2, at(0, 9), TimeSplit(holdout_days=7, ranker_days=14))
    assert "no interaction falls into the retrieval window" in caught.value.problems
    assert "the 2 interactions run from 2026-01-01 to 2026-01-10" in caught.value.problems


def test_too_few_interactions_per_user_are_named():
    with pytest.raises(DataError, match="more than 6 interactions"):
        assign_segments(["a", "b"], ["1", "2"], at(0, 1), LeaveLastOut(method="leave_last_out"))


def test_no_positives_are_named():
    with pytest.raises(DataError, match="no interactions"):
        assign_segments(NO_IDS, NO_IDS, at(), TimeSplit())
