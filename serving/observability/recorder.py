"""Records what happened to requests: one call per answer, some microseconds, no I/O."""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from serving.core.trace import Kind, StageTrace, Trace
from serving.observability import metrics
from serving.observability.series import Distribution, Number, Registry


class Outcome(NamedTuple):
    """How one request ended.

    status: HTTP status or gRPC code, as the transport said it.
    seconds: from its arrival to its answer.
    served_by, arm: empty where no list was made.
    fell_back: an earlier link of the chain could not answer, so `served_by` did.
    """

    status: str
    seconds: float
    served_by: str = ""
    arm: str = ""
    items: int = 0
    degraded: Sequence[str] = ()
    fell_back: bool = False
    explored: bool = False


class _Stage:
    """The series of one stage, found once."""

    __slots__ = ("found", "kind", "latency", "removed")

    def __init__(self, kind: Kind, latency: Distribution, found: Number | None) -> None:
        self.kind = kind
        self.latency = latency
        self.found = found
        self.removed: dict[str, Number] = {}


class Recorder:
    """Counts into a registry; every method may be called from any thread."""

    def __init__(self, registry: Registry | None = None) -> None:
        self.registry = registry or Registry()
        self._lock = threading.Lock()
        self._stages: dict[str, dict[str, _Stage]] = {}
        self._requests: dict[tuple[str, ...], Number] = {}
        self._latencies: dict[tuple[str, ...], Distribution] = {}
        self._loop_lag = self.registry.distribution(metrics.LOOP_LAG)

    def observe(self, app: str, transport: str, outcome: Outcome, trace: Trace | None = None) -> None:
        """Counts one answered request with everything that its trace holds; an error may have no trace."""
        with self._lock:
            self._count_request(app, transport, outcome)
            if trace is not None:
                self._count_stages(app, trace)

    def store_read(self, store: str, seconds: float, error: str | None = None) -> None:
        """Counts one read of a store; `error` is the kind of failure."""
        with self._lock:
            self.registry.distribution(metrics.STORE_READ_LATENCY, store).observe(seconds)
            if error is not None:
                self.registry.number(metrics.STORE_ERRORS, store, error).add()

    def list_age(self, app: str, seconds: float) -> None:
        """Counts the age of a precomputed list that was read for an answer."""
        with self._lock:
            self.registry.distribution(metrics.PRECOMPUTED_AGE, app).observe(seconds)

    def missing(self, app: str, view: str, values: int) -> None:
        """Counts feature values that a default stood in for."""
        self._add(metrics.MISSING_FEATURES, app, view, amount=values)

    def shed(self, app: str, reason: str) -> None:
        """Counts a request refused because of too much work."""
        self._add(metrics.SHED, app, reason)

    def cancelled(self, app: str) -> None:
        """Counts a request whose caller went away."""
        self._add(metrics.CANCELLED, app)

    def dropped(self, effect: str, count: int = 1) -> None:
        """Counts side effects that found their queue full."""
        self._add(metrics.DROPPED, effect, amount=count)

    def loop_lag(self, seconds: float) -> None:
        """Counts how late the event loop came back."""
        with self._lock:
            self._loop_lag.observe(seconds)

    def set(self, metric: metrics.Metric, *labels: str, value: float) -> None:
        """Sets a gauge."""
        self.registry.number(metric, *labels).value = value

    def watch(self, metric: metrics.Metric, *labels: str, read: Callable[[], float | None]) -> None:
        """Has a gauge read whenever metrics are exported, in the exporter's thread; None leaves it out."""
        self.registry.watch(metric, *labels, read=read)

    def forget(self, metric: metrics.Metric, *labels: str) -> None:
        """Ends a gauge's series."""
        self.registry.forget(metric, *labels)

    def _add(self, metric: metrics.Metric, *labels: str, amount: float = 1) -> None:
        with self._lock:
            self.registry.number(metric, *labels).add(amount)

    def _count_request(self, app: str, transport: str, outcome: Outcome) -> None:
        status, seconds, served_by, arm, items, degraded, fell_back, explored = outcome
        key = (app, transport, status, served_by, arm)
        requests = self._requests.get(key)
        if requests is None:
            requests = self._requests[key] = self.registry.number(metrics.REQUESTS, *map(str, key))
        requests.value += 1
        where = (app, transport, arm)
        latency = self._latencies.get(where)
        if latency is None:
            latency = self._latencies[where] = self.registry.distribution(metrics.REQUEST_LATENCY, *map(str, where))
        latency.observe(seconds)
        for reason in degraded:
            self.registry.number(metrics.DEGRADED, app, str(reason)).add()
        if fell_back:
            self.registry.number(metrics.FALLBACKS, app, str(served_by)).add()
        if served_by and not items:
            self.registry.number(metrics.EMPTY, app, str(arm)).add()
        if explored:
            self.registry.number(metrics.EXPLORED, app, str(arm)).add()

    def _count_stages(self, app: str, trace: Trace) -> None:
        known = self._stages.get(app)
        if known is None:
            known = self._stages[app] = {}
        for stage in trace.stages:
            series = known.get(stage.stage)
            if series is None or series.kind is not stage.kind:
                series = self._stage(app, stage)
                known[stage.stage] = series
            series.latency.observe(stage.ms / 1000)
            if series.found is not None:
                series.found.value += stage.count_out
            if stage.removed:
                self._count_removed(app, series, stage)
            if stage.failure is not None:
                self.registry.number(metrics.STAGE_FAILURES, app, stage.stage, stage.failure).add()
        if trace.unscored:
            self.registry.number(metrics.UNSCORED, app).add(trace.unscored)

    def _stage(self, app: str, stage: StageTrace) -> _Stage:
        latency = self.registry.distribution(metrics.STAGE_LATENCY, app, stage.stage, stage.kind.value)
        found = None
        if stage.kind is Kind.SOURCE:
            found = self.registry.number(metrics.SOURCE_CANDIDATES, app, stage.stage)
        return _Stage(stage.kind, latency, found)

    def _count_removed(self, app: str, series: _Stage, stage: StageTrace) -> None:
        for reason, count in stage.removed.items():
            removed = series.removed.get(reason)
            if removed is None:
                removed = self.registry.number(metrics.REMOVED, app, stage.stage, reason)
                series.removed[reason] = removed
            removed.value += count
