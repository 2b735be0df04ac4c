import threading
import time
from contextlib import asynccontextmanager

import grpc
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from grpc_world import HOST, RECOMMEND, TIMEOUT_S, FakeDataplane, answer_of, refusal, role_tokens, running

from serving.api.auth import Tokens
from serving.api.grpc_server import GrpcServer, serve_beside
from serving.api.protos.sieve.v1 import recommend_pb2 as pb
from serving.api.protos.sieve.v1.recommend_pb2_grpc import RecommendServiceStub
from serving.errors import ConfigError

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
Code = grpc.StatusCode


def check(server, service: str) -> int:
    return HealthStub(server.channel).Check(health_pb2.HealthCheckRequest(service=service)).status


@pytest.mark.parametrize("service", ["", RECOMMEND])
def test_health_is_serving_once_a_bundle_is_loaded(service):
    dataplane = FakeDataplane(is_ready=False)
    with running(dataplane) as server:
        assert check(server, service) == NOT_SERVING
        dataplane.is_ready = True
        assert check(server, service) == SERVING


def test_health_needs_no_token_and_knows_its_services(tmp_path):
    with running(tokens=role_tokens(tmp_path)) as server:
        assert check(server, "") == SERVING
        assert refusal(lambda: check(server, "sieve.v1.Nothing"))[0] is Code.NOT_FOUND


def test_who_watches_health_hears_of_every_change_until_the_server_drains():
    dataplane = FakeDataplane(is_ready=False)
    with running(dataplane) as server:
        changes = HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(changes).status == NOT_SERVING
        dataplane.is_ready = True
        assert next(changes).status == SERVING
        server.await_(server.server.stop(TIMEOUT_S))
        assert [change.status for change in changes] == [NOT_SERVING]


def test_reflection_lists_the_services_and_tells_their_messages():
    with running() as server:
        database = ProtoReflectionDescriptorDatabase(server.channel)
        assert {RECOMMEND, "grpc.health.v1.Health"} <= set(database.get_services())
        file = database.FindFileContainingSymbol(RECOMMEND)
        assert [method.name for method in file.service[0].method] == ["Recommend", "RecommendBatch"]
        assert database.FindFileByName("sieve/v1/problem.proto").package == "sieve.v1"


def test_reflection_needs_a_token_where_there_are_tokens(tmp_path):
    with running(tokens=role_tokens(tmp_path)) as server:
        ask = ServerReflectionStub(server.channel).ServerReflectionInfo
        requests = [ServerReflectionRequest(list_services="")]
        assert refusal(lambda: list(ask(iter(requests))))[0] is Code.UNAUTHENTICATED
        [response] = ask(iter(requests), metadata=(("authorization", "Bearer predict"),))
        assert len(response.list_services_response.service) == 3


def test_an_unknown_method_is_unimplemented():
    with running() as server:
        call = server.channel.unary_unary(f"/{RECOMMEND}/Guess")
        assert refusal(lambda: call(b""))[0] is Code.UNIMPLEMENTED


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_a_message_that_is_too_large_is_refused_however_it_is_packed(compression):
    dataplane = FakeDataplane()
    request = pb.RecommendRequest(user_id="u" * 10_000_000)
    with running(dataplane, max_message_bytes=100_000) as server:
        code, _ = refusal(lambda: server.stub.Recommend(request, compression=compression))
        assert code is Code.RESOURCE_EXHAUSTED
        assert len(server.stub.Recommend(pb.RecommendRequest()).items) == 20
    assert len(dataplane.queries) == 1


