from types import SimpleNamespace

import numpy as np
import pytest

from serving.core.candidates import found
from serving.retrieval.index import ExactIndex
from serving.retrieval.merge import AsFound, ShareMerge
from serving.retrieval.selection import best, last_places
from serving.retrieval.sources import BundledSource, ItemToItemSource, PopularSource, TwoTowerSource, sum_by_row
from serving.retrieval.user_tower import POOLED_HISTORY, pool_history


def request(history=(), fetch=10, segment=0, seeds=(), embedding=None, consider=1000, explain=True):
    return SimpleNamespace(
        consider=consider,
        history=np.array(history, np.int32),
        fetch=fetch,
        segment=segment,
        query=SimpleNamespace(seed_items=tuple(seeds), explain=explain),
        is_known=embedding is not None,
        embedding=embedding,
    )


NEIGHBOURS = np.array([[1, 2], [2, -1], [3, 0], [-1, -1]], np.int32)
SIMILARITIES = np.array([[0.5, 0.25], [0.5, 0.0], [0.125, 0.25], [0.0, 0.0]], np.float32)


def item_to_item(scores=SIMILARITIES):
    return ItemToItemSource(SimpleNamespace(neighbour_rows=NEIGHBOURS, neighbour_scores=scores))


def test_item_to_item_sums_what_the_history_says():
    candidates = item_to_item().find(request((0, 1, 2)))
    assert candidates.row.tolist() == [2, 1, 0, 3]
    assert candidates.score.tolist() == [0.75, 0.5, 0.25, 0.125]


def test_a_history_item_newer_than_the_bundle_has_no_neighbours():
    assert item_to_item().find(request((0, 7))).row.tolist() == [1, 2]
    assert len(item_to_item().find(request((7,)))) == 0
    assert item_to_item().nearest_cause(1, np.array([7, 0], np.int32)) == 0


def test_item_to_item_has_nothing_for_nobody():
    assert len(item_to_item().find(request())) == 0


def test_item_to_item_finds_no_more_than_it_is_asked_for():
    assert item_to_item().find(request((0, 1, 2), fetch=1)).row.tolist() == [2]


def test_the_cause_of_a_candidate_is_its_most_similar_and_newest_film():
    source = item_to_item()
    assert source.nearest_cause(2, np.array([0, 1], np.int32)) == 1
    same = item_to_item(np.full((4, 2), 0.5, np.float32))
    assert same.nearest_cause(2, np.array([1, 0], np.int32)) == 0
    assert source.nearest_cause(3, np.array([0, 1], np.int32)) == -1
    assert source.nearest_cause(3, np.empty(0, np.int32)) == -1


def test_sums_by_row_are_those_of_a_dense_array():
    rng = np.random.default_rng(7)
    rows, scores = rng.integers(0, 50, 500).astype(np.int32), rng.random(500).astype(np.float32)
    distinct, sums = sum_by_row(rows, scores)
    assert sorted(distinct.tolist()) == np.unique(rows).tolist()
    np.testing.assert_array_equal(sums, np.bincount(rows, weights=scores, minlength=50)[distinct].astype(np.float32))


def test_the_last_place_of_each_row_is_found_however_far_rows_lie_apart():
    assert last_places(np.array([5, 9, 5, 10**7, 9], np.int32)).tolist() == [2, 4, 2, 3, 4]
    assert last_places(np.empty(0, np.int32)).tolist() == []


@pytest.mark.parametrize("n", [0, 1, 3, 7, 200, 1000])
def test_the_best_rows_are_those_of_a_full_sort(n):
    rng = np.random.default_rng(n)
    rows = rng.permutation(300).astype(np.int32)
    scores = rng.choice(np.array([-2.5, 0.0, 0.125, 3], np.float32), 300)
    picked, kept = best(rows, scores, n)
    order = np.argsort(-scores, kind="stable")[:n]
    assert picked.tolist() == rows[order].tolist()
    assert kept.tolist() == scores[order].tolist()


AXES = np.eye(4, dtype=np.float32)


def two_tower(newer=()):
    ids = ["a", "b", "c", "d"]

    def table():
        return SimpleNamespace(rows_of=lambda asked: np.array([ids.index(i) if i in ids else -1 for i in asked]))

    table.tail_search = lambda query, n: (np.array([4], np.int32)[: len(newer)], np.array(newer, np.float32) @ query)
    if not len(newer):
        table.tail_search = lambda query, n: (np.empty(0, np.int32), np.empty(0, np.float32))
    return TwoTowerSource(SimpleNamespace(table=table, index=ExactIndex(AXES), item_vectors=lambda rows: AXES[rows]))


def test_the_two_towers_search_near_the_user_and_near_seeds_where_there_are_some():
    user = np.array([0, 0, 1, 0], np.float32)
    assert two_tower().find(request(embedding=user, fetch=1)).row.tolist() == [2]
    like = two_tower().find(request(embedding=user, seeds=("a", "b", "nobody"), fetch=2))
    assert like.row.tolist() == [0, 1]
    np.testing.assert_allclose(like.score, np.sqrt(0.5), rtol=1e-6)
    assert two_tower().find(request(embedding=user, seeds=("nobody",), fetch=1)).row.tolist() == [2]
    assert len(two_tower().find(request())) == 0


def test_items_newer_than_the_bundle_are_found_among_the_others():
    user = np.array([0.6, 0, 0.8, 0], np.float32)
    newer = np.array([[0.8, 0, 0.6, 0]], np.float32)
    candidates = two_tower(newer).find(request(embedding=user, fetch=3))
    assert candidates.row.tolist() == [4, 2, 0]
    np.testing.assert_allclose(candidates.score, [0.96, 0.8, 0.6], rtol=1e-6)


