"""The gRPC server of one gateway replica.

Every gateway replica runs one, and all of a machine's listen on the same port: the kernel deals incoming
connections out among them (SO_REUSEPORT), and takes those of a replica that dies to the others. Ray Serve has a
gRPC ingress of its own, which is not used, because in Ray 2.60 (ray/serve/_private: grpc_util.py, replica.py)

- it listens on every interface, whatever host is configured, and takes messages of up to 2 GiB;
- it tells a client `str(exc)` of an unknown error, and carries no details of a known one;
- the handler is not told the client's deadline;
- messages are decoded before any code of Sieve's: bytes that are none become UNKNOWN, not a mistake;
- `grpc.health.v1` is not there, its own `Healthz` is another protocol.

It also costs more: see docs/grpc.md. The price of this one: Ray's autoscaler does not count its calls as ongoing
requests (`ongoing` is there for `record_autoscaling_stats` and a policy that reads it), and a machine without a
gateway replica does not listen. A connection stays with one replica until it is as old as `max_connection_age_s`;
then the client is asked to connect again, which evens the load out and fails no call.

TLS ends before Sieve: at the mesh's sidecar, an ingress or a load balancer.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from starlette.applications import Starlette

from serving.api.admission import Admission
from serving.api.auth import Tokens
from serving.api.dataplane import Dataplane, Journal, NoJournal, Role
from serving.api.grpc_health import SERVICE as HEALTH
from serving.api.grpc_health import HealthServicer
from serving.api.grpc_recommend import SERVICE as RECOMMEND
from serving.api.grpc_recommend import RecommendService, caller_of, metadata_of
from serving.api.grpc_status import failure_of
from serving.api.recommend import Desk
from serving.errors import ConfigError, SieveError

SPARE_RPCS = 64
"""Calls beyond the limit that are still let in, so that health is told and a refusal has its details."""
CONNECTION_GRACE_S = 30


class GrpcServer:
    """`sieve.v1`, `grpc.health.v1` and reflection over one data plane, in the event loop that starts it."""

    def __init__(
        self,
        dataplane: Dataplane,
        tokens: Tokens,
        host: str,
        port: int,
        *,
        admission: Admission | None = None,
        journal: Journal | None = None,
        max_message_bytes: int = 1_000_000,
        max_batch: int = 100,
        max_concurrent_rpcs: int = 200,
        max_connection_age_s: int = 300,
    ) -> None:
        """
        port: 0 takes a free one.
        admission: shared with the process's other transports.
        journal: told of each request for a list once it is answered.
        """
        self._desk = Desk(
            dataplane,
            tokens,
            admission or Admission(),
            max_message_bytes,
            max_batch,
            journal=journal or NoJournal(),
        )
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._max_concurrent_rpcs = max_concurrent_rpcs
        self._options = _options(max_message_bytes, max_connection_age_s)
        self._recommend = RecommendService(self._desk, max_concurrent_rpcs)
        self._server: grpc.aio.Server | None = None
        self._health: HealthServicer | None = None
        self.port = port

    @property
    def ongoing(self) -> int:
        """Calls that are being answered."""
        return self._recommend.ongoing

    async def start(self) -> None:
        """Listens; health says whether there is anything to be had.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        server = grpc.aio.server(options=self._options, maximum_concurrent_rpcs=self._max_concurrent_rpcs + SPARE_RPCS)
        self._health = HealthServicer([RECOMMEND], lambda: self._desk.dataplane.readiness().is_ready)
        server.add_registered_method_handlers(RECOMMEND, self._recommend.handlers())
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflected = Reflection([RECOMMEND, HEALTH, reflection.SERVICE_NAME], self._desk.tokens)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, server)
        try:
            self.port = server.add_insecure_port(self._address)
        except RuntimeError:
            raise ConfigError("the server cannot listen there", [f"server.grpc_port: {self._address}"]) from None
        await server.start()
        self._server = server

    async def stop(self, grace_s: float) -> None:
        """Drains: health turns, connections are sent elsewhere, calls under way may take `grace_s` more."""
        if self._server is None or self._health is None:
            return
        self._health.drain()
        await self._server.stop(grace_s)
        self._server = None


def serve_beside(app: Starlette, server: GrpcServer, grace_s: float) -> None:
    """Lets a server live as long as an ASGI application: from the end of its start-up to the start of its shutdown.

    In a Ray Serve replica that is: before the replica counts as healthy, in its event loop, until Ray has drained
    HTTP. `grace_s` must fit into what is then left of `graceful_shutdown_timeout_s`.
    """
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def both(running: Starlette) -> AsyncIterator[Any]:
        async with lifespan(running) as state:
            await server.start()
            try:
                yield state
            finally:
                await server.stop(grace_s)

    app.router.lifespan_context = both


class Reflection(reflection.aio.ReflectionServicer):
    """What the server can be asked, told to those who may ask it."""

    def __init__(self, services: Sequence[str], tokens: Tokens) -> None:
        super().__init__(services)
        self._tokens = tokens

    async def ServerReflectionInfo(
        self,
        request_iterator: AsyncIterator[reflection_pb2.ServerReflectionRequest],
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """Answers as long as the client asks."""
        try:
            caller_of(metadata_of(context), self._tokens, Role.PREDICT)
        except SieveError as error:
            failure = failure_of(error, reflection.SERVICE_NAME)
            await context.abort(failure.code, failure.problem.detail, failure.metadata())
        async for response in super().ServerReflectionInfo(request_iterator, context):
            yield response


def _options(max_message_bytes: int, max_connection_age_s: int) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_connection_age_ms", max_connection_age_s * 1000),
        ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_S * 1000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
