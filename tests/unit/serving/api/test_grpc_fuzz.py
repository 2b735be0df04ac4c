"""Whatever is sent, a client's mistake is told as one: never INTERNAL, never UNKNOWN, and the server goes on."""

import grpc
import pytest
from grpc_world import RECOMMEND, TIMEOUT_S, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.api.protos.sieve.v1 import recommend_pb2 as pb

EXPECTED = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

texts = st.text(st.characters(codec="utf-8"), max_size=140) | st.sampled_from(["", "DE", "u1", "\x00", "é" * 128])
numbers = st.integers(-(2**31), 2**31 - 1) | st.integers(-1, 1001)
lists = st.lists(texts, max_size=4) | st.integers(0, 1200).map(lambda count: ["i1"] * count)


def maybe(strategy):
    return st.none() | strategy


times = st.builds(
    lambda seconds, nanos: {"seconds": seconds, "nanos": nanos},
    st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**32),
    st.integers(-(2**31), 2**31 - 1),
)
contexts = st.builds(
    pb.Context, device=maybe(texts), surface=maybe(texts), country=maybe(texts), time=maybe(times), likes=lists
)
filters = st.builds(pb.Filters, genres=lists, year_from=maybe(numbers), year_to=maybe(numbers))
requests = st.builds(
    pb.RecommendRequest,
    user_id=maybe(texts),
    session_id=maybe(texts),
    k=maybe(numbers),
    context=maybe(contexts),
    filters=maybe(filters),
    exclude=lists,
    seed_items=lists,
    cursor=maybe(texts),
    explain=st.booleans(),
    request_id=maybe(texts),
)
batches = st.builds(pb.RecommendBatchRequest, requests=st.lists(requests, max_size=3))
damaged = st.builds(
    lambda message, at, bits: bytes(
        byte ^ bits if n == at % max(len(message), 1) else byte for n, byte in enumerate(message)
    ),
    st.one_of(requests, batches).map(lambda message: message.SerializeToString()),
    st.integers(0, 10_000),
    st.integers(1, 255),
)
metadata = st.dictionaries(
    st.sampled_from(["authorization", "x-request-id", "x-sieve-arm", "traceparent"]),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=200),
)


@pytest.fixture(scope="module")
def server():
    with running() as server:
        yield server


def send(server, method: str, body: bytes, metadata: dict[str, str] | None = None) -> grpc.StatusCode:
    call = server.channel.unary_unary(f"/{RECOMMEND}/{method}")
    try:
        call(body, timeout=TIMEOUT_S, metadata=tuple((metadata or {}).items()))
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@BOUNDED
@given(requests, metadata)
def test_any_request_is_answered_or_told_its_mistake(server, request, metadata):
    assert send(server, "Recommend", request.SerializeToString(), metadata) in EXPECTED


@BOUNDED
@given(batches)
def test_any_batch_is_answered_or_told_its_mistake(server, batch):
    assert send(server, "RecommendBatch", batch.SerializeToString()) in EXPECTED


@BOUNDED
@given(st.sampled_from(["Recommend", "RecommendBatch"]), st.binary(max_size=300) | damaged)
def test_any_bytes_are_answered_or_told_their_mistake(server, method, body):
    assert send(server, method, body) in EXPECTED
