"""Slices of users: the groups for which a metric is told apart, and the metric of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluate.bootstrap import Interval, mean_interval
from training.evaluate.metrics import PerUser

Mask = npt.NDArray[np.bool_]
NEW_USER_INTERACTIONS = 5
TERCILES = ("quiet users", "middling users", "busy users")


@dataclass(frozen=True)
class SliceResult:
    """A metric inside one slice; NaN where none of its users has a value."""

    name: str
    interval: Interval


def user_slices(
    interactions: npt.NDArray[np.integer], country: npt.NDArray[np.integer], countries: Sequence[str]
) -> dict[str, Mask]:
    """The usual slices, each bool[U]: new users, thirds by activity, countries.

    Args:
        interactions: int[U], positives before the holdout.
        country: int[U], position in `countries`; -1 is any other.
        countries: the vocabulary.
    """
    slices = {f"new users (under {NEW_USER_INTERACTIONS} interactions)": interactions < NEW_USER_INTERACTIONS}
    slices |= activity_terciles(interactions)
    slices |= {f"country {name}": country == index for index, name in enumerate(countries)}
    return slices | {"country other": country < 0}


def activity_terciles(interactions: npt.NDArray[np.integer]) -> dict[str, Mask]:
    """Three groups of (nearly) equal size by activity; users equally active stay together, in the lower group."""
    if not len(interactions):
        return {name: np.zeros(0, np.bool_) for name in TERCILES}
    first, second = np.quantile(interactions, (1 / 3, 2 / 3), method="inverted_cdf")
    quiet, busy = interactions <= first, interactions > second
    return dict(zip(TERCILES, (quiet, ~quiet & ~busy, busy), strict=True))


def sliced(metric: PerUser, slices: Mapping[str, Mask], samples: int, seed: int) -> list[SliceResult]:
    """The mean of float64[U] and its interval in every slice that has any user."""
    return [
        SliceResult(name, mean_interval(metric[mask], samples, seed)) for name, mask in slices.items() if mask.any()
    ]
