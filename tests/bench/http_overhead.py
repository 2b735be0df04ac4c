"""What the HTTP surface costs beside the answer: `python -m tests.bench.http_overhead`.

The whole ASGI application, driven in this process without a socket, against a trivial one that reads a body and
sends bytes of the same length. The dataplane gives the same answer of 20 items at once. The two take turns in blocks
of 200 requests; each figure is the median of the blocks' medians. Writes `build/reports/http_overhead.json`.
"""

import asyncio
import gc
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from serving.api.auth import Tokens, digest_of, new_token
from serving.api.dataplane import Caller, Readiness
from serving.api.http import create_http
from serving.core.answer import Answer, AnswerItem, ServedBy
from serving.core.candidates import Candidates
from serving.core.deadline import Deadline
from serving.core.prediction import Prediction
from serving.core.query import Query
from serving.core.request import NO_ROWS, Request
from serving.core.trace import Trace
from training.evaluate.report import Row, at_most, report_table, write_report

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
BLOCKS = 60
BLOCK = 200
ITEMS = [AnswerItem(f"i{i:07}", 1 - i / 64, ["two_tower"], ["similar_to:i0000012"], i) for i in range(20)]
ANSWER = Answer("0190a5b2c3d44e5f8a6b7c8d9e0f1a2b", None, ITEMS, ServedBy.RANKER, "stable", "recommend/v1")
NOTHING = np.empty(0, np.float32)
REQUEST = Request(Query(), 0, NOTHING, False, NOTHING, NO_ROWS, NO_ROWS, NO_ROWS, None, 0, 0, lambda _: NOTHING)
PREDICTION = Prediction(ANSWER, REQUEST, Candidates(NO_ROWS, NOTHING, np.empty(0, np.uint32)), Trace())
BODY = json.dumps({"user_id": "u0000001", "k": 20, "context": {"device": "tv", "country": "DE"}}).encode()
HOW = f"in process, no socket, median of {BLOCKS} blocks of {BLOCK}, blocks taking turns"


class Instant:
    """Answers without work."""

    async def recommend(self, query: Query, deadline: Deadline, caller: Caller) -> Prediction:
        return PREDICTION

    def readiness(self) -> Readiness:
        return Readiness(True, False)


def trivial(size: int) -> App:
    """Reads the body and sends `size` bytes."""
    sent = b"x" * size
    headers = [(b"content-type", b"application/json"), (b"content-length", str(size).encode())]

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": sent})

    return app


async def drive(app: App, headers: list[tuple[bytes, bytes]], requests: int) -> float:
    """Median seconds of a request, each in a task of its own as a server runs it."""
    times = []
    for _ in range(requests):
        scope = {
            "type": "http", "method": "POST", "path": "/v1/recommend", "raw_path": b"/v1/recommend", "root_path": "",
            "query_string": b"", "scheme": "http", "http_version": "1.1", "headers": headers,
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": BODY, "more_body": False}

        statuses: list[int] = []

        async def send(message: dict[str, Any], statuses: list[int] = statuses) -> None:
            statuses.append(message.get("status", 0))

        began = time.perf_counter()
        await asyncio.create_task(app(scope, receive, send))  # type: ignore[arg-type]
        times.append(time.perf_counter() - began)
        assert statuses[0] == 200, statuses
        await asyncio.sleep(0)
    return statistics.median(times)


async def measure(folder: Path) -> list[Row]:
    """The trivial application, ours, and ours with tokens, deadline and request id."""
    token = new_token()
    path = folder / "tokens.yaml"
    entry = {"name": "bench", "sha256": digest_of(token), "roles": ["predict"]}
    path.write_text(yaml.safe_dump({"tokens": [entry]}))
    plain = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    more = [
        (b"authorization", f"Bearer {token}".encode()),
        (b"x-sieve-deadline-ms", b"200"),
        (b"x-request-id", b"0190a5b2-c3d4-4e5f-8a6b-7c8d9e0f1a2b"),
    ]
    apps: dict[str, tuple[App, list[tuple[bytes, bytes]]]] = {
        "trivial application": (trivial(1900), plain),
        "sieve": (create_http(Instant()), plain),
        "sieve, with token, deadline and request id": (create_http(Instant(), tokens=Tokens(path)), plain + more),
    }
    found: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(BLOCKS):
        for name, (app, headers) in apps.items():
            found[name].append(await drive(app, headers, BLOCK))
    floor, *rest = ((name, statistics.median(times) * 1000) for name, times in found.items())
    rows = [Row("trivial application", floor[1], "ms", None, None, HOW)]
    return rows + [
        at_most(f"{name}: over the trivial application", ms - floor[1], 0.15, "ms", HOW) for name, ms in rest
    ]


def main() -> None:
    """Measures, prints the table and writes the report."""
    gc.freeze()
    with TemporaryDirectory() as folder:
        rows = asyncio.run(measure(Path(folder)))
    Console(width=140).print(report_table("http overhead", rows))
    print(f"written to {write_report('http_overhead', rows)}")


if __name__ == "__main__":
    main()
