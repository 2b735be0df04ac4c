"""What diversity costs in relevance, MMR beside DPP: `python -m tests.bench.diversity FOLDER [BUNDLE]`.

FOLDER holds MovieLens' `movies` and `ratings` as `.csv` or `.parquet`. A truncated SVD of who liked what (PureSVD;
Cremonesi, Koren and Turrin, RecSys 2010) scores the films that a user has not rated; the last fifth of a user's likes
(4 stars or more) is held out. For each method and strength: NDCG@20, the mean distance of the list's pairs by genres
(1 - Jaccard) and by embedding (1 - cosine), how many genres the list covers, and the median time of the picking. Means
over the same users for each. Similarity is by the SVD's own vectors, or by the embeddings of BUNDLE, one that was
trained on the same films.

DPP is the greedy maximum a posteriori of a determinantal point process with Cholesky updates: Chen, Zhang and Zhou,
"Fast greedy MAP inference for determinantal point process to improve recommendation diversity", NeurIPS 2018. Its
kernel is q_i S_ij q_j with S the similarity that MMR is given, and log q the relevance times (1 - strength) / (2
strength).

U users, N films, P films of the pool.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from serving.config import MOVIE_GENRES
from serving.features.item_table import ItemTable
from serving.rules.diversity import marginal, relevance

K, POOL, RANK, LIKED, MIN_LIKES = 20, 100, 64, 4.0, 10
GENRE_SHARE = 0.5
STRENGTHS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
Pick = Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]


@dataclass(frozen=True)
class World:
    """pool: int[U, P] films, best first.  score: float32[U, P].  held: each user's held-out films.

    traits: float32[N, m], inner products are similarities.  genres: float32[N, G], 0 or 1.  vectors: float32[N, d].
    """

    pool: np.ndarray
    score: np.ndarray
    held: list[set[int]]
    traits: np.ndarray
    genres: np.ndarray
    vectors: np.ndarray


def main(folder: Path, bundle: Path | None = None) -> None:
    """Prints one row per method and strength."""
    world = evaluation(folder, bundle)
    columns = ("method", "strength", "NDCG@20", "genre distance", "embedding distance", "genres", "us")
    table = Table(*columns, title=f"diversity, {len(world.held)} users")
    for name, pick in {"mmr": marginal, "dpp": determinantal}.items():
        for strength in (0.0, *STRENGTHS):
            figures, us = measure(pick, strength, world)
            table.add_row(name, f"{strength:g}", *(f"{value:.4f}" for value in figures), f"{us:.0f}")
    Console(width=120).print(table)


def measure(pick: Pick, strength: float, world: World) -> tuple[np.ndarray, float]:
    """Mean figures over the users, and the median microseconds of the picking."""
    results, times = [], []
    for rows, score, wanted in zip(world.pool, world.score, world.held, strict=True):
        worth = relevance(score)
        started = time.perf_counter_ns()
        picks = np.arange(K) if strength == 0 else pick(worth, world.traits[rows], strength, K)
        times.append(time.perf_counter_ns() - started)
        listed = rows[picks]
        results.append((ndcg(listed, wanted), *distances(world.genres[listed], world.vectors[listed])))
    return np.mean(results, axis=0), float(np.median(times)) / 1000


def determinantal(worth: np.ndarray, traits: np.ndarray, strength: float, count: int) -> np.ndarray:
    """Places int[count] by the published greedy algorithm."""
    quality = np.exp((1 - strength) / (2 * strength) * worth.astype(np.float64))
    kernel = quality[:, None] * (traits.astype(np.float64) @ traits.T) * quality
    gain, rows, picks = kernel.diagonal().copy(), np.zeros((count, len(worth))), np.zeros(count, np.int64)
    for i in range(count):
        pick = picks[i] = int(gain.argmax())
        update = (kernel[pick] - rows[:i, pick] @ rows[:i]) / np.sqrt(gain[pick])
        rows[i] = update
        gain = np.maximum(gain - update**2, 1e-12)
        gain[picks[: i + 1]] = -np.inf
    return picks


def evaluation(folder: Path, bundle: Path | None) -> World:
    """Everyone who has held-out likes, with the best films that they have not rated."""
    films = [(int(film), listed.split("|")) for film, listed in _rows(folder, "movies", "movieId", "genres")]
    genres = np.array([[name in listed for name in MOVIE_GENRES] for _, listed in films], np.float32)
    known, taken, held = _split(folder, {film: row for row, (film, _) in enumerate(films)})
    factors = np.linalg.svd(taken, full_matrices=False)[2][:RANK].T
    users = [user for user, last in enumerate(held) if last]
    predicted = np.where(known, -np.inf, (taken @ factors) @ factors.T)[users]
    pool = np.argsort(-predicted, axis=1, kind="stable")[:, :POOL]
    vectors = factors / np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1e-9)
    if bundle is not None:
        rows = ItemTable.load(bundle / "catalogue").rows_of([str(film) for film, _ in films])
        vectors = np.load(bundle / "embeddings/item.npy")[rows] * (rows >= 0)[:, None]
    by_genre = genres / np.sqrt(np.maximum(genres.sum(axis=1, keepdims=True), 1))
    return World(
        pool=pool,
        score=np.take_along_axis(predicted, pool, axis=1).astype(np.float32),
        held=[held[user] for user in users],
        traits=np.hstack([(1 - GENRE_SHARE) ** 0.5 * vectors, GENRE_SHARE**0.5 * by_genre]).astype(np.float32),
        genres=genres,
        vectors=vectors,
    )


def _split(folder: Path, row_of: dict[int, int]) -> tuple[np.ndarray, np.ndarray, list[set[int]]]:
    """What each user has rated bool[U, N] and liked float32[U, N] but for what is held out, and that."""
    by_user: dict[int, list[tuple[int, int, float]]] = {}
    for user, film, stars, time_s in _rows(folder, "ratings", "userId", "movieId", "rating", "timestamp"):
        by_user.setdefault(user, []).append((time_s, row_of[film], stars))
    known = np.zeros((len(by_user), len(row_of)), np.bool_)
    taken = np.zeros((len(by_user), len(row_of)), np.float32)
    held: list[set[int]] = []
    for u, rated in enumerate(by_user.values()):
        liked = [row for _, row, stars in sorted(rated, key=lambda each: each[0]) if stars >= LIKED]
        last = set(liked[len(liked) - len(liked) // 5 :]) if len(liked) >= MIN_LIKES else set()
        known[u, [row for _, row, _ in rated if row not in last]] = True
        taken[u, [row for row in liked if row not in last]] = 1
        held.append(last)
    return known, taken, held


def _rows(folder: Path, name: str, *columns: str) -> list[tuple[Any, ...]]:
    path = folder / f"{name}.parquet"
    table = pd.read_parquet(path) if path.exists() else pd.read_csv(folder / f"{name}.csv")
    return list(zip(*(table[column].tolist() for column in columns), strict=True))


def ndcg(listed: np.ndarray, wanted: set[int]) -> float:
    """NDCG@K with gain 1 for what was held out."""
    discounts = 1 / np.log2(np.arange(2, K + 2))
    hits = np.array([row in wanted for row in listed.tolist()])
    return float(discounts[hits].sum() / discounts[: min(K, len(wanted))].sum())


def distances(genres: np.ndarray, vectors: np.ndarray) -> tuple[float, float, int]:
    """Mean pairwise distance by genres and by vectors, and how many genres there are."""
    pairs = np.triu_indices(len(genres), 1)
    both = genres @ genres.T
    counts = genres.sum(axis=1)
    either = np.maximum(counts[:, None] + counts - both, 1)
    by_genre, by_vector = 1 - both / either, 1 - vectors @ vectors.T
    return float(by_genre[pairs].mean()), float(by_vector[pairs].mean()), int(genres.any(axis=0).sum())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
