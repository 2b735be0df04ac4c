"""Ranking metrics per user, so that two rankings of the same users can be compared in pairs.

Legend: U users, K list positions, k cut-off, N items, R relevant entries over all users.

Every function returns float64[U]. A user without anything relevant has no defined value: NaN, which means
leave out by `defined`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Lists = npt.NDArray[np.int32]
PerUser = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RelevantSets:
    """What each user really liked, in compressed rows: user u has the entries indptr[u] to indptr[u + 1].

    `indptr` is int64[U + 1] from 0 up to R; `rows` int32[R], each item once per user; `grades` any
    number[R], above zero (1 to 3 for films).
    """

    indptr: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    grades: npt.NDArray[Any]

    def __post_init__(self) -> None:
        if not (self.indptr[0] == 0 and self.indptr[-1] == len(self.rows) == len(self.grades)):
            raise ValueError("indptr must start at 0 and end at the number of rows and grades")
        if (np.diff(self.indptr) < 0).any():
            raise ValueError("indptr must not fall")
        if (self.grades <= 0).any():
            raise ValueError("grades of relevant items must be above 0")
        keys = self.owners * (int(self.rows.max(initial=0)) + 1) + self.rows
        if len(np.unique(keys)) != len(keys):
            raise ValueError("rows must name an item once per user")

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @classmethod
    def of(
        cls, users: npt.NDArray[np.integer], rows: npt.NDArray[np.int32], grades: npt.NDArray[Any], n_users: int
    ) -> "RelevantSets":
        """Groups entries, given in any order, by their user (0 to n_users - 1)."""
        order = np.argsort(users, kind="stable")
        indptr = np.zeros(n_users + 1, np.int64)
        np.cumsum(np.bincount(users, minlength=n_users), out=indptr[1:])
        return cls(indptr, rows[order].astype(np.int32), grades[order])

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """int64[U]: how many relevant items each user has."""
        return np.diff(self.indptr)

    @property
    def owners(self) -> npt.NDArray[np.int64]:
        """int64[R]: the user of each entry."""
        return np.repeat(np.arange(len(self)), self.sizes)


def list_grades(lists: Lists, relevant: RelevantSets) -> npt.NDArray[np.float64]:
    """The grade of each listed item for its user, 0 where it is not relevant or padding (-1).

    Args:
        lists: int32[U, K], best first, -1 padded.

    Returns:
        float64[U, K].

    Raises:
        ValueError: the lists are of other users, or one lists an item twice.
    """
    if len(lists) != len(relevant):
        raise ValueError(f"{len(lists)} lists for {len(relevant)} users")
    _refuse_repeats(lists)
    if not len(relevant.rows) or not lists.size:
        return np.zeros(lists.shape)
    width = int(max(relevant.rows.max(), lists.max())) + 1
    keys = relevant.owners * width + relevant.rows
    order = np.argsort(keys)
    wanted = np.arange(len(lists))[:, None] * width + lists
    place = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    hit = (keys[order[place]] == wanted) & (lists >= 0)
    return np.where(hit, relevant.grades[order[place]], 0.0)


def ndcg(lists: Lists, relevant: RelevantSets, k: int, graded: bool = True) -> PerUser:
    """Normalised discounted cumulative gain at k (Järvelin & Kekäläinen, 2002; Burges et al., 2005).

    The gain of a grade g is 2^g - 1 (1 for every relevant item where not `graded`), discounted by
    log2(position + 2) and divided by that of the best possible list of k out of all relevant items, whether or
    not they could be listed. NaN for a user without a relevant item.
    """
    found = list_grades(lists, relevant)[:, :k]
    got = (_gains(found, graded) * _discounts(found.shape[1])).sum(axis=1)
    return _share(got, _ideal(relevant, k, graded))


def recall(lists: Lists, relevant: RelevantSets, k: int) -> PerUser:
    """Share of a user's relevant items that are among the first k; NaN for a user without any."""
    hits = (list_grades(lists, relevant)[:, :k] > 0).sum(axis=1)
    return _share(hits.astype(np.float64), relevant.sizes.astype(np.float64))


def hit_rate(lists: Lists, relevant: RelevantSets, k: int) -> PerUser:
    """1 where any of a user's relevant items is among the first k, else 0; NaN for a user without any."""
    hits = (list_grades(lists, relevant)[:, :k] > 0).any(axis=1)
    return np.where(relevant.sizes > 0, hits.astype(np.float64), np.nan)


def novelty(lists: Lists, interactions: npt.NDArray[np.integer], k: int) -> PerUser:
    """Mean self-information of the first k items, -log2 of an item's share of all interactions.

    Vargas & Castells (2011). Every item counts one interaction more than it has, so that an item never seen
    is very novel rather than infinitely so. NaN for an empty list.

    Args:
        lists: int32[U, K], -1 padded.
        interactions: int[N], how often each item was interacted with before.
    """
    counts = interactions.astype(np.float64) + 1.0
    information = -np.log2(counts / counts.sum())
    top = lists[:, :k]
    listed = top >= 0
    total = np.where(listed, information[np.maximum(top, 0)], 0.0).sum(axis=1)
    return _share(total, listed.sum(axis=1).astype(np.float64))


def coverage(lists: Lists, items: int, k: int) -> float:
    """Share of the catalogue that appears in anyone's first k; 0 for no lists.

    Raises:
        ValueError: there are no items.
    """
    if items < 1:
        raise ValueError("coverage of an empty catalogue is not defined")
    top = lists[:, :k]
    return len(np.unique(top[top >= 0])) / items


def defined(*metrics: PerUser) -> npt.NDArray[np.bool_]:
    """bool[U]: the users for whom every one of these has a value."""
    return np.asarray(np.isfinite(np.stack(metrics)).all(axis=0))


def _gains(grades: npt.NDArray[Any], graded: bool) -> npt.NDArray[np.float64]:
    return np.exp2(grades.astype(np.float64)) - 1.0 if graded else (grades > 0).astype(np.float64)


def _discounts(k: int) -> npt.NDArray[np.float64]:
    discounts: npt.NDArray[np.float64] = 1.0 / np.log2(np.arange(k) + 2.0)
    return discounts


def _ideal(relevant: RelevantSets, k: int, graded: bool) -> PerUser:
    """DCG of each user's relevant items, best grades first, capped at k."""
    order = np.lexsort((-relevant.grades.astype(np.float64), relevant.owners))
    position = np.arange(len(relevant.rows)) - relevant.indptr[relevant.owners]
    counts = position < k
    gains = _gains(relevant.grades[order][counts], graded) * _discounts(k)[position[counts]]
    totals = np.bincount(relevant.owners[counts], weights=gains, minlength=len(relevant))
    return totals.astype(np.float64)


def _share(part: PerUser, whole: PerUser) -> PerUser:
    share: PerUser = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return share


def _refuse_repeats(lists: Lists) -> None:
    ordered = np.sort(lists, axis=1)
    repeated = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if repeated.any():
        raise ValueError(f"the list of user {int(np.argmax(repeated))} holds an item twice")
