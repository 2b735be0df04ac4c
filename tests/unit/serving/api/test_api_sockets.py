"""The surface on a real server with real sockets: what only shows there."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from http_world import Counts, FakeDataplane

from serving.api.admission import Admission
from serving.api.http import create_http

TIMEOUT_S = 20


class Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


@contextmanager
def served(app: object, loop: str = "asyncio") -> Iterator[int]:
    """The port of a server in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(uvicorn.Config(app, loop=loop, log_level="critical", timeout_graceful_shutdown=5))
        thread = threading.Thread(target=lambda: server.run([listener]), daemon=True)
        thread.start()
        assert server.is_up.wait(TIMEOUT_S)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(TIMEOUT_S)


def connected(port: int) -> socket.socket:
    """A connection that the server knows."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    while not connection.recv(4096).endswith(b"}"):
        pass
    return connection


def post(connection: socket.socket, user_id: str) -> socket.socket:
    """The connection with one request on its way."""
    return _post(connection, "/v1/recommend", {"user_id": user_id, "k": 1})


def send(port: int, user_id: str) -> socket.socket:
    """A new connection with one request on its way."""
    return post(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S), user_id)


def send_batch(port: int, user_ids: list[str]) -> socket.socket:
    """A new connection with a batch on its way."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    return _post(connection, "/v1/recommend/batch", {"requests": [{"user_id": user_id} for user_id in user_ids]})


def _post(connection: socket.socket, path: str, document: object) -> socket.socket:
    body = json.dumps(document).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def status_of(connection: socket.socket) -> int:
    """The status of the next answer."""
    received = b""
    while b"\r\n" not in received:
        chunk = connection.recv(4096)
        assert chunk, received
        received += chunk
    return int(received.split()[1])


class Held(FakeDataplane):
    """Holds the loop in its first answer until it is let go."""

    def __init__(self) -> None:
        super().__init__(self._hold)
        self.is_held = threading.Event()
        self.may_go = threading.Event()

    def _hold(self, query: object) -> None:
        if not self.is_held.is_set():
            self.is_held.set()
            assert self.may_go.wait(TIMEOUT_S)

    @property
    def users(self) -> list[str | None]:
        return [query.user_id for query, _, _ in self.asked]


def through_a_queue(app: Any) -> Any:
    """The application with its messages handed on by a task of their own, as Ray Serve does it."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        messages: asyncio.Queue[Any] = asyncio.Queue()

        async def fetch() -> None:
            message = {"type": "http.request"}
            while message["type"] == "http.request":
                message = await receive()
                await messages.put(message)

        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        fetching = asyncio.create_task(fetch())
        await app(scope, messages.get, send)
        fetching.cancel()

    return wrapped


@pytest.mark.parametrize("wrap", [lambda app: app, through_a_queue], ids=["direct", "queue"])
@pytest.mark.parametrize("order", ["patient before", "patient behind"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_that_left_before_its_turn_costs_nothing(loop, order, wrap):
    dataplane, counts = Held(), Counts()
    app = create_http(dataplane, admission=Admission(600_000.0, observer=counts))
    with served(wrap(app), loop) as port:
        impatient = [connected(port) for _ in range(5)]
        patient = connected(port)
        waiting = [send(port, "first"), patient]
        assert dataplane.is_held.wait(TIMEOUT_S)
        if order == "patient before":
            post(patient, "patient")
        for connection in impatient:
            post(connection, "gone").close()
        if order == "patient behind":
            post(patient, "patient")
        dataplane.may_go.set()
        assert [status_of(connection) for connection in waiting] == [200] * 2
        waiting.append(send(port, "last"))
        assert status_of(waiting[-1]) == 200
        for connection in waiting:
            connection.close()
    assert dataplane.users == ["first", "patient", "last"]
    assert counts.seen["cancelled recommend"] == 5


def test_a_batch_ends_where_its_client_leaves():
    dataplane, counts = Held(), Counts()
    app = create_http(dataplane, admission=Admission(600_000.0, observer=counts))
    with served(app) as port:
        send_batch(port, [f"u{i}" for i in range(50)]).close()
        assert dataplane.is_held.wait(TIMEOUT_S)
        dataplane.may_go.set()
        with send(port, "last") as last:
            assert status_of(last) == 200
    assert len(dataplane.asked) < 10
    assert counts.seen["cancelled recommend"] == 1


def test_a_body_of_100_mb_is_refused_before_any_of_it_is_sent():
    dataplane = FakeDataplane()
    with served(create_http(dataplane)) as port, socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        head = "POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 100000000\r\n\r\n".encode())
        assert status_of(connection) == 413


def test_a_body_without_an_announced_end_is_refused_at_the_limit():
    with (
        served(create_http(FakeDataplane(), max_body_bytes=10_000)) as port,
        socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection,
    ):
        head = "POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(3):
            connection.sendall(b"fa0\r\n" + b" " * 4000 + b"\r\n")
        assert status_of(connection) == 413


def test_a_client_that_leaves_in_the_middle_of_its_body_is_counted_and_asks_nothing():
    dataplane, counts = FakeDataplane(), Counts()
    with served(create_http(dataplane, admission=Admission(observer=counts))) as port:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as half:
            head = b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n"
            half.sendall(head + b"\r\n{")
        while not counts.seen["cancelled recommend"]:
            with send(port, "after") as after:
                assert status_of(after) == 200
    assert set(dataplane.asked and [query.user_id for query, _, _ in dataplane.asked]) <= {"after"}


def test_what_was_begun_is_finished_when_the_server_stops():
    class Slow(FakeDataplane):
        async def recommend(self, query, deadline, caller):
            begun.set()
            while not may_end.is_set():
                await asyncio.sleep(0.001)
            return await super().recommend(query, deadline, caller)

    begun, may_end = threading.Event(), threading.Event()
    with served(create_http(Slow())) as port:
        connection = send(port, "u1")
        assert begun.wait(TIMEOUT_S)
        threading.Timer(0.05, may_end.set).start()
    assert status_of(connection) == 200
    connection.close()
