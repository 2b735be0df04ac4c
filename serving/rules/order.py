"""Orders of candidates: what a place is worth, and how few of a group stand near the top.

C candidates. Every order is a permutation of places: int64[C], the old place of the candidate at each new one.
"""

import math

import numpy as np
import numpy.typing as npt

from serving.core.candidates import Mask, Rows, Scores

Order = npt.NDArray[np.int64]
Levels = npt.NDArray[np.float64]


def levels(scores: Scores) -> Levels:
    """float64[C], falling: what each place is worth, the largest score for the first place and so on.

    Rules read places through this instead of a candidate's own score, so that what an earlier rule moved stays
    moved: a candidate is worth the place where it stands now.
    """
    values = scores.astype(np.float64)
    if (values[1:] > values[:-1]).any():
        values = np.sort(values)[::-1]
    return values


def deviation(values: Levels) -> float:
    """The standard deviation; 0 of none."""
    if not len(values):
        return 0.0
    centred = values - values.sum() / len(values)
    return math.sqrt(centred @ centred / len(values))


def standardised(values: Levels) -> Levels:
    """float64[C] with mean 0 and standard deviation 1; all 0 where the values are equal, or there are none."""
    spread = deviation(values)
    if spread <= np.finfo(np.float32).tiny:
        return np.zeros_like(values)
    result: Levels = (values - values.sum() / len(values)) / spread
    return result


def at_most(groups: Rows, limit: int, head: int) -> tuple[Order, Mask] | None:
    """An order with no more than `limit` of a group among the first `head`, as far as there are others.

    What is too much moves down to right behind the head; all else keeps its order.

    Args:
        groups: int32[C], in the order in which the candidates stand; -1 belongs to no group.

    Returns:
        The order, and bool[C] by old place: what was too much; None where nothing was.
    """
    ahead: list[int] = []
    excess: list[int] = []
    count: dict[int, int] = {}
    for place, group in enumerate(groups.tolist()):
        if len(ahead) == head:
            break
        met = count.get(group, 0) if group >= 0 else -1
        if met >= limit:
            excess.append(place)
        else:
            ahead.append(place)
            count[group] = met + 1
    if not excess:
        return None
    order = np.arange(len(groups))
    order[: len(ahead)] = ahead
    order[len(ahead) : len(ahead) + len(excess)] = excess
    too_much = np.zeros(len(groups), np.bool_)
    too_much[excess] = True
    return order, too_much


def lifted(order: Order) -> Mask:
    """bool[C] by new place: candidates that were put ahead of one which stood before them."""
    behind = np.minimum.accumulate(order[::-1])[::-1]
    return behind < order
