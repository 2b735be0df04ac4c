"""gRPC as gateway replicas serve it: on one port, from the event loop that Ray gives them.

Run as a script, this file is the server: Ray reads its flags when it is imported, so it gets a process of its own.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from serving.api.protos.sieve.v1 import recommend_pb2 as pb
from serving.api.protos.sieve.v1.recommend_pb2_grpc import RecommendServiceStub

HOST = "127.0.0.1"
TIMEOUT_S = 120.0
REPLICAS = 2
FLAGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    # A machine that is busy with other tests takes longer than Ray expects.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}


class Gateway:
    """A replica that answers with its process id, and for the user `slow` once the file `go` is there."""

    def __init__(self, port: int, folder: str) -> None:
        self._port = port
        self._folder = Path(folder)

    def __serve_build_asgi_app__(self):
        from fastapi import FastAPI

        from serving.api.auth import Tokens
        from serving.api.grpc_server import GrpcServer, serve_beside

        app = FastAPI()
        serve_beside(app, GrpcServer(self, Tokens(), HOST, self._port), grace_s=3)
        return app

    async def recommend(self, query, deadline, caller):
        from serving.core.answer import Answer, ServedBy
        from serving.core.prediction import Prediction
        from serving.core.trace import Trace

        if query.user_id == "slow":
            (self._folder / "began").touch()
            while not (self._folder / "go").exists():
                await asyncio.sleep(0.01)
        answer = Answer("p", None, [], ServedBy.RANKER, "stable", f"recommend/{os.getpid()}")
        return Prediction(answer, None, None, Trace())

    def readiness(self):
        from serving.api.dataplane import Readiness

        return Readiness(is_ready=True, is_loading=False)


def serve_until_told(http_port: int, grpc_port: int, folder: str) -> None:
    """Serves two replicas until a line comes in, then shuts down as `sieve serve` does."""
    import logging

    import ray
    from ray import serve

    ray.init(
        address="local",
        num_cpus=REPLICAS + 1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100_000_000,
    )
    serve.start(http_options={"host": HOST, "port": http_port, "location": "HeadOnly"})
    deployment = serve.deployment(
        name="Gateway", num_replicas=REPLICAS, health_check_period_s=1, logging_config={"enable_access_log": False}
    )
    serve.run(deployment(serve.ingress()(Gateway)).bind(grpc_port, folder), name="recommend", route_prefix="/")
    print("ready", flush=True)
    sys.stdin.readline()
    serve.shutdown()
    ray.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextmanager
def gateways(folder: Path):
    """The server's process and its gRPC port."""
    port = free_port()
    ports = {"RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()), "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port())}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, __file__, str(free_port()), str(port), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | FLAGS | ports,
        )
    try:
        assert any(line == "ready\n" for line in server.stdout), (folder / "log").read_text()
        yield server, port
    finally:
        if server.poll() is None:
            server.communicate("stop\n", timeout=TIMEOUT_S)


def channel_to(port: int) -> grpc.Channel:
    """A connection of its own, which the kernel gives to any of the replicas."""
    return grpc.insecure_channel(f"{HOST}:{port}", [("grpc.use_local_subchannel_pool", 1)])


def answering(channel: grpc.Channel) -> int:
    """The process id of the replica that answers."""
    answer = RecommendServiceStub(channel).Recommend(pb.RecommendRequest(), timeout=TIMEOUT_S, wait_for_ready=True)
    return int(answer.bundle.removeprefix("recommend/"))


def found(port: int, count: int, without: int = 0) -> set[int]:
    """Process ids of `count` replicas that answer, `without` one that should not any more."""
    limit, pids = time.monotonic() + TIMEOUT_S, set()
    while len(pids) < count and time.monotonic() < limit:
        with channel_to(port) as channel:
            pids.add(answering(channel))
    assert without not in pids
    assert len(pids) == count
    return pids


@pytest.mark.ray
@pytest.mark.slow
def test_replicas_share_a_port_one_may_die_and_a_shutdown_finishes_what_was_begun(tmp_path):
    with gateways(tmp_path) as (server, port):
        pids = found(port, REPLICAS)

        channels = [channel_to(port) for _ in range(8)]
        victim = answering(channels[0])
        os.kill(victim, signal.SIGKILL)
        # Every client goes on, on the connection that it has: to a replica that lives.
        for channel in channels:
            while answering_or_lost(channel) in (None, victim):
                pass
        for channel in channels:
            channel.close()
        assert found(port, REPLICAS, without=victim) > pids - {victim}

        with channel_to(port) as channel:
            slow = pb.RecommendRequest(user_id="slow")
            call = RecommendServiceStub(channel).Recommend.future(slow, timeout=TIMEOUT_S)
            wait_for(lambda: (tmp_path / "began").exists() or call.done())
            assert not call.done(), call.exception()
            health = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(health).status == health_pb2.HealthCheckResponse.SERVING
            server.stdin.write("stop\n")
            server.stdin.flush()
            assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
            (tmp_path / "go").touch()
            assert call.result(TIMEOUT_S).bundle
        assert server.wait(TIMEOUT_S) == 0


def answering_or_lost(channel: grpc.Channel) -> int | None:
    """The replica that answers; None where the call was under way to one that died."""
    try:
        return answering(channel)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return None


def wait_for(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


if __name__ == "__main__":
    serve_until_told(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
