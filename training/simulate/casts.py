"""Who plays in which film: people with a home genre, fame, and a pull on taste."""

import numpy as np

from training.simulate.names import MOST_PEOPLE
from training.simulate.tastes import GENRE_SHARE, GENRES, TASTE_SIZE, Tastes

MOST_CAST = 6


def draw_cast(rng: np.random.Generator, genre: np.ndarray, tastes: Tastes) -> tuple[int, np.ndarray, np.ndarray]:
    """Pool size, cast int32[N, MOST_CAST], and the cast's pull on taste float32[N, TASTE_SIZE].

    People are sorted by the genre that they are at home in, and within it by fame; most films cast from
    their own genre, and the famous far more often than the rest.
    """
    n = len(genre)
    people = int(np.clip(n * 3 // 4, 60, min(MOST_PEOPLE, 100_000)))
    home = np.sort(rng.choice(len(GENRES), size=people, p=GENRE_SHARE))
    person_taste = 0.6 * tastes.genres[home] + 0.8 * rng.standard_normal((people, TASTE_SIZE), dtype=np.float32)
    bounds = np.searchsorted(home, np.arange(len(GENRES) + 1))
    cast = np.full((n, MOST_CAST), -1, dtype=np.int32)
    size = rng.integers(3, MOST_CAST + 1, size=n)
    pull = np.zeros((n, TASTE_SIZE), dtype=np.float32)
    for column in range(MOST_CAST):
        source = np.where(rng.random(n) < 0.75, genre, rng.choice(len(GENRES), size=n, p=GENRE_SHARE))
        low, high = bounds[source], bounds[source + 1]
        low, high = np.where(high > low, low, 0), np.where(high > low, high, people)
        person = (low + (high - low) * rng.random(n) ** 2.5).astype(np.int32)
        chosen = (column < size) & ~(cast == person[:, None]).any(axis=1)
        cast[chosen, column] = person[chosen]
        pull[chosen] += person_taste[person[chosen]]
    order = np.argsort(cast < 0, axis=1, kind="stable")
    cast = np.take_along_axis(cast, order, axis=1)
    return people, cast, pull / np.sqrt((cast >= 0).sum(axis=1, dtype=np.float32))[:, None]


def merged_cast(lead: np.ndarray, own: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """The leader's cast where shared, else the film's own without repeats: int32[n, MOST_CAST], padding last."""
    repeated = (own[:, :, None] == np.where(shared, lead, -2)[:, None, :]).any(axis=2)
    cast = np.where(shared, lead, np.where(repeated, -1, own))
    return np.take_along_axis(cast, np.argsort(cast < 0, axis=1, kind="stable"), axis=1)
