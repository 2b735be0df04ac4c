from types import SimpleNamespace

import numpy as np
import pytest

from serving.retrieval.merge import AsFound, ShareMerge
from serving.retrieval.sources import BundledSource, ItemToItemSource, PopularSource, sum_by_row
from serving.retrieval.user_tower import POOLED_HISTORY, pool_history


def request(history=(), fetch=10, segment=0):
    return SimpleNamespace(history=np.array(history, np.int32), fetch=fetch, segment=segment)


NEIGHBOURS = np.array([[1, 2], [2, -1], [3, 0], [-1, -1]], np.int32)
SIMILARITIES = np.array([[0.5, 0.25], [0.5, 0.0], [0.125, 0.25], [0.0, 0.0]], np.float32)


def test_item_to_item_sums_what_the_history_says():
    found = ItemToItemSource(NEIGHBOURS, SIMILARITIES).find(request((0, 1, 2)))
    assert dict(zip(found.row.tolist(), found.score.tolist(), strict=True)) == {
        2: 0.75, 1: 0.5, 0: 0.25, 3: 0.125,
    }  # fmt: skip
    assert found.row.tolist() == [2, 1, 0, 3]
    assert set(found.source.tolist()) == {2}


def test_item_to_item_has_nothing_for_nobody():
    assert len(ItemToItemSource(NEIGHBOURS, SIMILARITIES).find(request())) == 0


def test_item_to_item_finds_no_more_than_it_is_asked_for():
    assert ItemToItemSource(NEIGHBOURS, SIMILARITIES).find(request((0, 1, 2), fetch=1)).row.tolist() == [2]


def test_the_cause_of_a_candidate_is_its_most_similar_and_newest_film():
    source = ItemToItemSource(NEIGHBOURS, SIMILARITIES)
    assert source.nearest_cause(2, np.array([0, 1], np.int32)) == 1
    same = ItemToItemSource(NEIGHBOURS, np.full((4, 2), 0.5, np.float32))
    assert same.nearest_cause(2, np.array([1, 0], np.int32)) == 0
    assert source.nearest_cause(3, np.array([0, 1], np.int32)) == -1
    assert source.nearest_cause(3, np.empty(0, np.int32)) == -1


def test_sums_are_the_same_however_large_the_catalogue():
    rng = np.random.default_rng(7)
    rows, scores = rng.integers(0, 50, 500).astype(np.int32), rng.random(500).astype(np.float32)
    small, large = sum_by_row(rows, scores, 50), sum_by_row(rows, scores, 10**9)
    np.testing.assert_array_equal(small[0], large[0])
    np.testing.assert_array_equal(small[1], large[1])


def test_a_countrys_popular_list_is_filled_from_the_overall_one_and_stays_ordered():
    rows = np.array([[0, 1, 2, -1], [2, 3, -1, -1], [-1, -1, -1, -1]], np.int32)
    scores = np.array([[9, 8, 7, 0], [5, 4, 0, 0], [0, 0, 0, 0]], np.float32)
    source = PopularSource(rows, scores)
    country = source.find(request(segment=1))
    assert country.row.tolist() == [2, 3, 0, 1]
    assert country.score.tolist() == [5, 4, 4, 4]
    assert source.find(request(segment=0)).row.tolist() == [0, 1, 2]
    assert source.find(request(segment=2)).row.tolist() == [0, 1, 2]


def test_the_bundled_list_is_the_countrys_then_the_overall_one():
    source = BundledSource(np.array([[0, 1, -1], [2, -1, -1]], np.int32))
    assert source.find(request(segment=1)).row.tolist() == [2, 0, 1]


def pool(bit: int, *rows: int):
    from serving.core.candidates import found_by

    return found_by(bit, np.array(rows, np.int32), np.linspace(1, 0.5, len(rows), dtype=np.float32))


def test_each_first_part_of_the_merged_list_holds_every_sources_share():
    merged = ShareMerge({1: 0.75, 2: 0.25}).merge(request(), [pool(1, *range(100)), pool(2, *range(100, 200))])
    for n in (8, 20, 40):
        first = merged.source[:n]
        assert abs(np.count_nonzero(first == 1) - 0.75 * n) <= 1


def test_what_several_sources_found_is_there_once_with_all_bits_and_scores():
    merged = ShareMerge({1: 0.5, 2: 0.5}).merge(request(), [pool(1, 10, 11), pool(2, 12, 10)])
    # 10 and 12 are first of a list: place 2; 11 is second: place 4. Ties go to the lower row.
    assert merged.row.tolist() == [10, 12, 11]
    assert merged.source.tolist() == [3, 2, 1]
    assert merged.score.tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 4])
    np.testing.assert_array_equal(merged.source_scores, np.array([[1, 0.5], [np.nan, 1], [0.5, np.nan]], np.float32))


def test_a_source_that_runs_dry_leaves_its_part_to_the_others():
    merged = ShareMerge({1: 0.5, 2: 0.5}).merge(request(), [pool(1, 1), pool(2, 2, 3, 4, 5)])
    assert merged.row.tolist() == [1, 2, 3, 4, 5]


def test_merging_nothing_gives_nothing():
    merge = ShareMerge({1: 1.0})
    assert len(merge.merge(request(), [])) == 0
    assert len(merge.merge(request(), [pool(1)])) == 0
    assert AsFound().merge(request(), [pool(1, 4)]).row.tolist() == [4]


def test_shares_must_be_positive():
    with pytest.raises(ValueError, match="positive share"):
        ShareMerge({1: 0.0})


def test_the_pooled_history_is_the_mean_of_the_newest():
    embeddings = np.eye(4, dtype=np.float32)
    assert pool_history(embeddings, np.array([0, 1], np.int32)).tolist() == [0.5, 0.5, 0, 0]
    assert pool_history(embeddings, np.empty(0, np.int32)).tolist() == [0, 0, 0, 0]
    long = np.array([3] * 10 + [2] * POOLED_HISTORY, np.int32)
    assert pool_history(embeddings, long).tolist() == [0, 0, 1, 0]
