"""The load generator and `sieve bench` against a real socket server whose answers are known."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from serving.commands.bench import app
from serving.commands.http_load import CLOSED, Endpoint, closed_loop, open_loop
from serving.errors import ConfigError, DependencyError

STALL_S = 0.3


class Server(ThreadingHTTPServer):
    """Counts what it is asked, and misbehaves as a test tells it to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict] = []
        self.tokens: set[str | None] = set()
        self.statuses: dict[int, int] = {}
        self.closes_at: set[int] = set()
        self.stalls_at: set[int] = set()
        self.chunked = False
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(200, b'{"status":"ok"}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            place = len(self.server.bodies)
            self.server.bodies.append(body)
            self.server.tokens.add(self.headers.get("authorization"))
        if place in self.server.stalls_at:
            time.sleep(STALL_S)
        if place in self.server.closes_at:
            self.close_connection = True
            return
        self.reply(self.server.statuses.get(place, 200), b'{"served_by": "ranker", "detail": "no"}' + b" " * 3000)

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if self.server.chunked:
            self.send_header("transfer-encoding", "chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def running() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def requests_for(server: Server, count: int = 10) -> tuple[Endpoint, list[bytes]]:
    endpoint = Endpoint.of(server.url, "/v1/recommend")
    return endpoint, [endpoint.post(b'{"user_id": "u%d"}' % i) for i in range(count)]


def test_every_request_of_a_closed_loop_is_answered_and_counted():
    with running() as server:
        load = closed_loop(*requests_for(server), 4, 0.5)

    assert load.outcomes == {"200": len(server.bodies)}
    assert len(load.ms) == len(load.at_s) == len(server.bodies) > 20
    assert {body["user_id"] for body in server.bodies} == {f"u{i}" for i in range(10)}
    assert load.failed == 0
    assert load.per_second == pytest.approx(len(server.bodies) / load.seconds)


def test_chunked_answers_are_read_to_their_end():
    with running() as server:
        server.chunked = True
        load = closed_loop(*requests_for(server), 1, 0.3)

    assert load.outcomes == {"200": len(server.bodies)}


def test_errors_and_closed_connections_are_counted_as_failed_and_the_run_goes_on():
    with running() as server:
        server.statuses = {3: 503, 5: 422}
        server.closes_at = {7}
        load = closed_loop(*requests_for(server), 2, 0.5)

    assert (load.outcomes["503"], load.outcomes["422"], load.outcomes[CLOSED]) == (1, 1, 1)
    assert load.failed == 3
    assert load.outcomes["200"] == len(server.bodies) - 3 > 10


def test_an_open_loop_sends_at_its_rate_and_a_stall_counts_for_all_that_it_holds_up():
    with running() as server:
        server.stalls_at = {20}
        load = open_loop(*requests_for(server), 1, 1.0, 100)

    assert len(server.bodies) == 100
    assert load.outcomes == {"200": 100}
    answered = [(due, due + ms / 1000) for due, ms in zip(load.at_s, load.ms, strict=True)]
    stalled_from, stalled_until = max(answered[:21], key=lambda times: times[1] - times[0])
    assert stalled_until - stalled_from >= STALL_S
    held_up = [until for due, until in answered if stalled_from < due < stalled_until]
    assert len(held_up) >= 25, "a request was due every 10 ms"
    assert min(held_up) >= stalled_until


def test_nobody_listening_is_a_failed_dependency():
    with running() as server:
        endpoint, requests = requests_for(server)
    with pytest.raises(DependencyError, match=r"127\.0\.0\.1"):
        closed_loop(endpoint, requests, 1, 0.1)


@pytest.mark.parametrize("url", ["https://127.0.0.1:8000", "127.0.0.1:8000", "http://:1", "http://host:99999"])
def test_an_address_that_is_not_plain_http_is_refused(url):
    with pytest.raises(ConfigError, match="cannot be used"):
        Endpoint.of(url, "/v1/recommend")


def test_the_command_asks_for_the_given_users_with_the_token_and_writes_rows(tmp_path):
    users, token, report = tmp_path / "users", tmp_path / "token", tmp_path / "rows.json"
    users.write_text("anna\n\nbob\n", encoding="utf-8")
    token.write_text("s3cret\n")
    options = ["--seconds", "0.5", "--connections", "3", "--users", str(users), "--token-file", str(token), "--k", "7"]
    with running() as server:
        done = CliRunner().invoke(app, ["--url", server.url, *options, "--report", str(report)])

    assert done.exit_code == 0, done.output
    assert {body["user_id"] for body in server.bodies} == {"anna", "bob"}
    assert {body["k"] for body in server.bodies} == {7}
    assert server.tokens == {"Bearer s3cret"}
    rows = {row["name"].strip(): row for row in json.loads(report.read_text())}
    assert set(next(iter(rows.values()))) == {"name", "value", "unit", "target", "met", "how"}
    assert rows["requests"]["value"] == len(server.bodies) - 2, "all but the two probes"
    assert rows["failed"]["value"] == 0
    assert rows["answered by ranker"]["value"] == 1
    assert rows["requests a second"]["value"] > 0
    assert "p99 under load" in done.output


def test_failed_requests_are_named_and_end_the_command_with_1(tmp_path):
    with running() as server:
        server.statuses = {25: 503}
        done = CliRunner().invoke(app, ["--url", server.url, "--seconds", "0.5"])

    assert done.exit_code == 1
    assert "1 503" in done.output


def test_a_server_that_refuses_is_told_in_its_own_words():
    with running() as server:
        server.statuses = {0: 401}
        done = CliRunner().invoke(app, ["--url", server.url])

    assert isinstance(done.exception, DependencyError)
    assert "answers 401: no" in str(done.exception)


def test_an_empty_or_missing_users_file_is_a_mistake_in_the_set_up(tmp_path):
    (tmp_path / "empty").touch()
    for name, problem in (("empty", "is empty"), ("missing", "No such file")):
        done = CliRunner().invoke(app, ["--users", str(tmp_path / name)])
        assert isinstance(done.exception, ConfigError)
        assert problem in str(done.exception)
