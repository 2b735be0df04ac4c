"""A load generator for HTTP/1.1 that costs little beside what it measures: one thread, kept-alive plain sockets.

A closed loop keeps every connection busy: the next request goes out when the answer to the last one is there. An
open loop sends at a fixed rate whatever the server does, and counts an answer's time from when its request was due,
so that a stall is felt by every request that it holds up (no coordinated omission).
"""

import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from serving.errors import ConfigError, DependencyError

CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 30.0
RECEIVE_BYTES = 1 << 18
CLOSED, LATE = "closed", "late"
"""What becomes of a request without an answer: its connection was closed, or it took more than the timeout."""


@dataclass(frozen=True)
class Endpoint:
    """Where requests go."""

    host: str
    port: int
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, url: str, path: str, headers: Mapping[str, str] | None = None) -> "Endpoint":
        """The endpoint `path` of a server.

        Raises:
            ConfigError: the URL is not one of plain HTTP with a host.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or 80
        except ValueError as error:
            raise ConfigError("the address cannot be used", [f"{url}: {error}"]) from None
        if parts.scheme != "http" or not host:
            raise ConfigError("the address cannot be used", [f"{url}: http://HOST:PORT is expected"])
        return cls(host, port, parts.path.rstrip("/") + path, dict(headers or {}))

    def post(self, body: bytes) -> bytes:
        """The whole of a POST request with a JSON body."""
        return self._head("POST", {"content-type": "application/json", "content-length": str(len(body))}) + body

    def get(self) -> bytes:
        """The whole of a GET request."""
        return self._head("GET", {})

    def _head(self, method: str, more: Mapping[str, str]) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        headers = {"host": f"{host}:{self.port}", "accept": "*/*", **self.headers, **more}
        lines = [f"{method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@dataclass
class Load:
    """What came of a run.

    `ms` and `at_s` hold, for each answered request, how long it took and when it was due, counted from the start;
    `outcomes` counts HTTP statuses and what became of requests without an answer. `started_s` is the start on the
    clock of `time.perf_counter`.
    """

    ms: list[float] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    started_s: float = 0.0

    @property
    def failed(self) -> int:
        """Requests without a 2xx answer."""
        return sum(count for outcome, count in self.outcomes.items() if not outcome.startswith("2"))

    @property
    def per_second(self) -> float:
        """Answers of status 2xx a second."""
        good = sum(self.outcomes.values()) - self.failed
        return good / self.seconds if self.seconds else 0.0

    def quantile(self, share: float, since_s: float = 0.0, until_s: float = float("inf")) -> float:
        """Milliseconds within which this share of the answers came, of requests due in the window; NaN for none."""
        times: npt.NDArray[np.float64] = np.array(self.ms)
        due: npt.NDArray[np.float64] = np.array(self.at_s)
        chosen = times[(due >= since_s) & (due < until_s)] if len(times) else times
        return float(np.quantile(chosen, share)) if len(chosen) else float("nan")


def closed_loop(endpoint: Endpoint, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Keeps `connections` requests under way for some seconds; the given requests take turns.

    Raises:
        DependencyError: nobody listens there.
    """
    return _Generator(endpoint, requests).run(connections, seconds, None)


def open_loop(endpoint: Endpoint, requests: Sequence[bytes], connections: int, seconds: float, rate: float) -> Load:
    """Sends `rate` requests a second for some seconds over at most `connections` connections.

    Raises:
        DependencyError: nobody listens there.
    """
    return _Generator(endpoint, requests).run(connections, seconds, rate)


