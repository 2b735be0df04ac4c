"""Item-to-item collaborative filtering: a table of each item's nearest items.

A user's score for an item is the sum of `scores[h]` over the items h of the history that list it. `ease`
lists may end in negative scores: a reason against an item.
"""

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from serving.errors import ConfigError
from training.config import ItemToItemSettings
from training.models.interactions import DAY_US, Interactions

BLOCK_PAIRS = 20_000_000
"""Co-occurrences counted at once: about 240 MB of sparse matrix."""

Neighbours = tuple[NDArray[np.int32], NDArray[np.float32]]


def fit_item_to_item(interactions: Interactions, settings: ItemToItemSettings, now_us: int | None = None) -> Neighbours:
    """Each item's neighbours, best first.

    Returns rows int32[N, K] (-1 padded) and scores float32[N, K] (0 where padded); an item is never its own
    neighbour and ties go to the lower row. `now_us` ends the window of `settings.window_days`; without it the
    newest interaction does. Without interactions everything is padding.

    Raises:
        ConfigError: `ease` over more items than `ease_max_items`.
    """
    if settings.window_days is not None and len(interactions):
        end_us = int(interactions.time_us.max()) + 1 if now_us is None else now_us
        interactions = interactions.between(end_us - settings.window_days * DAY_US, end_us)
    taken = interactions.matrix()
    if settings.method == "cosine":
        return cosine_neighbours(taken, settings.neighbours, settings.shrinkage)
    if interactions.n_items > settings.ease_max_items:
        problem = f"{interactions.n_items} items are more than ease_max_items {settings.ease_max_items}"
        raise ConfigError("training.item_to_item: ease does not fit this catalogue", [problem])
    return ease_neighbours(taken, settings.neighbours, settings.ease_lambda)


def cosine_neighbours(taken: sparse.csr_matrix, neighbours: int, shrinkage: float) -> Neighbours:
    """Top neighbours by users in common / (sqrt(users of i x users of j) + shrinkage).

    `taken` is binary [U, N]. Rows are worked on in blocks that hold about `BLOCK_PAIRS` co-occurrences, so that
    memory stays bounded whatever N is. The measure: Sarwar et al. 2001; shrinkage: Bell and Koren 2007.
    """
    n_items = taken.shape[1]
    by_item = taken.T.tocsr()
    users_of = np.asarray(taken.sum(axis=0)).ravel()
    rows = np.full((n_items, neighbours), -1, np.int32)
    scores = np.zeros((n_items, neighbours), np.float32)
    pairs_of = by_item @ np.asarray(taken.sum(axis=1)).ravel()
    for start, stop in _blocks(pairs_of):
        common = (by_item[start:stop] @ taken).tocsr()
        item = np.repeat(np.arange(start, stop), np.diff(common.indptr))
        norm = np.sqrt(users_of[item] * users_of[common.indices]) + np.float32(shrinkage)
        similarity = np.where(item == common.indices, np.float32(0), common.data / norm).astype(np.float32)
        for row in range(start, stop):
            part = slice(common.indptr[row - start], common.indptr[row - start + 1])
            _keep_top(rows[row], scores[row], common.indices[part], similarity[part])
    return rows, scores


def ease_neighbours(taken: sparse.csr_matrix, neighbours: int, ease_lambda: float) -> Neighbours:
    """The K weights of largest magnitude in each row of `ease_weights`, best first, negative ones last.

    Negative weights are kept because they carry much of the ranking: on MovieLens' latest-small, validation
    Recall@50 with K = 200 is .270 with them, .238 without, .262 with all of the matrix.
    """
    weights = ease_weights(taken, ease_lambda)
    rows = np.full((weights.shape[0], neighbours), -1, np.int32)
    scores = np.zeros(rows.shape, np.float32)
    everything = np.arange(weights.shape[1], dtype=np.int32)
    for row, weight in enumerate(weights):
        _keep_top(rows[row], scores[row], everything, weight)
    return rows, scores


def ease_weights(taken: sparse.csr_matrix, ease_lambda: float) -> NDArray[np.float32]:
    """EASE's item-item weights float32[N, N] with a zero diagonal, from binary `taken` [U, N].

    Row i holds what having taken i adds to every item's score. Items without users have zero weights and are
    kept out of the inversion. Steck 2019, "Embarrassingly Shallow Autoencoders for Sparse Data", eq. 8.
    """
    n_items = taken.shape[1]
    used = np.flatnonzero(np.diff(taken.tocsc().indptr))
    weights = np.zeros((n_items, n_items), np.float32)
    if not len(used):
        return weights
    gram = (taken[:, used].T @ taken[:, used]).toarray().astype(np.float64, order="F")
    gram[np.diag_indices(len(used))] += ease_lambda
    inverse = _invert_positive(gram)
    inverse /= -np.diag(inverse)
    inverse[np.diag_indices(len(used))] = 0.0
    weights[np.ix_(used, used)] = inverse
    return weights


def _blocks(pairs_of: NDArray[np.floating]) -> list[tuple[int, int]]:
    """Consecutive ranges of items whose co-occurrences add up to about `BLOCK_PAIRS`."""
    block = np.floor_divide(np.cumsum(pairs_of, dtype=np.float64), BLOCK_PAIRS)
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1).tolist(), len(pairs_of)]
    return [(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]


def _keep_top(
    rows: NDArray[np.int32],
    scores: NDArray[np.float32],
    candidates: NDArray[np.integer],
    weights: NDArray[np.float32],
) -> None:
    """Writes the largest of `weights` by magnitude, and their candidates, into one row of each table."""
    room, size = len(rows), np.abs(weights)
    floor = np.partition(size, -room)[-room] if len(size) > room else 0.0
    kept = np.flatnonzero((size >= floor) & (size > 0))
    kept = kept[np.lexsort((candidates[kept], -size[kept]))][:room]
    kept = kept[np.lexsort((candidates[kept], -weights[kept]))]
    rows[: len(kept)] = candidates[kept]
    scores[: len(kept)] = weights[kept]


def _invert_positive(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inverse of a symmetric positive definite float64[n, n] in Fortran order, in the same memory."""
    inverse: NDArray[np.float64]
    factor, _ = linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    inverse, _ = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    for start in range(0, len(inverse), 512):
        block = slice(start, start + 512)
        inverse[block, start + 512 :] = inverse[start + 512 :, block].T
        corner = np.tril(inverse[block, block])
        inverse[block, block] = corner + np.tril(corner, -1).T
    return inverse
