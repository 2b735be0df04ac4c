"""A gRPC server on a free port over a data plane that tests direct, and clients of it."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import status_pb2

from serving.api.auth import Tokens, digest_of
from serving.api.dataplane import Readiness, Role
from serving.api.grpc_server import GrpcServer
from serving.api.protos.sieve.v1.problem_pb2 import Problem
from serving.api.protos.sieve.v1.recommend_pb2_grpc import RecommendServiceStub
from serving.core.answer import Answer, AnswerItem, ServedBy
from serving.core.prediction import Prediction
from serving.core.trace import Trace

RECOMMEND = "sieve.v1.RecommendService"
HOST = "127.0.0.1"
TIMEOUT_S = 20.0


def answer_of(query, **fields) -> Answer:
    """k items, told as `query` asked."""
    items = [AnswerItem(f"i{n:02d}", 1.0 - n / 7, ["popular"], ["popular:DE"], n) for n in range(query.k)]
    made = {"items": items, "served_by": ServedBy.RANKER, "arm": "stable", "bundle": "recommend/v1", **fields}
    return Answer(prediction_id="p-1", request_id=query.request_id, **made)


@dataclass
class FakeDataplane:
    """Answers by `answering`, and remembers what it was asked."""

    answering: Callable[..., Any] = lambda query: answer_of(query)
    is_ready: bool = True
    queries: list = field(default_factory=list)
    deadlines: list = field(default_factory=list)
    callers: list = field(default_factory=list)

    async def recommend(self, query, deadline, caller):
        self.queries.append(query)
        self.deadlines.append(deadline)
        self.callers.append(caller)
        answer = self.answering(query)
        answer = await answer if asyncio.iscoroutine(answer) else answer
        return Prediction(answer, None, None, Trace())

    def readiness(self) -> Readiness:
        return Readiness(self.is_ready, not self.is_ready)


def role_tokens(folder: Path) -> Tokens:
    """`Bearer ROLE` has that role only, `Bearer all` every one."""
    named: dict[str, list[str]] = {role.value: [role.value] for role in Role} | {"all": [role.value for role in Role]}
    entries = [{"name": name, "sha256": digest_of(name), "roles": roles} for name, roles in named.items()]
    path = folder / "tokens.yaml"
    path.write_text(json.dumps({"tokens": entries}))
    return Tokens(path)


@dataclass
class Running:
    """A server in the event loop of its own thread, and a channel to it."""

    server: GrpcServer
    loop: asyncio.AbstractEventLoop
    channel: grpc.Channel

    @property
    def stub(self) -> RecommendServiceStub:
        return RecommendServiceStub(self.channel)

    def await_(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIMEOUT_S)


@contextmanager
def running(dataplane=None, tokens=None, **settings) -> Iterator[Running]:
    server = GrpcServer(dataplane or FakeDataplane(), tokens or Tokens(), HOST, 0, **settings)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(TIMEOUT_S)
        with grpc.insecure_channel(f"{HOST}:{server.port}") as channel:
            yield Running(server, loop, channel)
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(0), loop).result(TIMEOUT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, Problem | None]:
    """How a call failed: its code, and the problem in its trailing metadata where there is one."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), problem_in(error.trailing_metadata())
    raise AssertionError("the call did not fail")


def details_in(metadata) -> status_pb2.Status | None:
    found = dict(metadata or ()).get("grpc-status-details-bin")
    return None if found is None else status_pb2.Status.FromString(found)


def problem_in(metadata) -> Problem | None:
    status = details_in(metadata)
    problem = Problem()
    return problem if status is not None and status.details[0].Unpack(problem) else None
