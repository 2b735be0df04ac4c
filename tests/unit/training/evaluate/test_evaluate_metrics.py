import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluate.metrics import (
    RelevantSets,
    coverage,
    defined,
    hit_rate,
    list_grades,
    ndcg,
    novelty,
    recall,
)

# Worked by hand. Ann liked item 2 (grade 3) and item 7 (grade 1); she was shown 5, 2, 9.
# Bob liked item 4 (grade 2); he was shown 4 and nothing else. Cy liked nothing.
LISTS = np.array([[5, 2, 9], [4, -1, -1], [1, 2, 3]], np.int32)
LIKED = RelevantSets(np.array([0, 2, 3, 3]), np.array([2, 7, 4], np.int32), np.array([3, 1, 2], np.int8))


def test_graded_ndcg_of_the_case_worked_by_hand() -> None:
    # Ann: (2^3 - 1) / log2(3) = 4.4165 out of 7 / log2(2) + 1 / log2(3) = 7.6309
    ann, bob, cy = ndcg(LISTS, LIKED, k=3)
    assert ann == pytest.approx(4.416508 / 7.630930, abs=1e-6)
    assert bob == 1.0
    assert math.isnan(cy)


def test_binary_ndcg_of_the_case_worked_by_hand() -> None:
    # Ann: 1 / log2(3) = 0.6309 out of 1 + 1 / log2(3) = 1.6309
    assert ndcg(LISTS, LIKED, k=3, graded=False)[0] == pytest.approx(0.630930 / 1.630930, abs=1e-6)


def test_the_ideal_list_is_cut_at_k_too() -> None:
    lists = np.array([[2, 5, 9]], np.int32)
    liked = RelevantSets(np.array([0, 3]), np.array([2, 7, 8], np.int32), np.array([3, 1, 3], np.int8))
    assert ndcg(lists, liked, k=1)[0] == 1.0
    assert ndcg(lists, liked, k=2)[0] == pytest.approx(7 / (7 + 7 / math.log2(3)))


def test_a_list_shorter_than_k_is_judged_against_the_ideal_of_k() -> None:
    liked = RelevantSets(np.array([0, 2]), np.array([2, 7], np.int32), np.array([1, 1], np.int8))
    short = ndcg(np.array([[2]], np.int32), liked, k=20)[0]
    assert short == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_recall_and_hit_rate_of_the_case_worked_by_hand() -> None:
    np.testing.assert_array_equal(recall(LISTS, LIKED, k=3), [0.5, 1.0, np.nan])
    np.testing.assert_array_equal(recall(LISTS, LIKED, k=1), [0.0, 1.0, np.nan])
    np.testing.assert_array_equal(hit_rate(LISTS, LIKED, k=3), [1.0, 1.0, np.nan])
    np.testing.assert_array_equal(hit_rate(LISTS, LIKED, k=1), [0.0, 1.0, np.nan])


def test_coverage_counts_the_items_that_anyone_sees() -> None:
    assert coverage(LISTS, items=10, k=3) == 0.6  # 1, 2, 3, 4, 5, 9
    assert coverage(LISTS, items=10, k=1) == pytest.approx(0.3)
    assert coverage(np.empty((0, 5), np.int32), items=10, k=5) == 0.0
    with pytest.raises(ValueError, match="empty catalogue"):
        coverage(LISTS, items=0, k=3)


def test_novelty_is_minus_log2_of_an_items_share() -> None:
    # With one added to each, the counts are 8, 4, 2, 2 out of 16: 1, 2, 3 and 3 bits.
    lists = np.array([[0, 3], [1, -1], [-1, -1]], np.int32)
    np.testing.assert_allclose(novelty(lists, np.array([7, 3, 1, 1]), k=2), [2.0, 2.0, np.nan])


def test_padding_is_never_relevant() -> None:
    liked = RelevantSets(np.array([0, 1, 2]), np.array([3, 0], np.int32), np.array([1, 1], np.int8))
    np.testing.assert_array_equal(list_grades(np.array([[-1, -1], [-1, -1]], np.int32), liked), np.zeros((2, 2)))


def test_grouping_entries_by_user_keeps_everyones_own() -> None:
    users = np.array([2, 0, 2, 0])
    sets = RelevantSets.of(users, np.array([9, 1, 8, 2], np.int32), np.array([1.0, 2.0, 3.0, 1.0]), n_users=4)
    np.testing.assert_array_equal(sets.indptr, [0, 2, 2, 4, 4])
    np.testing.assert_array_equal(sets.rows, [1, 2, 9, 8])
    np.testing.assert_array_equal(sets.grades, [2.0, 1.0, 1.0, 3.0])


def test_a_list_with_an_item_twice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="list of user 1 holds an item twice"):
        ndcg(
            np.array([[1, 2], [3, 3]], np.int32),
            RelevantSets(np.zeros(3, np.int64), np.empty(0, np.int32), np.empty(0)),
            2,
        )


@pytest.mark.parametrize(
    ("indptr", "rows", "grades"),
    [
        ([0, 2], [1], [1]),
        ([1, 1], [1], [1]),
        ([0, 2], [1, 1], [1, 1]),
        ([0, 1], [1], [0]),
        ([0, 2, 1, 2], [1, 2], [1, 1]),
    ],
)
def test_relevant_sets_that_contradict_themselves_are_refused(
    indptr: list[int], rows: list[int], grades: list[int]
) -> None:
    with pytest.raises(ValueError, match=r"indptr|grades|rows"):
        RelevantSets(np.array(indptr), np.array(rows, np.int32), np.array(grades))


def test_lists_of_other_users_are_refused() -> None:
    with pytest.raises(ValueError, match="2 lists for 3 users"):
        ndcg(LISTS[:2], LIKED, 3)


def test_defined_keeps_users_with_every_value() -> None:
    np.testing.assert_array_equal(
        defined(np.array([1.0, np.nan, 3.0]), np.array([1.0, 1.0, np.inf])), [True, False, False]
    )


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_every_metric_equals_its_definition_spelled_out(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    items, users, width = 15, 4, 8
    lists = np.stack([rng.permutation(items)[:width] for _ in range(users)]).astype(np.int32)
    lists[rng.random(users) < 0.5, width // 2 :] = -1
    liked = [dict(zip(rng.permutation(items)[:n].tolist(), rng.integers(1, 4, n).tolist(), strict=True))
             for n in rng.integers(0, items, users)]  # fmt: skip
    entries = [(user, row, grade) for user, grades in enumerate(liked) for row, grade in grades.items()]
    owner, rows, grades = np.array(entries, np.int32).reshape(-1, 3).T
    sets = RelevantSets.of(owner, rows, grades, users)
    for user, want in enumerate(liked):
        top = [row for row in lists[user, :k].tolist() if row >= 0]
        dcg = sum((2 ** want.get(row, 0) - 1) / math.log2(i + 2) for i, row in enumerate(top))
        ideal = sum((2**g - 1) / math.log2(i + 2) for i, g in enumerate(sorted(want.values(), reverse=True)[:k]))
        hits = len(set(top) & set(want))
        got = [m(lists, sets, k)[user] for m in (ndcg, recall, hit_rate)]
        expected = [dcg / ideal, hits / len(want), float(hits > 0)] if want else [np.nan] * 3
        np.testing.assert_allclose(got, expected, rtol=1e-12)
