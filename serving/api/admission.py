"""Who is answered when: one request per pass of the event loop, and none that would come too late.

An inline answer holds the loop for about a millisecond, so requests queue as callbacks that nobody sees. Here they
queue in the open: a request that comes while another one is answered, or just after, waits for its turn, in order of
arrival, and between two turns the loop reads its sockets. So a client that has gone is seen before it costs an
answer, and what a newcomer would have to wait is the length of the queue times what a turn has taken lately.
"""

import asyncio
import time
from collections import deque
from typing import Protocol

from serving.api.lag import LoopLag
from serving.core.deadline import Deadline
from serving.errors import OverloadError

MAX_DEADLINE_MS = 600_000.0
SMOOTHING = 0.1
JITTER_MS = 10.0
"""A shorter wait is a timer's own inaccuracy, and refuses nobody."""
# A closed connection shows some passes of the loop after its last bytes: end of file, connection lost, told to the
# request's task. What was read right after an answer, while the loop was held, waits so long before it may begin.
SETTLING_PASSES = 3
REST_PASSES = 4


class Observer(Protocol):
    """Counts what admission does; `serving.observability.recorder.Recorder` is one."""

    def shed(self, app: str, reason: str) -> None: ...

    def cancelled(self, app: str) -> None: ...

    def loop_lag(self, seconds: float) -> None: ...


class NoObserver:
    """Counts nothing."""

    def shed(self, app: str, reason: str) -> None:
        """A request was refused because of too much work."""

    def cancelled(self, app: str) -> None:
        """A request's caller went away before it was answered."""

    def loop_lag(self, seconds: float) -> None:
        """The event loop came back to its timer this late."""


class Admission:
    """The queue in front of a dataplane. One per process, shared by its transports, used on one event loop."""

    def __init__(
        self,
        default_deadline_ms: float = 200.0,
        max_lag_ms: float = float("inf"),
        observer: Observer | None = None,
    ) -> None:
        """default_deadline_ms: for requests that set none.  max_lag_ms: a longer wait is refused whatever it is."""
        self.default_deadline_ms = default_deadline_ms
        self.observer: Observer = observer or NoObserver()
        self.lag = LoopLag(self.observer.loop_lag)
        self._max_lag_ms = max_lag_ms
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._length = 0  # without those in `_waiting` that gave up
        self._is_taken = False
        self._pass = 0
        self._rest = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn_ms = 1.0
        self._last_turn_s = 0.0

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self._waiting)

    def enter(self, app: str, budget_ms: float | None = None) -> Deadline:
        """The deadline of a request that arrives now; what it waited unseen is already spent.

        Raises:
            OverloadError: its turn would come after its deadline, or after `max_lag_ms`.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind(loop)
        if budget_ms is None:
            budget_ms = self.default_deadline_ms
        spent_ms = self.lag.spent_ms()
        expected_ms = spent_ms + self._length * self._turn_ms
        if expected_ms > JITTER_MS and expected_ms >= min(budget_ms, self._max_lag_ms):
            self.observer.shed(app, "queue")
            raise OverloadError("its turn would come too late")
        return Deadline.after_ms(budget_ms, spent_ms)

    async def turn(self, app: str, deadline: Deadline) -> bool:
        """Waits for this request's turn; whether it had to wait. Without a queue it does not suspend.

        Raises:
            OverloadError: the deadline passed while it waited.
        """
        if not self._is_taken:
            self._is_taken = True
            self._rest = REST_PASSES
            asyncio.get_running_loop().call_soon(self._next_pass)
            return False
        mine = asyncio.get_running_loop().create_future()
        self._waiting.append((self._pass, mine))
        self._length += 1
        try:
            await mine
        except asyncio.CancelledError:
            self._length -= mine.cancelled()
            self.observer.cancelled(app)
            raise
        if deadline.remaining_ms() <= 0:
            self.observer.shed(app, "deadline")
            raise OverloadError("its deadline passed in the queue")
        return True

    def _next_pass(self) -> None:
        self._pass += 1
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        if self._waiting:
            since, first = self._waiting[0]
            if self._pass - since >= SETTLING_PASSES:
                self._waiting.popleft()
                self._length -= 1
                first.set_result(None)
                self._rest = REST_PASSES
                self._learn(time.monotonic())
        elif self._rest > 0:
            self._rest -= 1
            self._last_turn_s = 0.0
        else:
            self._is_taken = False
            return
        asyncio.get_running_loop().call_soon(self._next_pass)

    def _learn(self, now_s: float) -> None:
        if self._last_turn_s:
            self._turn_ms += SMOOTHING * ((now_s - self._last_turn_s) * 1000 - self._turn_ms)
        self._last_turn_s = now_s

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting.clear()
        self._length = 0
        self._is_taken = False
        self.lag.start(loop)
