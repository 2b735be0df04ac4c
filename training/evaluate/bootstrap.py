"""Paired bootstrap over users: how sure is a difference of means that both were measured on (Efron, 1979).

Two rankings of the same users are resampled together, so that what makes users differ cancels out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluate.metrics import PerUser, defined

CONFIDENCE = 0.95
_CHUNK_CELLS = 4_000_000


@dataclass(frozen=True)
class Difference:
    """Mean of `candidate - reference` over the users that both have a value for.

    `low` and `high` bound its central 95 % percentile interval, `lower_bound` is the one-sided 95 % bound.
    With fewer than two users all of these are NaN, which no comparison passes.
    """

    users: int
    candidate: float
    reference: float
    mean: float
    low: float
    high: float
    lower_bound: float

    @property
    def relative(self) -> float:
        """The mean difference as a share of the reference's mean; NaN where that is 0."""
        return self.mean / self.reference if self.reference else math.nan

    @property
    def relative_lower_bound(self) -> float:
        """The one-sided bound as a share of the reference's mean; NaN where that is 0."""
        return self.lower_bound / self.reference if self.reference else math.nan


@dataclass(frozen=True)
class Interval:
    """A mean over users and its central 95 % percentile interval; NaN without users."""

    users: int
    mean: float
    low: float
    high: float


def paired_difference(candidate: PerUser, reference: PerUser, samples: int, seed: int) -> Difference:
    """Compares two metrics of the same users; equal arguments give equal results.

    Args:
        candidate: float64[U]. NaN leaves the user out of both.
        reference: float64[U] of the same users in the same order.
        samples: how many resamples of the users.

    Raises:
        ValueError: the arrays are of different length.
    """
    if candidate.shape != reference.shape:
        raise ValueError(f"{len(candidate)} users against {len(reference)}: pairs must be of the same users")
    kept = defined(candidate, reference)
    pairs = np.stack([candidate[kept], reference[kept]], axis=1)
    users = len(pairs)
    if users < 2:
        return Difference(users, *[math.nan] * 6)
    means = resampled_means(pairs, samples, seed)
    shares = (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2, 1 - CONFIDENCE)
    low, high, lower_bound = _quantiles(means[:, 0] - means[:, 1], shares)
    ours, theirs = map(float, pairs.mean(axis=0))
    return Difference(users, ours, theirs, ours - theirs, low, high, lower_bound)


def mean_interval(metric: PerUser, samples: int, seed: int) -> Interval:
    """The mean of float64[U] over users that have a value, with its 95 % percentile interval."""
    values = metric[np.isfinite(metric)]
    if not len(values):
        return Interval(0, math.nan, math.nan, math.nan)
    means = resampled_means(values[:, None], samples, seed)[:, 0]
    low, high = _quantiles(means, (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2))
    return Interval(len(values), float(values.mean()), low, high)


def resampled_means(values: npt.NDArray[np.float64], samples: int, seed: int) -> npt.NDArray[np.float64]:
    """Column means float64[samples, M] of float64[U, M] over users drawn with replacement, U at a time.

    A resample is kept as how often each user was drawn (multinomial), so that memory stays bounded.
    """
    chunks = [counts @ values / len(values) for counts in _draws(len(values), samples, seed)]
    return np.concatenate(chunks)


def _draws(users: int, samples: int, seed: int) -> Iterator[npt.NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    per_chunk = max(1, _CHUNK_CELLS // users)
    for start in range(0, samples, per_chunk):
        rows = min(per_chunk, samples - start)
        drawn = rng.integers(0, users, (rows, users)) + np.arange(rows)[:, None] * users
        yield np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float64)


def _quantiles(values: npt.NDArray[np.float64], shares: tuple[float, ...]) -> list[float]:
    return [float(value) for value in np.quantile(values, shares)]
