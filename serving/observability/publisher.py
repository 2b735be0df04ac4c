"""Takes what was recorded out of the process: a thread that hands it on, and the page of `GET /metrics`."""

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from serving.errors import DependencyError
from serving.observability.exposition import CONTENT_TYPE, render, restore
from serving.observability.metrics import Kind
from serving.observability.series import Registry, Series

log = logging.getLogger(__name__)


class Agent(Protocol):
    """What collects the metrics of a node's processes and shows them to Prometheus."""

    def send(self, values: Sequence[tuple[Series, float]]) -> None:
        """Takes what counters and histograms grew by, and what gauges stand at.

        Raises:
            DependencyError: nothing of it was taken.
        """
        ...

    def page(self) -> str:
        """The node's metrics in Prometheus' text format, under the agent's own names.

        Raises:
            DependencyError: the agent does not answer.
        """
        ...


class Publisher:
    """Sends a registry's growth to the node's agent; without an agent the process speaks for itself."""

    def __init__(self, registry: Registry, agent: Agent | None, flush_s: float) -> None:
        self._registry = registry
        self._agent = agent
        self._flush_s = flush_s
        self._sent: dict[Series, float] = {}
        self._sending = threading.Lock()
        self._stopped = threading.Event()
        self._failing = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Flushes every `flush_s` in a thread of its own; without an agent there is nothing to do."""
        if self._agent is not None and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread after one last flush."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.flush()

    def flush(self) -> bool:
        """Sends what has not been sent; whether the agent has it all. What was not taken goes with the next flush."""
        if self._agent is None:
            return False
        with self._sending:
            now = list(self._registry.samples())
            values = [(series, grown) for series, value in now if (grown := self._grown(series, value)) is not None]
            try:
                self._agent.send(values)
            except DependencyError as error:
                self._note_failure(error)
                return False
            self._sent.update((series, value) for series, value in now if series.metric.kind is not Kind.GAUGE)
            self._failing = False
            return True

    async def page(self) -> tuple[str, bytes]:
        """Content type and body of `GET /metrics`: the node's metrics, or this process's where there is no agent."""
        return CONTENT_TYPE, await asyncio.to_thread(self._page)

    def _page(self) -> bytes:
        if self._agent is not None and self.flush():
            try:
                return restore(self._agent.page()).encode()
            except DependencyError as error:
                self._note_failure(error)
        return render(self._registry.samples()).encode()

    def _run(self) -> None:
        while not self._stopped.wait(self._flush_s):
            self.flush()

    def _grown(self, series: Series, value: float) -> float | None:
        """What to send, None where nothing changed. A new series is sent at 0 too: quantiles need every bucket."""
        before = self._sent.get(series)
        if before is None:
            return value
        return value - before if value != before else None

    def _note_failure(self, error: DependencyError) -> None:
        if not self._failing:
            log.warning("metrics wait for the node's agent: %s", error)
        self._failing = True
