"""Ends ONNX runs that outlive their deadline: native code cannot be interrupted from outside.

One daemon thread per process looks every few milliseconds at the runs in progress and tells the late ones to
terminate; the runtime looks at that flag between two operators of the graph. While nothing runs for a second the
thread sleeps, so that an idle replica is idle, and so that a busy one never pays for waking it.
"""

import threading
import time
from typing import Any

POLL_S = 0.005
LINGER_S = 1.0


class Watchdog:
    """Holds runs against their deadlines; `enter` and `leave` take no lock."""

    def __init__(self) -> None:
        self._running: dict[int, tuple[float, Any]] = {}
        self.is_asleep = True
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def enter(self, at_s: float, options: Any) -> int:
        """Sets `options.terminate` once the monotonic clock is past `at_s`; returns the key for `leave`."""
        key = id(options)
        self._running[key] = at_s, options
        # after the entry: the thread says that it sleeps before it looks for entries a last time
        if self.is_asleep:
            self._rouse()
        return key

    def leave(self, key: int) -> None:
        """The run is over."""
        del self._running[key]

    def _rouse(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="onnx-watchdog", daemon=True)
                self._thread.start()
            self.is_asleep = False
            self._wake.set()

    def _watch(self) -> None:
        quiet_since_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            if self._running:
                quiet_since_s = now_s
            elif now_s - quiet_since_s > LINGER_S:
                self._sleep()
                quiet_since_s = now_s = time.monotonic()
            for at_s, options in self._running.copy().values():
                if now_s >= at_s:
                    options.terminate = True
            time.sleep(POLL_S)

    def _sleep(self) -> None:
        self._wake.clear()
        self.is_asleep = True
        if not self._running:
            self._wake.wait()
        self.is_asleep = False


WATCHDOG = Watchdog()
"""The process's own."""
