"""What the two-tower learns from: a folder of arrays that workers map into memory."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.errors import DataError
from serving.retrieval.user_tower import POOLED_HISTORY
from training.models.arrays import ArrayFolder
from training.models.layers import require_finite


@dataclass(frozen=True)
class TowerData(ArrayFolder):
    """Positives with what was known before each, and the items.

    `user` float32[R, Du] holds raw user features with defaults filled in; `history` int32[R, L] item rows,
    newest last, -1 where there is none; `item` int32[R] the item taken; `grade` int8[R] 1 to 3;
    `item_features` float32[N, Di] with defaults filled in; `log_q` float32[N] the log of each item's share of
    the positives (-inf for items that were never taken, which no batch can hold).
    """

    user: NDArray[np.float32]
    history: NDArray[np.int32]
    item: NDArray[np.int32]
    grade: NDArray[np.int8]
    item_features: NDArray[np.float32]
    log_q: NDArray[np.float32]


def tower_data(
    user: NDArray[np.float32],
    history: NDArray[np.integer],
    item: NDArray[np.integer],
    grade: NDArray[np.integer],
    item_features: NDArray[np.float32],
) -> TowerData:
    """Checks the arrays of `TowerData`, keeps the newest `POOLED_HISTORY` of each history, derives `log_q`.

    Raises:
        DataError: no positives, lengths that differ, item rows out of range, NaN in a feature.
    """
    n_items, problems = len(item_features), []
    lengths = {"user": len(user), "history": len(history), "item": len(item), "grade": len(grade)}
    if len(set(lengths.values())) > 1:
        problems.append(f"arrays differ in length: {lengths}")
    if not len(item):
        problems.append("there are no positives")
    elif item.min() < 0 or item.max() >= n_items:
        problems.append(f"item holds {item.min()} to {item.max()}, outside 0 to {n_items - 1}")
    if history.size and (history.min() < -1 or history.max() >= n_items):
        problems.append(f"history holds {history.min()} to {history.max()}, outside -1 to {n_items - 1}")
    if problems:
        raise DataError("the two-tower cannot be trained", problems)
    require_finite("the two-tower's user features", user)
    require_finite("the two-tower's item features", item_features)
    with np.errstate(divide="ignore"):
        log_q = np.log(np.bincount(item, minlength=n_items) / len(item)).astype(np.float32)
    return TowerData(
        user,
        np.ascontiguousarray(history[:, -POOLED_HISTORY:], dtype=np.int32),
        item.astype(np.int32),
        grade.astype(np.int8),
        item_features,
        log_q,
    )
