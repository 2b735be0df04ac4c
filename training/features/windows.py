"""Sums over sliding windows of days, kept up to date from one midnight to the next.

The sums at midnight t over the last w days are those of daily rows with `known_day < t` and `event_day >= t - w`.
Moving t by a day adds what became known and takes away what left the window, so a history of snapshots costs
one pass over the daily rows; integers make the result independent of where the history was begun.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.features.daily import NO_TIME_US, Daily

ALL_TIME = None


class SlidingSums:
    """Sums of the daily columns of E entities at one midnight, over several windows (None: all time)."""

    def __init__(self, daily: Daily, windows: Sequence[int | None], entities: int) -> None:
        self._daily = daily
        self.day: int | None = None
        shape = (entities, len(daily.columns))
        self._sums = {window: np.zeros(shape, np.int64) for window in windows}
        self._latest = np.full((entities, len(daily.latest_columns)), NO_TIME_US, np.int64)
        # inside one group every entity stands once, so that a plain indexed addition is right
        self._groups = _group_rows(daily)
        self._by_known: dict[int, list[int]] = {}
        self._by_event: dict[int, list[int]] = {}
        for known_day, event_day in self._groups:
            self._by_known.setdefault(known_day, []).append(event_day)
            self._by_event.setdefault(event_day, []).append(known_day)

    def move_to(self, day: int) -> None:
        """Puts the sums at the midnight that begins `day`; days can only go forward.

        Raises:
            ValueError: `day` is before the current one.
        """
        if self.day is not None and day < self.day:
            raise ValueError(f"cannot go back from day {self.day} to {day}")
        if self.day is None:
            known = sorted(k for k in self._by_known if k < day)
            for known_day in known:
                self._learn(known_day, day)
        else:
            for next_day in range(self.day + 1, day + 1):
                self._learn(next_day - 1, next_day)
                self._forget(next_day)
        self.day = day

    def sums(self, window: int | None, rows: npt.NDArray[np.integer]) -> dict[str, npt.NDArray[np.int64]]:
        """Each daily column summed over the window, int64[len(rows)] for these entities."""
        values = self._sums[window][rows]
        return {name: values[:, i] for i, name in enumerate(self._daily.columns)}

    def latest_us(self, name: str, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """The latest time of the named kind known so far, `NO_TIME_US` where there is none."""
        latest: npt.NDArray[np.int64] = self._latest[rows, self._daily.latest_columns.index(name)]
        return latest

    def _learn(self, known_day: int, midnight: int) -> None:
        daily = self._daily
        for event_day in self._by_known.get(known_day, ()):
            rows = self._groups[known_day, event_day]
            entity, values = daily.entity[rows], daily.values[rows]
            for window, sums in self._sums.items():
                if window is ALL_TIME or event_day >= midnight - window:
                    sums[entity] += values
            self._latest[entity] = np.maximum(self._latest[entity], daily.latest[rows])

    def _forget(self, midnight: int) -> None:
        daily = self._daily
        for window, sums in self._sums.items():
            if window is ALL_TIME:
                continue
            gone = midnight - 1 - window
            for known_day in self._by_event.get(gone, ()):
                if known_day < midnight - 1:
                    rows = self._groups[known_day, gone]
                    sums[daily.entity[rows]] -= daily.values[rows]


def _group_rows(daily: Daily) -> dict[tuple[int, int], npt.NDArray[np.int64]]:
    """Indices of the daily rows of each (known day, event day)."""
    order = np.lexsort((daily.event_day, daily.known_day)).astype(np.int64)
    known, event = daily.known_day[order], daily.event_day[order]
    starts = np.flatnonzero((np.diff(known) != 0) | (np.diff(event) != 0)) + 1
    groups = np.split(order, starts) if len(order) else []
    return {(int(daily.known_day[g[0]]), int(daily.event_day[g[0]])): g for g in groups}
