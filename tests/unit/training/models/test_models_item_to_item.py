"""Item-to-item: cosine and EASE on worlds worked out by hand, and EASE's published figures on MovieLens."""

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from serving.errors import ConfigError
from training.config import ItemToItemSettings
from training.models import item_to_item
from training.models.interactions import DAY_US, sort_interactions
from training.models.item_to_item import (
    cosine_neighbours,
    ease_neighbours,
    ease_weights,
    fit_item_to_item,
)

MOVIELENS = Path(__file__).parents[4] / "../shared/data/ml-latest-small"


def taken(*histories, n_items=4):
    matrix = np.zeros((len(histories), n_items), np.float32)
    for user, history in enumerate(histories):
        matrix[user, list(history)] = 1
    return sparse.csr_matrix(matrix)


def test_cosine_is_users_in_common_over_the_root_of_both_counts_plus_shrinkage():
    rows, scores = cosine_neighbours(taken({0, 1}, {0, 1}, {0, 2}, {3}), neighbours=3, shrinkage=2.0)
    assert rows[0].tolist() == [1, 2, -1]
    assert scores[0] == pytest.approx([2 / (np.sqrt(3 * 2) + 2), 1 / (np.sqrt(3 * 1) + 2), 0])
    assert rows[3].tolist() == [-1, -1, -1]


def test_an_item_is_never_its_own_neighbour_and_ties_go_to_the_lower_row():
    rows, _ = cosine_neighbours(taken({0, 1, 2, 3}), neighbours=2, shrinkage=0.0)
    assert rows.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]


def test_blocks_give_what_one_piece_gives(monkeypatch):
    matrix = sparse.random(60, 40, density=0.2, random_state=3, format="csr", dtype=np.float32)
    matrix.data[:] = 1
    whole = cosine_neighbours(matrix, 5, 1.0)
    monkeypatch.setattr(item_to_item, "BLOCK_PAIRS", 50)
    blocks = cosine_neighbours(matrix, 5, 1.0)
    np.testing.assert_array_equal(whole[0], blocks[0])
    np.testing.assert_array_equal(whole[1], blocks[1])


