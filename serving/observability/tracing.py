"""OpenTelemetry traces: which requests are traced, and one thread that posts their spans after the answer is out.

OTLP over HTTP: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

import http.client
import logging
import queue
import random
import re
import secrets
import threading
import time
import urllib.request
from collections.abc import Callable

from serving.core.trace import Trace
from serving.observability.recorder import Outcome
from serving.observability.settings import TracingSettings
from serving.observability.spans import TraceContext, Traced, export_request

MAX_WAITING = 1000
BATCH = 100
TIMEOUT_S = 5.0
SPAN = "span"
# https://www.w3.org/TR/trace-context/#traceparent-header; later versions may append fields.
_TRACEPARENT = re.compile(
    r"(?!ff|00-.{53})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
log = logging.getLogger(__name__)


class Tracer:
    """Decides which requests are traced, and sends their spans off the path of requests."""

    def __init__(self, settings: TracingSettings, dropped: Callable[[str, int], None] = lambda effect, count: None):
        """dropped: told `span` and how many requests' spans were lost, the queue full or the collector away."""
        self._settings = settings
        self._dropped = dropped
        self._waiting: queue.Queue[Traced | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None
        self._failing = False

    def start(self) -> None:
        """Begins to send."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends after what is waiting has been sent."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def sampled(self, traceparent: str | None) -> TraceContext | None:
        """The trace of a request that is to be traced, else None: the caller's decision, or chance where it made none.

        A malformed `traceparent` is one that is not there, as W3C Trace Context says.
        """
        found = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
        if found is not None:
            wanted = int(found[3], 16) & 1
            return TraceContext(bytes.fromhex(found[1]), bytes.fromhex(found[2])) if wanted else None
        if random.random() >= self._settings.sample:
            return None
        return TraceContext(secrets.token_bytes(16), b"")

    def record(
        self,
        context: TraceContext,
        app: str,
        transport: str,
        outcome: Outcome,
        trace: Trace | None,
        prediction_id: str = "",
        bundle: str = "",
    ) -> None:
        """Hands over a request that has just been answered; drops and counts it where too many wait."""
        traced = Traced(context, app, transport, outcome, trace, prediction_id, bundle, time.time_ns())
        try:
            self._waiting.put_nowait(traced)
        except queue.Full:
            self._dropped(SPAN, 1)

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, ends = [first], False
            while len(batch) < BATCH and not ends:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                ends = following is None
                if following is not None:
                    batch.append(following)
            self._send(batch)
            if ends:
                return

    def _send(self, batch: list[Traced]) -> None:
        request = urllib.request.Request(
            self._settings.endpoint,
            export_request(batch, self._settings.service).SerializeToString(),
            {"content-type": "application/x-protobuf"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                self._failing = False
        except (OSError, http.client.HTTPException) as error:
            if not self._failing:
                log.warning("spans are dropped, the collector does not take them: %s", error)
            self._failing = True
            self._dropped(SPAN, len(batch))
