"""What every ranker has in common: the rows it learns from and what comes out of training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.errors import DataError
from training.models.arrays import ArrayFolder
from training.models.layers import require_finite

MAX_GRADE = 3


class Ranker(Protocol):
    """A trained ranker."""

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores float32[R] of raw feature rows float32[R, F] with defaults filled in; higher is better."""

    def save(self, folder: Path) -> None:
        """Writes the model into a folder, without pickle."""


@dataclass(frozen=True)
class RankerRows(ArrayFolder):
    """Requests and their candidates: R rows in G consecutive groups, one group for each request.

    `features` float32[R, F] raw with defaults filled in (a memory map is fine), `grade` int8[R] 0 to 3,
    `group_sizes` int32[G] rows of each request, in order.
    """

    features: NDArray[np.float32]
    grade: NDArray[np.int8]
    group_sizes: NDArray[np.int32]

    @property
    def group_starts(self) -> NDArray[np.int64]:
        """First row of each group and, at the end, R: int64[G + 1]."""
        return np.concatenate([[0], np.cumsum(self.group_sizes, dtype=np.int64)])

    def check(self) -> None:
        """Raises:
        DataError: sizes that do not fit, grades outside 0 to 3, NaN in a feature, or no group with two
            different grades, from which alone an order can be learnt.
        """
        problems = []
        rows, total = len(self.features), int(self.group_sizes.sum())
        if not rows == len(self.grade) == total:
            problems.append(f"{rows} feature rows, {len(self.grade)} grades and groups of {total} rows in all")
        elif not np.any(informative_groups(self)):
            problems.append("no request has rows of different grades, so there is no order to learn")
        if len(self.grade) and (self.grade.min() < 0 or self.grade.max() > MAX_GRADE):
            problems.append(f"grade holds {self.grade.min()} to {self.grade.max()}, outside 0 to {MAX_GRADE}")
        if problems:
            raise DataError("the ranker cannot be trained", problems)
        require_finite("the ranker's features", self.features)


@dataclass(frozen=True)
class RequestBatch:
    """Some requests with their rows: `features` float32[R, F], `grade` int64[R], `sizes` int[G] rows of each."""

    features: NDArray[np.float32]
    grade: NDArray[np.int64]
    sizes: NDArray[np.integer]


def gather_requests(rows: RankerRows, starts: NDArray[np.int64], chosen: NDArray[np.integer]) -> RequestBatch:
    """The groups `chosen`, int[G], in that order; `starts` is `rows.group_starts`, worked out once."""
    sizes = rows.group_sizes[chosen]
    group = np.repeat(np.arange(len(chosen)), sizes)
    index = starts[chosen][group] + np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group]
    return RequestBatch(rows.features[index], rows.grade[index].astype(np.int64), sizes)


def informative_groups(rows: RankerRows) -> NDArray[np.bool_]:
    """bool[G]: the groups whose rows do not all have the same grade."""
    filled = rows.group_sizes > 0
    starts = rows.group_starts[:-1][filled]
    found = np.zeros(len(rows.group_sizes), bool)
    if len(starts):
        found[filled] = np.maximum.reduceat(rows.grade, starts) != np.minimum.reduceat(rows.grade, starts)
    return found


def hold_out_groups(n_groups: int, share: float, seed: int) -> NDArray[np.bool_]:
    """bool[G]: a random `share` of the groups, at least one where there are two, for inner validation."""
    count = max(round(n_groups * share), 1) if n_groups > 1 else 0
    held = np.zeros(n_groups, bool)
    held[np.random.default_rng(seed).permutation(n_groups)[:count]] = True
    return held