def test_draining_finishes_what_is_under_way_and_takes_nothing_new():
    began, go = threading.Event(), threading.Event()

    async def answer(query):
        began.set()
        await server.loop.run_in_executor(None, go.wait)
        return answer_of(query)

    with running(FakeDataplane(answer)) as server:
        call = server.stub.Recommend.future(pb.RecommendRequest(k=1))
        assert began.wait(TIMEOUT_S)
        health = HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == SERVING
        stopping = threading.Thread(target=lambda: server.await_(server.server.stop(TIMEOUT_S)))
        stopping.start()
        assert next(health).status == NOT_SERVING
        with grpc.insecure_channel(f"{HOST}:{server.server.port}") as another:
            late = another.unary_unary(f"/{RECOMMEND}/Recommend")
            assert refusal(lambda: late(b""))[0] is Code.UNAVAILABLE
        go.set()
        assert len(call.result(TIMEOUT_S).items) == 1
        stopping.join(TIMEOUT_S)
        assert not stopping.is_alive()


def test_what_outlasts_the_grace_is_cut_off():
    began = threading.Event()

    async def answer(query):
        began.set()
        await server.loop.create_future()

    with running(FakeDataplane(answer)) as server:
        call = server.stub.Recommend.future(pb.RecommendRequest())
        assert began.wait(TIMEOUT_S)
        server.await_(server.server.stop(0.05))
        assert refusal(call.result)[0] in (Code.UNAVAILABLE, Code.CANCELLED)


def test_two_servers_share_a_port_and_both_answer():
    planes = [FakeDataplane(), FakeDataplane()]
    with running(planes[0]) as first:
        second = GrpcServer(planes[1], Tokens(), HOST, first.server.port)
        first.await_(second.start())
        for n in range(200):
            options = [("grpc.use_local_subchannel_pool", 1), ("sieve.test", n)]
            with grpc.insecure_channel(f"{HOST}:{first.server.port}", options) as channel:
                channel.unary_unary(f"/{RECOMMEND}/Recommend")(b"", wait_for_ready=True, timeout=TIMEOUT_S)
            if all(plane.queries for plane in planes):
                break
        first.await_(second.stop(0))
    assert all(plane.queries for plane in planes)


def test_an_old_connection_is_sent_round_and_no_call_fails():
    planes = [FakeDataplane(), FakeDataplane()]
    with running(planes[0], max_connection_age_s=1) as first:
        second = GrpcServer(planes[1], Tokens(), HOST, first.server.port, max_connection_age_s=1)
        first.await_(second.start())
        limit = time.monotonic() + TIMEOUT_S
        while not all(plane.queries for plane in planes):
            assert time.monotonic() < limit
            first.stub.Recommend(pb.RecommendRequest(k=1), timeout=TIMEOUT_S)
        first.await_(second.stop(0))


def test_an_address_that_cannot_be_listened_on_is_named():
    with running() as server:
        elsewhere = GrpcServer(FakeDataplane(), Tokens(), "192.0.2.1", 9000)
        with pytest.raises(ConfigError, match=r"192\.0\.2\.1:9000"):
            server.await_(elsewhere.start())


def test_a_server_that_never_started_stops():
    with running() as server:
        server.await_(GrpcServer(FakeDataplane(), Tokens(), HOST, 0).stop(0))


def test_beside_an_application_it_lives_as_long_as_that_does():
    order = []

    @asynccontextmanager
    async def lifespan(app):
        order.append("application up")
        yield {"kept": 1}
        order.append("application down")

    app = FastAPI(lifespan=lifespan)
    server = GrpcServer(FakeDataplane(), Tokens(), HOST, 0)
    serve_beside(app, server, grace_s=0)
    with TestClient(app) as client, grpc.insecure_channel(f"{HOST}:{server.port}") as channel:
        assert client.app_state == {"kept": 1}
        assert len(RecommendServiceStub(channel).Recommend(pb.RecommendRequest(k=2)).items) == 2
        order.append("answered")
    assert order == ["application up", "answered", "application down"]
    with grpc.insecure_channel(f"{HOST}:{server.port}") as channel:
        assert refusal(lambda: RecommendServiceStub(channel).Recommend(pb.RecommendRequest()))[0] is Code.UNAVAILABLE
