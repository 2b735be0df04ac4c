import numpy as np
import pytest

from serving.core.candidates import Candidates, contains, found, no_candidates, source_names


def candidates(*scores: float) -> Candidates:
    row = np.arange(len(scores), dtype=np.int32) * 10
    return Candidates(
        row=row,
        score=np.array(scores, np.float32),
        source=np.ones(len(scores), np.uint32),
        features=np.arange(len(scores) * 2, dtype=np.float32).reshape(-1, 2),
    )


def test_taking_by_mask_positions_or_slice_keeps_the_columns_together():
    all_ = candidates(0.1, 0.2, 0.3)
    for selection in (np.array([False, True, True]), np.array([1, 2]), slice(1, None)):
        taken = all_.take(selection)
        assert taken.row.tolist() == [10, 20]
        assert taken.score.tolist() == pytest.approx([0.2, 0.3])
        assert taken.features is not None
        assert taken.features.tolist() == [[2, 3], [4, 5]]


def test_best_first_keeps_the_order_of_ties():
    assert candidates(0.5, 0.9, 0.5, 0.9).best_first().row.tolist() == [10, 30, 0, 20]


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="'row': 2, 'score': 1"):
        Candidates(np.arange(2, dtype=np.int32), np.zeros(1, np.float32), np.zeros(2, np.uint32))


def test_zero_candidates_behave_like_some():
    assert len(no_candidates().best_first().take(slice(5))) == 0


def test_a_bit_mask_names_its_sources():
    assert source_names(0b101, ("a", "b", "c")) == ["a", "c"]
    assert found(np.zeros(1, np.int32), np.zeros(1, np.float32)).from_source(2).source.tolist() == [4]


def test_rows_are_looked_up_in_sorted_rows():
    rows = np.array([2, 5, 9], np.int32)
    assert contains(rows, np.array([9, 0, 5, 10, 2], np.int32)).tolist() == [True, False, True, False, True]
    assert contains(np.empty(0, np.int32), np.array([1, 2], np.int32)).tolist() == [False, False]
