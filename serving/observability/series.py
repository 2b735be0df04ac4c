"""Metrics accumulated in this process: plain numbers behind labels, cheap enough for the path of a request.

Values only ever grow (gauges aside) and are never reset, so whoever exports them keeps what it sent last and needs no
agreement with the writer. A series is written under its owner's lock or by one thread; readers take no lock, and may
see one observation in a histogram's buckets a moment before they see it in its sum.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from serving.observability.metrics import Metric

MAX_SERIES = 1000
OVERFLOW = "other"
Labels = tuple[str, ...]
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, slots=True)
class Series:
    """One exported line: `name` is the metric's with the suffix of a histogram's part. Equal to itself only."""

    metric: Metric
    name: str
    labels: tuple[tuple[str, str], ...]


class Number:
    """A counter's or a gauge's current value."""

    __slots__ = ("series", "value")

    def __init__(self, metric: Metric, labels: Labels) -> None:
        self.series = Series(metric, metric.name, _pairs(metric, labels))
        self.value = 0.0

    def add(self, amount: float = 1) -> None:
        """Adds to it."""
        self.value += amount


class Distribution:
    """A histogram's counts per bucket (not cumulative, the last one is +Inf) and the sum of what was observed."""

    __slots__ = ("bounds", "counts", "series", "total")

    def __init__(self, metric: Metric, labels: Labels) -> None:
        """The metric's buckets are the upper bounds; a value equal to a bound is inside it."""
        pairs = _pairs(metric, labels)
        bounds = [bucket_label(bound) for bound in (*metric.buckets, float("inf"))]
        buckets = [Series(metric, f"{metric.name}_bucket", (*pairs, ("le", bound))) for bound in bounds]
        ends = [Series(metric, f"{metric.name}_{part}", pairs) for part in ("sum", "count")]
        self.series = (*buckets, *ends)
        self.bounds = metric.buckets
        self.counts = [0] * len(buckets)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts one finite value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def values(self) -> list[float]:
        """What each of `series` stands at."""
        total = self.total
        buckets = list(accumulate(self.counts))
        return [*buckets, total, buckets[-1]]


class _Watched:
    """A gauge that is asked for its value."""

    def __init__(self, series: Series, read: Callable[[], float | None]) -> None:
        self.series = series
        self._read = read
        self._is_broken = False

    def value(self) -> float | None:
        # One gauge's bug must not take all metrics with it.
        try:
            return self._read()
        except Exception:
            if not self._is_broken:
                log.exception("%s cannot be read", self.series.name)
            self._is_broken = True
            return None


S = TypeVar("S", Number, Distribution)


class Registry:
    """All series of this process, by metric and label values."""

    def __init__(self, max_series: int = MAX_SERIES) -> None:
        """max_series: label sets that one metric may have; what comes after is counted under `other`."""
        self._max_series = max_series
        self._numbers: dict[Metric, dict[Labels, Number]] = {}
        self._distributions: dict[Metric, dict[Labels, Distribution]] = {}
        self._watched: dict[tuple[Metric, Labels], _Watched] = {}

    def number(self, metric: Metric, *labels: str) -> Number:
        """The series of a counter or gauge; the same object for the same labels.

        Raises:
            ValueError: the labels are not as many as the metric's.
        """
        return self._find(self._numbers, Number, metric, labels)

    def distribution(self, metric: Metric, *labels: str) -> Distribution:
        """The series of a histogram; the same object for the same labels.

        Raises:
            ValueError: the labels are not as many as the metric's.
        """
        return self._find(self._distributions, Distribution, metric, labels)

    def watch(self, metric: Metric, *labels: str, read: Callable[[], float | None]) -> None:
        """Asks for a gauge's value when it is exported, in the exporter's thread.

        None is not exported; nor is an exception, which is logged once.

        Raises:
            ValueError: the labels are not as many as the metric's.
        """
        self._watched[metric, labels] = _Watched(Series(metric, metric.name, _pairs(metric, labels)), read)

    def forget(self, metric: Metric, *labels: str) -> None:
        """Ends a gauge's series; one that does not exist is fine."""
        self._watched.pop((metric, labels), None)
        self._numbers.get(metric, {}).pop(labels, None)

    def samples(self) -> Iterator[tuple[Series, float]]:
        """Every series and its value as of now, metric by metric."""
        for watched in list(self._watched.values()):
            value = watched.value()
            if value is not None:
                yield watched.series, value
        for numbers in list(self._numbers.values()):
            for number in list(numbers.values()):
                yield number.series, number.value
        for distributions in list(self._distributions.values()):
            for distribution in list(distributions.values()):
                yield from zip(distribution.series, distribution.values(), strict=True)

    def _find(self, kept: dict[Metric, dict[Labels, S]], kind: type[S], metric: Metric, labels: Labels) -> S:
        of_metric = kept.get(metric)
        if of_metric is None:
            of_metric = kept.setdefault(metric, {})
        found = of_metric.get(labels)
        if found is not None:
            return found
        new = kind(metric, labels)
        if len(of_metric) >= self._max_series:
            labels = (OVERFLOW,) * len(labels)
            new = kind(metric, labels)
        return of_metric.setdefault(labels, new)


def bucket_label(bound: float) -> str:
    """The value of `le` for an upper bound."""
    return "+Inf" if bound == float("inf") else repr(float(bound))


def _pairs(metric: Metric, labels: Labels) -> tuple[tuple[str, str], ...]:
    if len(labels) != len(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, given {labels}")
    return tuple(zip(metric.labels, labels, strict=True))