def test_cosine_equals_the_dense_formula_on_a_random_world():
    matrix = sparse.random(80, 30, density=0.2, random_state=5, format="csr", dtype=np.float64)
    matrix.data[:] = 1
    dense = matrix.toarray()
    count = dense.sum(0)
    wanted = (dense.T @ dense) / (np.sqrt(np.outer(count, count)) + 4.0)
    np.fill_diagonal(wanted, 0)
    rows, scores = cosine_neighbours(matrix.astype(np.float32), 30, 4.0)
    found = np.zeros_like(wanted)
    for item in range(30):
        found[item, rows[item][rows[item] >= 0]] = scores[item][rows[item] >= 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_ease_is_the_constrained_ridge_solution():
    """Column j solves min |X_j - X b|^2 + lambda |b|^2 with b_j = 0, by plain least squares here."""
    matrix = sparse.random(50, 12, density=0.3, random_state=1, format="csr")
    matrix.data[:] = 1
    dense, ridge = matrix.toarray(), 7.0
    found = ease_weights(matrix.astype(np.float32), ridge)
    for j in range(12):
        others = [i for i in range(12) if i != j]
        part = dense[:, others]
        wanted = np.linalg.solve(part.T @ part + ridge * np.eye(11), part.T @ dense[:, j])
        np.testing.assert_allclose(found[others, j], wanted, atol=1e-6)
        assert found[j, j] == 0


def test_ease_inverts_more_items_than_one_block_holds():
    matrix = sparse.random(300, 700, density=0.02, random_state=2, format="csr")
    matrix.data[:] = 1
    dense = matrix.toarray()
    inverse = np.linalg.inv(dense.T @ dense + 3.0 * np.eye(700))
    wanted = -inverse / np.diag(inverse)
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(ease_weights(matrix.astype(np.float32), 3.0), wanted, atol=1e-6)


def test_ease_keeps_the_weights_of_largest_magnitude_best_first():
    matrix = taken({0, 1}, {0, 1}, {0, 1}, {0, 2}, {1, 3}, {3})
    weights = ease_weights(matrix, 0.5)
    rows, scores = ease_neighbours(matrix, 2, 0.5)
    for item in range(4):
        largest = set(np.argsort(-np.abs(weights[item]))[:2])
        assert set(rows[item]) == largest
        assert scores[item].tolist() == sorted(scores[item].tolist(), reverse=True)


def test_items_that_nobody_took_have_no_ease_neighbours():
    rows, scores = ease_neighbours(taken({0, 1}, {0, 1}), 3, 1.0)
    assert (rows[2:] == -1).all()
    assert not scores[2:].any()


def test_the_window_leaves_old_interactions_out():
    data = sort_interactions(
        np.array([0, 0, 1, 1]), np.array([0, 1, 0, 2]), np.array([0, 0, 9, 9]) * DAY_US, np.ones(4, int), 2, 3
    )
    rows, _ = fit_item_to_item(data, ItemToItemSettings(window_days=3, neighbours=2))
    assert rows.tolist() == [[2, -1], [-1, -1], [0, -1]]


def test_no_interactions_give_padding_only():
    empty = np.zeros(0, int)
    for method in ("cosine", "ease"):
        data = sort_interactions(empty, empty, empty, empty, 2, 3)
        rows, scores = fit_item_to_item(data, ItemToItemSettings(method=method, neighbours=2, window_days=5))
        assert (rows == -1).all()
        assert not scores.any()


def test_ease_refuses_a_catalogue_beyond_its_limit():
    data = sort_interactions(np.array([0]), np.array([0]), np.array([0]), np.array([1]), 1, 30)
    with pytest.raises(ConfigError, match="30 items are more than ease_max_items 20"):
        fit_item_to_item(data, ItemToItemSettings(method="ease", ease_max_items=20))


@pytest.mark.slow
@pytest.mark.skipif(not MOVIELENS.exists(), reason="the MovieLens data set is not beside the project")
def test_ease_and_popularity_reach_their_published_figures_on_movielens():
    train, held_out = _leave_last_out()
    popular = np.asarray(train.sum(0)).ravel()
    assert _metrics(train, held_out, lambda history: popular)["ndcg@10"] == pytest.approx(0.0194, abs=5e-5)
    weights = ease_weights(train, 100.0)
    found = _metrics(train, held_out, lambda history: weights[history].sum(0))
    assert found == pytest.approx({"ndcg@10": 0.0409, "hr@10": 0.0852, "recall@50": 0.2770}, abs=6e-5)


def _leave_last_out():
    import duckdb

    ratings = duckdb.sql(
        f"""select dense_rank() over (order by userId) - 1 as u, m.row as i,
                   row_number() over (partition by userId order by timestamp desc, r.movieId desc) = 1 as last
            from '{MOVIELENS}/ratings.parquet' r
            join (select movieId, row_number() over (order by movieId) - 1 as row from '{MOVIELENS}/movies.parquet') m
            using (movieId) order by u"""
    ).fetchnumpy()
    user, item, last = ratings["u"], ratings["i"], ratings["last"]
    ones = np.ones(int((~last).sum()), np.float32)
    train = sparse.csr_matrix((ones, (user[~last], item[~last])), shape=(610, 9742))
    held_out = item[last]
    return train, held_out


def _metrics(train, held_out, score):
    rank = []
    for user, item in enumerate(held_out):
        history = train.indices[train.indptr[user] : train.indptr[user + 1]]
        scores = np.array(score(history), np.float64)
        scores[history] = -np.inf
        rank.append(np.sum(scores > scores[item]) + np.sum(scores[:item] == scores[item]))
    rank = np.array(rank)
    return {
        "ndcg@10": np.mean(np.where(rank < 10, 1 / np.log2(rank + 2), 0)),
        "hr@10": np.mean(rank < 10),
        "recall@50": np.mean(rank < 50),
    }
