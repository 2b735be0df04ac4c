"""Less of the same near the top: maximal marginal relevance.

Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing
summaries", SIGIR 1998.

P candidates of the pool, d embedding length, G genres.
"""

import numpy as np
import numpy.typing as npt
from pydantic import Field

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates, Rows
from serving.core.request import Request
from serving.core.stages import Marked, Ruled, StageSettings
from serving.rules.order import levels, lifted

REASON = "diverse"
BLOCK_PRODUCTS = 200_000
"""Multiplications of one matrix product: BLAS spreads more over threads, and waiting for them costs more."""


class DiversityRule:
    """Fills the first places one by one with what is relevant and least like what stands above it.

    The next item is the one with the largest (1 - strength) · relevance - strength · similarity to the most similar
    item above it. Relevance is what the place is worth where it stood, put into 0 to 1 over the pool; similarity is
    that of the embeddings and of the sets of genres, mixed.
    """

    class Settings(StageSettings):
        """How much, how far down, and by what.

        strength: 0 leaves every order as it is, 1 disregards relevance after the first item.
        depth: how many places are filled.  pool: how many of the best may come to stand there.
        genre_share: the part of the genres in the similarity; the rest is the embeddings'.
        """

        strength: float = Field(0.2, ge=0, le=1)
        depth: int = Field(20, ge=1, le=200)
        pool: int = Field(100, ge=2, le=1000)
        genre_share: float = Field(0.5, ge=0, le=1)

    def __init__(self, parts: FilmParts, settings: Settings) -> None:
        self._table = parts.table
        self._vectors = parts.item_vectors
        self._genres = len(parts.vocabulary.genres)
        self._settings = settings
        counts = np.maximum(np.arange(65), 1)
        self._weights = np.sqrt(settings.genre_share / counts).astype(np.float32)  # by the number of genres

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Fills `depth` places; the rest of the pool follows in its order, then all others in theirs.

        Ties go to what stood higher. Items that passed a better one are marked as `diverse`.
        """
        settings = self._settings
        pool = min(settings.pool, len(candidates))
        if settings.strength == 0 or pool < 3:
            return Ruled(candidates)
        traits = self._traits(candidates.row[:pool])
        worth = relevance(candidates.score[:pool])
        picks = marginal(worth, traits, settings.strength, min(settings.depth, pool))
        order = np.arange(len(candidates))
        others = np.ones(pool, np.bool_)
        others[picks] = False
        order[:pool] = np.concatenate([picks, order[:pool][others]])
        passed = lifted(order[:pool])
        if not passed.any():
            return Ruled(candidates)
        kept = candidates.take(order)
        return Ruled(kept, marked=(Marked(kept.row[:pool][passed], REASON),))

    def _traits(self, rows: Rows) -> npt.NDArray[np.float32]:
        """float32[P, d + G], of length 1 where both parts are known: inner products are the mixed similarity."""
        vectors, masks = self._vectors(rows), self._table().genre_mask.take(rows)
        share = self._settings.genre_share
        bits = np.unpackbits(masks.view(np.uint8).reshape(-1, 8), axis=1, count=self._genres, bitorder="little")
        length = vectors.shape[1]
        traits = np.empty((len(rows), length + self._genres), np.float32)
        np.multiply(vectors, (1 - share) ** 0.5, out=traits[:, :length])
        np.multiply(bits, self._weights[np.bitwise_count(masks)][:, None], out=traits[:, length:])
        return traits


def relevance(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32[P], falling from 1 to 0: what each place is worth; all 1 where the scores are equal."""
    values = levels(scores)
    span = values[0] - values[-1]
    if span <= 0:
        return np.ones(len(values), np.float32)
    falling: npt.NDArray[np.float32] = ((values - values[-1]) / span).astype(np.float32)
    return falling


def marginal(
    worth: npt.NDArray[np.float32], traits: npt.NDArray[np.float32], strength: float, count: int
) -> npt.NDArray[np.int64]:
    """Places int64[count] in the order in which they are picked, the first place first.

    worth: float32[P], falling.  traits: float32[P, m], similarity is their inner product.  count: 1 to P.
    """
    # one row per picked item: what every candidate is worth beside it; a candidate's value is its worst row
    size = len(worth)
    opposite = np.empty((traits.shape[1], size), np.float32)
    np.multiply(traits.T, np.float32(-strength), out=opposite)
    beside = np.empty((size, size), np.float32)
    block = max(1, BLOCK_PRODUCTS // opposite.size)
    for start in range(0, size, block):
        np.matmul(traits[start : start + block], opposite, out=beside[start : start + block])
    beside += np.float32(1 - strength) * worth
    beside.flat[:: size + 1] = -np.inf
    value = beside[0].copy()
    picks = np.zeros(count, np.int64)
    for i in range(1, count):
        pick = value.argmax()
        picks[i] = pick
        np.minimum(value, beside[pick], out=value)
    return picks
