"""Who took what and when: the one input of popular and item-to-item."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from serving.errors import DataError

DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Interactions:
    """Positive interactions, one row each, sorted by user, then time, then item.

    `user` int32[n] counts users from 0 to `n_users` - 1, `item` int32[n] is a row of the item order,
    `time_us` int64[n] is in microseconds since the epoch and `grade` int8[n] is 1 to 3. A user may have the
    same item several times. Built by `sort_interactions`.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time_us: NDArray[np.int64]
    grade: NDArray[np.int8]
    n_users: int
    n_items: int

    def __len__(self) -> int:
        return len(self.user)

    def between(self, start_us: int, end_us: int) -> "Interactions":
        """The interactions with `start_us` <= time < `end_us`, in the same order."""
        return self.where((self.time_us >= start_us) & (self.time_us < end_us))

    def where(self, keep: NDArray[np.bool_]) -> "Interactions":
        """The interactions marked in bool[n], in the same order."""
        return Interactions(
            self.user[keep], self.item[keep], self.time_us[keep], self.grade[keep], self.n_users, self.n_items
        )

    def matrix(self) -> sparse.csr_matrix:
        """Binary float32 matrix [n_users, n_items]: 1 where a user took an item at least once."""
        ones = np.ones(len(self), np.float32)
        found = sparse.csr_matrix((ones, (self.user, self.item)), shape=(self.n_users, self.n_items))
        found.sum_duplicates()
        found.data[:] = 1.0
        return found


def sort_interactions(
    user: NDArray[np.integer],
    item: NDArray[np.integer],
    time_us: NDArray[np.integer],
    grade: NDArray[np.integer],
    n_users: int,
    n_items: int,
) -> Interactions:
    """Checks and sorts four columns [n] into `Interactions`; empty columns are fine.

    Raises:
        DataError: columns of different lengths, a user or item out of range, a grade that is not 1 to 3.
    """
    lengths = {"user": len(user), "item": len(item), "time_us": len(time_us), "grade": len(grade)}
    problems = []
    if len(set(lengths.values())) > 1:
        problems.append(f"columns differ in length: {lengths}")
    for name, column, bound in (("user", user, n_users), ("item", item, n_items)):
        if len(column) and (column.min() < 0 or column.max() >= bound):
            problems.append(f"{name} holds {column.min()} to {column.max()}, outside 0 to {bound - 1}")
    if len(grade) and (grade.min() < 1 or grade.max() > 3):
        problems.append(f"grade holds {grade.min()} to {grade.max()}; interactions are graded 1 to 3")
    if problems:
        raise DataError("interactions cannot be used", problems)
    order = np.lexsort((item, time_us, user))
    return Interactions(
        user[order].astype(np.int32),
        item[order].astype(np.int32),
        time_us[order].astype(np.int64),
        grade[order].astype(np.int8),
        n_users,
        n_items,
    )
