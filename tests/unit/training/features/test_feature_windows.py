import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.features.daily import NO_TIME_US, Daily
from training.features.windows import SlidingSums

ENTITIES = 3
WINDOWS = (1, 3, 7, None)

rows = st.lists(
    st.tuples(st.integers(0, ENTITIES - 1), st.integers(100, 112), st.integers(0, 4), st.integers(0, 9)),
    max_size=30,
)


def make_daily(rows: list[tuple[int, int, int, int]]) -> Daily:
    merged: dict[tuple[int, int, int], int] = {}
    for entity, event_day, late, value in rows:
        merged[event_day + late, event_day, entity] = value
    keys = np.array(sorted(merged), np.int32).reshape(-1, 3)
    values = np.array([merged[k] for k in sorted(merged)], np.int32).reshape(-1, 1)
    latest = np.array([[int(k[1]) * 10] for k in keys], np.int64).reshape(-1, 1)
    return Daily(["a", "b", "c"], ("n",), ("last_us",), keys[:, 2], keys[:, 1], keys[:, 0], values, latest)


def by_definition(daily: Daily, day: int, window: int | None) -> npt.NDArray[np.int64]:
    inside = (daily.known_day < day) & ((window is None) | (daily.event_day >= day - (window or 0)))
    return np.bincount(daily.entity[inside], daily.values[inside, 0], ENTITIES).astype(np.int64)


@given(rows, st.lists(st.integers(98, 125), min_size=1, max_size=6).map(sorted))
@settings(deadline=None, max_examples=200)
def test_sums_are_those_of_the_definition_wherever_the_walk_began(
    rows: list[tuple[int, int, int, int]], days: list[int]
) -> None:
    daily = make_daily(rows)
    everyone = np.arange(ENTITIES)
    sliding = SlidingSums(daily, WINDOWS, ENTITIES)

    for day in days:
        sliding.move_to(day)
        for window in WINDOWS:
            assert sliding.sums(window, everyone)["n"].tolist() == by_definition(daily, day, window).tolist()
        known = daily.known_day < day
        latest = [max(daily.latest[known & (daily.entity == e), 0], default=NO_TIME_US) for e in everyone]
        assert sliding.latest_us("last_us", everyone).tolist() == latest


def test_days_only_go_forward() -> None:
    sliding = SlidingSums(make_daily([]), WINDOWS, ENTITIES)
    sliding.move_to(105)

    with pytest.raises(ValueError, match="from day 105 to 104"):
        sliding.move_to(104)
