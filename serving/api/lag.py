"""How late the event loop is: what a request may have waited before anything of ours saw it."""

import asyncio
import time
from collections.abc import Callable

INTERVAL_S = 0.01


class LoopLag:
    """A timer on the running loop, every 10 ms; how late it fires is how long the loop was held."""

    def __init__(self, observe: Callable[[float], None] | None = None) -> None:
        """observe: told each lag in seconds."""
        self._observe = observe
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._last_s = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to watch `loop`, in its own thread; what was known of another loop is forgotten."""
        self.stop()
        self._last_s = 0.0
        self._schedule(loop)

    def stop(self) -> None:
        """Ends the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def spent_ms(self) -> float:
        """What a request that is seen now may have waited: the last lag, or the one that is under way."""
        if self._timer is None:
            return 0.0
        return max(self._last_s, time.monotonic() - self._due_s, 0.0) * 1000

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_s = time.monotonic() + INTERVAL_S
        self._timer = loop.call_later(INTERVAL_S, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._last_s = max(0.0, time.monotonic() - self._due_s)
        if self._observe is not None:
            self._observe(self._last_s)
        self._schedule(loop)
