"""`grpc.health.v1` over what the data plane says of itself; it needs no token."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Status = health_pb2.HealthCheckResponse
SERVICE: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
POLL_S = 0.25


class HealthServicer(health_pb2_grpc.HealthServicer):
    """SERVING while the server is ready, NOT_SERVING before that and from `drain` on.

    The server as a whole is the empty name; every service is as ready as the whole. A Check asks at once, a
    Watch hears of a change within 0.25 s and ends when the server drains, so that it does not hold it up.
    """

    def __init__(self, services: Sequence[str], is_ready: Callable[[], bool]) -> None:
        self._services = frozenset(("", *services))
        self._is_ready = is_ready
        self._drained = asyncio.Event()

    def drain(self) -> None:
        """NOT_SERVING from here on, whatever is ready."""
        self._drained.set()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """How one service is now; NOT_FOUND where there is no such service."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return Status(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """How one service is, now and whenever that changes."""
        told: int | None = None
        while True:
            is_last = self._drained.is_set()
            status = self._status(request.service)
            if status != told:
                told = status
                yield Status(status=status)
            if is_last:
                return
            await self._pause()

    def _status(self, service: str) -> int:
        if service not in self._services:
            return int(Status.SERVICE_UNKNOWN)
        is_serving = not self._drained.is_set() and self._is_ready()
        return int(Status.SERVING if is_serving else Status.NOT_SERVING)

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._drained.wait(), POLL_S)
        except TimeoutError:
            return