def test_a_countrys_popular_list_is_filled_from_the_overall_one_and_stays_ordered():
    rows = np.array([[0, 1, 2, -1], [2, 3, -1, -1], [-1, -1, -1, -1]], np.int32)
    scores = np.array([[9, 8, 7, 0], [5, 4, 0, 0], [0, 0, 0, 0]], np.float32)
    source = PopularSource(SimpleNamespace(popular_rows=rows, popular_scores=scores))
    country = source.find(request(segment=1))
    assert country.row.tolist() == [2, 3, 0, 1]
    assert country.score.tolist() == [5, 4, 4, 4]
    assert source.find(request(segment=0)).row.tolist() == [0, 1, 2]
    assert source.find(request(segment=2)).row.tolist() == [0, 1, 2]


def test_the_bundled_list_is_the_countrys_then_the_overall_one():
    source = BundledSource(SimpleNamespace(list_rows=np.array([[0, 1, -1], [2, -1, -1]], np.int32)))
    assert source.find(request(segment=1)).row.tolist() == [2, 0, 1]


def pool(source: int, *rows: int):
    scores = np.linspace(1, 0.5, len(rows), dtype=np.float32)
    return found(np.array(rows, np.int32), scores).from_source(source)


def test_each_first_part_of_the_merged_list_holds_every_sources_share():
    merged = ShareMerge((0.75, 0.25)).merge(request(), [pool(0, *range(100)), pool(1, *range(100, 200))])
    for n in (8, 20, 40):
        first = merged.source[:n]
        assert abs(np.count_nonzero(first == 1) - 0.75 * n) <= 1


def test_what_several_sources_found_is_there_once_with_all_bits_and_scores():
    merged = ShareMerge((0.5, 0.5)).merge(request(), [pool(0, 10, 11), pool(1, 12, 10)])
    # 10 and 12 are first of a list: place 2; 11 is second: place 4. Ties go to the earlier source.
    assert merged.row.tolist() == [10, 12, 11]
    assert merged.source.tolist() == [3, 2, 1]
    assert merged.score.tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 4])
    np.testing.assert_array_equal(merged.source_scores, np.array([[1, 0.5], [np.nan, 1], [0.5, np.nan]], np.float32))


def test_of_long_lists_those_are_merged_that_come_first():
    pools = [pool(0, *range(100)), pool(1, *range(50, 150))]
    whole = ShareMerge((0.75, 0.25)).merge(request(), pools)
    first = ShareMerge((0.75, 0.25)).merge(request(consider=40), pools)
    assert 20 < len(first) <= 40
    assert first.row.tolist() == whole.row[: len(first)].tolist()


def test_the_sources_own_scores_come_along_for_an_explanation_only():
    assert ShareMerge((1,)).merge(request(explain=False), [pool(0, 1, 2)]).source_scores is None


def test_a_source_that_runs_dry_leaves_its_part_to_the_others():
    merged = ShareMerge((0.5, 0.5)).merge(request(), [pool(0, 1), pool(1, 2, 3, 4, 5)])
    assert merged.row.tolist() == [1, 2, 3, 4, 5]


def test_a_source_that_failed_leaves_its_bit_and_its_column_empty():
    merged = ShareMerge((0.5, 0.3, 0.2)).merge(request(), [pool(0, 1, 2), pool(2, 2)])
    assert merged.row.tolist() == [1, 2]
    assert merged.source.tolist() == [1, 5]
    np.testing.assert_array_equal(merged.source_scores, np.array([[1, np.nan, np.nan], [0.5, np.nan, 1]], np.float32))


def test_a_merge_is_the_one_that_a_search_through_all_places_finds():
    rng = np.random.default_rng(3)
    shares = (0.5, 0.25, 0.15, 0.1)
    lists = [rng.choice(60, size, replace=False) for size in (30, 1, 17, 40)]
    place = {}
    for source, rows in enumerate(lists):
        for rank, row in enumerate(rows.tolist()):
            mine = ((rank + 1) / shares[source], -shares[source], source)
            place[row] = min(place.get(row, mine), mine)
    merged = ShareMerge(shares).merge(request(), [pool(i, *rows.tolist()) for i, rows in enumerate(lists)])
    assert merged.row.tolist() == sorted(place, key=place.__getitem__)
    assert merged.score.tolist() == pytest.approx([1 / place[row][0] for row in merged.row.tolist()])


def test_merging_nothing_gives_nothing():
    merge = ShareMerge((1.0,))
    assert len(merge.merge(request(), [])) == 0
    assert len(merge.merge(request(), [pool(0)])) == 0
    assert AsFound().merge(request(), [pool(0, 4)]).row.tolist() == [4]


def test_shares_must_be_positive():
    with pytest.raises(ValueError, match="positive share"):
        ShareMerge((0.0,))


def test_the_pooled_history_is_the_mean_of_the_newest():
    embeddings = np.eye(4, dtype=np.float32)
    assert pool_history(embeddings, np.array([0, 1], np.int32)).tolist() == [0.5, 0.5, 0, 0]
    assert pool_history(embeddings, np.empty(0, np.int32)).tolist() == [0, 0, 0, 0]
    long = np.array([3] * 10 + [2] * POOLED_HISTORY, np.int32)
    assert pool_history(embeddings, long).tolist() == [0, 0, 1, 0]
