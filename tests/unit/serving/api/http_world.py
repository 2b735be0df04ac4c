"""A dataplane of a few lines, and a client that speaks to its HTTP surface in this process."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml

from serving.api.auth import Tokens, digest_of
from serving.api.dataplane import Caller, Readiness
from serving.api.http import create_http
from serving.core.answer import Answer, AnswerItem, ServedBy
from serving.core.candidates import Candidates
from serving.core.deadline import Deadline
from serving.core.prediction import Prediction
from serving.core.query import Query
from serving.core.request import NO_ROWS, Request
from serving.core.trace import Trace
from serving.errors import InvalidRequest

PROBLEM = "application/problem+json"
JSON = {"content-type": "application/json"}
MAX_K = 100


@dataclass
class FakeDataplane:
    """Answers `k` items to everyone, and remembers what it was asked."""

    work: Callable[[Query], object] = lambda query: None
    ready: Readiness = field(default_factory=lambda: Readiness(True, False, bundles={"recommend": "recommend/v1"}))
    asked: list[tuple[Query, Deadline, Caller]] = field(default_factory=list)

    async def recommend(self, query: Query, deadline: Deadline, caller: Caller) -> Prediction:
        self.asked.append((query, deadline, caller))
        self.work(query)
        if query.k > MAX_K:
            raise InvalidRequest("k", f"at most {MAX_K} items can be asked for")
        items = [AnswerItem(f"i{i}", 1.0 - i / 1000, ["popular"], ["popular"], i) for i in range(query.k)]
        prediction_id = f"p{len(self.asked)}"
        arm = caller.forced_arm or "stable"
        return predicted(Answer(prediction_id, query.request_id, items, ServedBy.RANKER, arm, "recommend/v1"), query)

    def readiness(self) -> Readiness:
        return self.ready


def predicted(answer: Answer, query: Query) -> Prediction:
    """An answer in which nothing but the answer matters."""
    nothing = np.empty(0, np.float32)
    request = Request(query, 0, nothing, False, nothing, NO_ROWS, NO_ROWS, NO_ROWS, None, 0, 0, lambda _: nothing)
    return Prediction(answer, request, Candidates(NO_ROWS, nothing, np.empty(0, np.uint32)), Trace())


@dataclass
class Notes:
    """A journal that only remembers."""

    seen: list[tuple[Any, ...]] = field(default_factory=list)

    def note(
        self,
        app: str,
        transport: str,
        status: str,
        seconds: float,
        prediction: Prediction | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        answered = None if prediction is None else prediction.answer.prediction_id
        assert seconds >= 0
        self.seen.append((app, transport, status, answered, request_id, traceparent))


def raising(error: Exception) -> FakeDataplane:
    """A dataplane in which something goes wrong."""

    def fail(query: Query) -> None:
        raise error

    return FakeDataplane(fail)


class Client:
    """Sends requests to an ASGI application without a socket, each on an event loop of its own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def request(self, method: str, path: str, **parts: Any) -> httpx.Response:
        return asyncio.run(self._send(method, path, parts))

    def get(self, path: str, **parts: Any) -> httpx.Response:
        return self.request("GET", path, **parts)

    def post(self, path: str, **parts: Any) -> httpx.Response:
        return self.request("POST", path, **parts)

    async def _send(self, method: str, path: str, parts: dict[str, Any]) -> httpx.Response:
        async with client_on_this_loop(self.app) as client:
            return await client.request(method, path, **parts)


def client_of(dataplane: FakeDataplane | None = None, **settings: Any) -> Client:
    return Client(create_http(dataplane or FakeDataplane(), **settings))


def client_on_this_loop(app: Any) -> httpx.AsyncClient:
    """For many requests at once."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://sieve")


def tokens_of(folder: Path, **roles: list[str]) -> Tokens:
    """Tokens whose holder's name is also the token."""
    return Tokens(write_tokens(folder / "tokens.yaml", **roles))


def write_tokens(path: Path, **roles: list[str]) -> Path:
    entries = [{"name": name, "sha256": digest_of(name), "roles": allowed} for name, allowed in roles.items()]
    path.write_text(yaml.safe_dump({"tokens": entries}))
    return path


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@dataclass
class Counts:
    """An observer that only counts."""

    seen: Counter[str] = field(default_factory=Counter)

    def shed(self, app: str, reason: str) -> None:
        self.seen[f"shed {app} {reason}"] += 1

    def cancelled(self, app: str) -> None:
        self.seen[f"cancelled {app}"] += 1

    def loop_lag(self, seconds: float) -> None:
        self.seen["lag"] += 1
