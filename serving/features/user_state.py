"""What the online store knows about one user: the daily statistics and the fresh history."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


def _no_times() -> npt.NDArray[np.int64]:
    return np.empty(0, np.int64)


def _no_grades() -> npt.NDArray[np.float32]:
    return np.empty(0, np.float32)


@dataclass
class UserState:
    """One user's rows; a user without history has empty arrays and `stats` None.

    `stats` is float32[Du] as stored (NaN where missing), stamped `stats_time_us`. `history_items` lists ids oldest
    first, one entry per item, with `history_times_us` int64[L] and `history_grades` float32[L] in 1..3 beside it.
    `seen` is every item ever played, completed or rated, sorted. `shown_items` were shown at least twice in the last
    30 days without any reaction since, most shown first, with `shown_counts` float32 beside them.
    """

    user_id: str
    stats: npt.NDArray[np.float32] | None = None
    stats_time_us: int | None = None
    history_items: list[str] = field(default_factory=list)
    history_times_us: npt.NDArray[np.int64] = field(default_factory=_no_times)
    history_grades: npt.NDArray[np.float32] = field(default_factory=_no_grades)
    seen: list[str] = field(default_factory=list)
    shown_items: list[str] = field(default_factory=list)
    shown_counts: npt.NDArray[np.float32] = field(default_factory=_no_grades)


def certain_age_years(by_year_of_birth: float) -> float:
    """The age that someone has surely reached, of whom the year of birth is known: the birthday may be ahead."""
    return max(by_year_of_birth - 1, 0.0)