class _Connection:
    __slots__ = ("due_s", "received", "socket")

    def __init__(self, endpoint: Endpoint) -> None:
        self.socket = socket.create_connection((endpoint.host, endpoint.port), CONNECT_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.due_s: float | None = None
        """When the request under way was due; None where there is none."""

    def receive(self) -> int | None:
        """The status once the whole answer is here, None before.

        Raises:
            OSError: the connection is closed.
        """
        piece = self.socket.recv(RECEIVE_BYTES)
        if not piece:
            raise ConnectionResetError("closed by the server")
        self.received = self.received + piece if self.received else piece
        end = self.received.find(b"\r\n\r\n")
        if end < 0 or len(self.received) < _length(self.received, end):
            return None
        status = int(self.received[9:12])
        self.received = b""
        return status


class _Generator:
    """One run."""

    def __init__(self, endpoint: Endpoint, requests: Sequence[bytes]) -> None:
        self._endpoint = endpoint
        self._requests: Iterator[bytes] = cycle(requests)
        self._selector = selectors.DefaultSelector()
        self._open: list[_Connection] = []
        self._idle: deque[_Connection] = deque()
        self._load = Load()
        self._started_s = 0.0

    def run(self, connections: int, seconds: float, rate: float | None) -> Load:
        try:
            for _ in range(connections):
                self._connect()
            self._started_s = self._load.started_s = time.perf_counter()
            self._drive(self._started_s + seconds, rate)
        except OSError as error:
            raise DependencyError(f"{self._endpoint.host}:{self._endpoint.port}: {error}") from error
        finally:
            for connection in self._open:
                connection.socket.close()
            self._selector.close()
        self._load.seconds = time.perf_counter() - self._started_s
        return self._load

    def _drive(self, end_s: float, rate: float | None) -> None:
        sent, every_s = 0, 0.0 if rate is None else 1 / rate
        while True:
            now_s = time.perf_counter()
            due_s = now_s if rate is None else self._started_s + sent * every_s
            while self._idle and due_s <= now_s and due_s < end_s:
                self._send(self._idle.popleft(), due_s)
                sent += 1
                due_s = now_s if rate is None else self._started_s + sent * every_s
            under_way = len(self._open) - len(self._idle)
            if now_s >= end_s and not under_way:
                return
            wait_s = min(1.0, max(0.0, due_s - now_s)) if self._idle and due_s < end_s else 1.0
            for key, _ in self._selector.select(wait_s):
                self._receive(key.data)
            self._give_up_late()

    def _send(self, connection: _Connection, due_s: float) -> None:
        connection.due_s = due_s
        try:
            connection.socket.sendall(next(self._requests))
        except OSError:
            self._lose(connection, CLOSED)

    def _receive(self, connection: _Connection) -> None:
        try:
            status = connection.receive()
        except (OSError, ValueError):
            self._lose(connection, CLOSED)
            return
        if status is None or connection.due_s is None:
            return
        self._load.ms.append((time.perf_counter() - connection.due_s) * 1000)
        self._load.at_s.append(connection.due_s - self._started_s)
        self._load.outcomes[str(status)] += 1
        connection.due_s = None
        self._idle.append(connection)

    def _give_up_late(self) -> None:
        limit_s = time.perf_counter() - REQUEST_TIMEOUT_S
        for connection in [c for c in self._open if c.due_s is not None and c.due_s < limit_s]:
            self._lose(connection, LATE)

    def _lose(self, connection: _Connection, outcome: str) -> None:
        """Counts the request under way, if any, and puts a new connection in this one's place."""
        if connection.due_s is not None:
            self._load.outcomes[outcome] += 1
        elif connection in self._idle:
            self._idle.remove(connection)
        self._selector.unregister(connection.socket)
        self._open.remove(connection)
        connection.socket.close()
        self._connect()

    def _connect(self) -> None:
        connection = _Connection(self._endpoint)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._open.append(connection)
        self._idle.append(connection)


def _length(received: bytes, end: int) -> int:
    """Bytes of the whole answer whose head ends at `end`."""
    for line in received[:end].lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return end + 4 + int(line[15:])
        if line.startswith(b"transfer-encoding:"):
            return len(received) + (not received.endswith(b"0\r\n\r\n"))
    return end + 4
