"""The latent space that users and films meet in; no feature exposes it.

A taste is a vector of `TASTE_SIZE` roughly standard normal numbers. Genres, countries, ages and cast members
pull tastes in directions of their own, so that features help; the rest is noise that only behaviour reveals.
Three more axes answer to the moment of a visit: length (by device), darkness (by hour), family (by weekend).
"""

from dataclasses import dataclass

import numpy as np

from serving.config import MOVIE_GENRES
from training.simulate.clock import Stream, stream
from training.simulate.places import COUNTRIES, LANGUAGES

TASTE_SIZE = 8
CONTEXT_SIZE = 3
GENRES = MOVIE_GENRES

_DARKNESS = {"Horror": 1.0, "Thriller": 0.7, "Film-Noir": 0.6, "Crime": 0.5, "Mystery": 0.4}
_DARKNESS |= {"Comedy": -0.3, "Animation": -0.6, "Children": -1.0}
_FAMILY = {"Children": 1.0, "Animation": 0.8, "Musical": 0.4, "Fantasy": 0.3, "Adventure": 0.2, "Horror": -0.6}
_WEIGHT = {"Drama": 3.0, "Comedy": 2.6, "Thriller": 1.6, "Action": 1.6, "Romance": 1.3, "Adventure": 1.1}
_WEIGHT |= {"Film-Noir": 0.3, "Western": 0.4, "Musical": 0.4, "War": 0.5}

DARKNESS = np.array([_DARKNESS.get(genre, 0.0) for genre in GENRES], dtype=np.float32)
FAMILY = np.array([_FAMILY.get(genre, 0.0) for genre in GENRES], dtype=np.float32)
GENRE_SHARE = np.array([_WEIGHT.get(genre, 0.8) for genre in GENRES])
GENRE_SHARE = GENRE_SHARE / GENRE_SHARE.sum()


@dataclass(frozen=True)
class Tastes:
    """Directions in the latent space: float32[_, TASTE_SIZE], each row of about unit variance per axis."""

    genres: np.ndarray
    countries: np.ndarray
    languages: np.ndarray
    youth: np.ndarray  # float32[TASTE_SIZE]: how tastes turn with age, together with `maturity`
    maturity: np.ndarray
    genre_pairs: np.ndarray  # float64[18, 18], rows sum to 1: the second genre of a film, given the first

    def of_age(self, age: np.ndarray) -> np.ndarray:
        """The pull of age on taste: float32[n, TASTE_SIZE] for ages in years, [n]."""
        angle = (np.asarray(age, dtype=np.float32) - 10) * np.float32(np.pi / 60)
        pull: np.ndarray = np.cos(angle)[:, None] * self.youth + np.sin(angle)[:, None] * self.maturity
        return pull


def draw_tastes(seed: int) -> Tastes:
    """The latent directions of a world; they depend on its seed alone."""
    rng = stream(seed, Stream.TASTES)
    genres = _normal(rng, len(GENRES))
    likeness = np.exp(1.2 * (genres @ genres.T) / TASTE_SIZE) * GENRE_SHARE
    np.fill_diagonal(likeness, 0.0)
    return Tastes(
        genres=genres,
        countries=_normal(rng, len(COUNTRIES)),
        languages=_normal(rng, len(LANGUAGES)),
        youth=_normal(rng, 1)[0],
        maturity=_normal(rng, 1)[0],
        genre_pairs=likeness / likeness.sum(axis=1, keepdims=True),
    )


def _normal(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.standard_normal((rows, TASTE_SIZE), dtype=np.float32)
