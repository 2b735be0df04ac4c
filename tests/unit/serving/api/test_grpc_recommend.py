import asyncio
import threading

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_world import TIMEOUT_S, FakeDataplane, answer_of, details_in, refusal, role_tokens, running

from serving.api.admission import Admission
from serving.api.dataplane import Role
from serving.api.problems import KINDS
from serving.api.protos.sieve.v1 import recommend_pb2 as pb
from serving.errors import (
    DependencyError,
    InvalidRequest,
    NotFound,
    OverloadError,
    SetupError,
    StoreUnavailable,
)

Code = grpc.StatusCode


@pytest.fixture(scope="module")
def plain():
    with running() as server:
        yield server


@pytest.fixture
def guarded(tmp_path):
    with running(FakeDataplane(), role_tokens(tmp_path)) as server:
        yield server


def failing(error):
    def fail(query):
        raise error

    return FakeDataplane(fail)


def bearer(token, *more):
    return (("authorization", f"Bearer {token}"), *more)


def test_a_call_is_answered(plain):
    answer = plain.stub.Recommend(pb.RecommendRequest(user_id="u1", k=2, request_id="r-1"), timeout=TIMEOUT_S)
    assert [item.id for item in answer.items] == ["i00", "i01"]
    assert (answer.served_by, answer.arm, answer.bundle) == (pb.SERVED_BY_RANKER, "stable", "recommend/v1")
    assert (answer.prediction_id, answer.request_id) == ("p-1", "r-1")
    assert not answer.HasField("cursor")
    assert not answer.HasField("trace")


def test_an_empty_message_asks_with_every_default(plain):
    assert len(plain.stub.Recommend(pb.RecommendRequest()).items) == 20


def test_the_request_id_may_come_as_metadata_and_the_messages_own_wins():
    dataplane = FakeDataplane()
    with running(dataplane) as server:
        metadata = (("x-request-id", "from-metadata"),)
        server.stub.Recommend(pb.RecommendRequest(), metadata=metadata)
        server.stub.Recommend(pb.RecommendRequest(request_id="own"), metadata=metadata)
    assert [query.request_id for query in dataplane.queries] == ["from-metadata", "own"]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.RecommendRequest(k=0), "k"),
        (pb.RecommendRequest(k=-1), "k"),
        (pb.RecommendRequest(k=1_000_000_000), "k"),
        (pb.RecommendRequest(user_id=""), "user_id"),
        (pb.RecommendRequest(user_id="é" * 100), "user_id"),
        (pb.RecommendRequest(context=pb.Context(country="Germany")), "context.country"),
        (pb.RecommendRequest(exclude=["ok", ""]), "exclude.1"),
        (pb.RecommendRequest(exclude=["x"] * 100_000), "exclude"),
        (pb.RecommendRequest(filters=pb.Filters(year_from=-5)), "filters.year_from"),
        (pb.RecommendRequest(cursor="c" * 5000), "cursor"),
    ],
)
def test_a_mistake_names_its_field(plain, request_, field):
    code, problem = refusal(lambda: plain.stub.Recommend(request_))
    assert code is Code.INVALID_ARGUMENT
    assert (problem.field, problem.status) == (field, 422)
    assert problem.type == "urn:sieve:problem:invalid-request"


def test_every_mistake_is_told_at_once_and_in_googles_words_too(plain):
    request = pb.RecommendRequest(k=0, user_id="", context=pb.Context(country="x"))
    with pytest.raises(grpc.RpcError) as caught:
        plain.stub.Recommend(request)
    status = details_in(caught.value.trailing_metadata())
    found = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(found)
    assert {each.field for each in found.field_violations} == {"k", "user_id", "context.country"}
    assert status.code == Code.INVALID_ARGUMENT.value[0]


def test_many_mistakes_still_fit_into_what_a_client_accepts(plain):
    context = pb.Context(device="d" * 999, surface="s" * 999, country="x" * 999, likes=[""] * 1000)
    filters = pb.Filters(genres=[""] * 1000, year_from=-1, year_to=-1)
    request = pb.RecommendRequest(
        user_id="é" * 999, session_id="", k=0, context=context, filters=filters, exclude=[""] * 1000,
        seed_items=[""] * 1000, cursor="c" * 9999, request_id="",
    )  # fmt: skip
    code, problem = refusal(lambda: plain.stub.Recommend(request))
    assert (code, problem.field, len(problem.errors)) == (Code.INVALID_ARGUMENT, "user_id", 10)


def test_bytes_that_are_no_message_are_the_clients_mistake(plain):
    for method in ("Recommend", "RecommendBatch"):
        call = plain.channel.unary_unary(f"/sieve.v1.RecommendService/{method}")
        code, problem = refusal(lambda call=call: call(b"\xff\xff\xff"))
        assert (code, problem.field) == (Code.INVALID_ARGUMENT, "message")


def test_fields_that_this_version_does_not_know_are_ignored(plain):
    later = pb.RecommendRequest(k=1).SerializeToString() + b"\xf8\x7f\x01"
    call = plain.channel.unary_unary("/sieve.v1.RecommendService/Recommend")
    assert len(pb.RecommendResponse.FromString(call(later)).items) == 1


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("filters.genres.0", "is no genre"),
        NotFound("seed_items.0", "is not in the catalogue"),
        DependencyError("secret host"),
        StoreUnavailable("secret host"),
        OverloadError("secret host"),
        SetupError("secret path"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_one_table_says_the_code_and_the_problem(error):
    with running(failing(error)) as server:
        code, problem = refusal(lambda: server.stub.Recommend(pb.RecommendRequest(request_id="r-7")))
    kind = KINDS[type(error)]
    assert (code.name, problem.status, problem.type) == (kind.grpc, kind.status, f"urn:sieve:problem:{kind.type}")
    assert problem.request_id == "r-7"
    assert "secret" not in str(problem)
    retry = problem.retry_after_s if problem.HasField("retry_after_s") else None
    assert retry == kind.retry_after_s


def test_an_unknown_error_says_its_id_and_nothing_of_the_inside(caplog):
    with running(failing(KeyError("secret"))) as server, pytest.raises(grpc.RpcError) as caught:
        server.stub.Recommend(pb.RecommendRequest(), metadata=(("x-request-id", "r-9"),))
    error = caught.value
    assert error.code() is Code.INTERNAL
    assert "secret" not in f"{error.details()} {error.trailing_metadata()}"
    problem = refusal_of(error)
    assert problem.error_id in caplog.text
    assert problem.request_id == "r-9"


def refusal_of(error):
    def again():
        raise error

    return refusal(again)[1]


def test_the_calls_deadline_reaches_the_data_plane_and_the_default_where_it_has_none():
    dataplane = FakeDataplane()
    with running(dataplane, admission=Admission(default_deadline_ms=150)) as server:
        server.stub.Recommend(pb.RecommendRequest(), timeout=20)
        server.stub.Recommend(pb.RecommendRequest())
        server.stub.Recommend(pb.RecommendRequest(), timeout=1e8)
    own, default, endless = (deadline.budget_ms for deadline in dataplane.deadlines)
    assert 10_000 < own < 20_500  # gRPC rounds it up on the wire
    assert default == 150
    assert endless == 600_000


class Waiting:
    """Answers that wait until they are let go, and say when they began and how they ended."""

    def __init__(self):
        self.began = threading.Event()
        self.cancelled = threading.Event()
        self.go = asyncio.Event()

    async def answer(self, query):
        self.began.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return answer_of(query)


def test_a_call_that_the_client_gives_up_stops_costing():
    waiting = Waiting()
    with running(FakeDataplane(waiting.answer)) as server:
        call = server.stub.Recommend.future(pb.RecommendRequest())
        assert waiting.began.wait(TIMEOUT_S)
        call.cancel()
        assert waiting.cancelled.wait(TIMEOUT_S)
        server.await_(asyncio.sleep(0))  # the loop has gone on since
        assert server.server.ongoing == 0


def test_a_call_whose_deadline_passes_stops_costing():
    waiting = Waiting()
    with running(FakeDataplane(waiting.answer)) as server:
        code, _ = refusal(lambda: server.stub.Recommend(pb.RecommendRequest(), timeout=0.2))
        assert code is Code.DEADLINE_EXCEEDED
        assert waiting.cancelled.wait(TIMEOUT_S)


def test_a_batch_that_is_given_up_stops_costing():
    waiting = Waiting()
    with running(FakeDataplane(waiting.answer)) as server:
        call = server.stub.RecommendBatch.future(pb.RecommendBatchRequest(requests=[pb.RecommendRequest()] * 50))
        assert waiting.began.wait(TIMEOUT_S)
        call.cancel()
        assert waiting.cancelled.wait(TIMEOUT_S)


def test_beyond_the_limit_calls_are_told_to_come_again():
    waiting = Waiting()
    with running(FakeDataplane(waiting.answer), max_concurrent_rpcs=2) as server:
        calls = [server.stub.Recommend.future(pb.RecommendRequest(k=1)) for _ in range(3)]
        is_one_done = threading.Event()
        for call in calls:
            call.add_done_callback(lambda _: is_one_done.set())
        assert is_one_done.wait(TIMEOUT_S)
        [refused] = [call for call in calls if call.done()]
        code, problem = refusal(refused.result)
        assert code.name == KINDS[OverloadError].grpc
        assert problem.retry_after_s == KINDS[OverloadError].retry_after_s
        server.loop.call_soon_threadsafe(waiting.go.set)
        assert [len(call.result(TIMEOUT_S).items) for call in calls if call is not refused] == [1, 1]
        assert len(server.stub.Recommend(pb.RecommendRequest(k=1)).items) == 1


@pytest.mark.parametrize("metadata", [(), bearer("wrong"), (("authorization", "predict"),), (("x-sieve-arm", "a"),)])
def test_without_a_known_token_nothing_is_answered(metadata, tmp_path):
    dataplane = FakeDataplane()
    with running(dataplane, role_tokens(tmp_path)) as server:
        asking = (*metadata, ("x-request-id", "r-1"))
        code, problem = refusal(lambda: server.stub.Recommend(pb.RecommendRequest(), metadata=asking))
    assert (code, problem.field, problem.status) == (Code.UNAUTHENTICATED, "authorization", 401)
    assert problem.request_id == "r-1"
    assert dataplane.queries == []


@pytest.mark.parametrize(
    ("request_", "metadata", "field"),
    [
        (pb.RecommendRequest(), bearer("events"), "authorization"),
        (pb.RecommendRequest(explain=True), bearer("predict"), "explain"),
        (pb.RecommendRequest(), bearer("predict", ("x-sieve-arm", "canary")), "X-Sieve-Arm"),
    ],
)
def test_a_known_token_without_the_role_is_refused(guarded, request_, metadata, field):
    code, problem = refusal(lambda: guarded.stub.Recommend(request_, metadata=metadata))
    assert (code, problem.field, problem.status) == (Code.PERMISSION_DENIED, field, 403)


def test_an_admin_forces_an_arm_and_the_caller_is_known(tmp_path):
    dataplane = FakeDataplane()
    with running(dataplane, role_tokens(tmp_path)) as server:
        server.stub.Recommend(pb.RecommendRequest(explain=True), metadata=bearer("all", ("x-sieve-arm", "canary")))
        server.stub.Recommend(pb.RecommendRequest(), metadata=bearer("predict"))
    assert [(caller.name, caller.forced_arm) for caller in dataplane.callers] == [("all", "canary"), ("predict", None)]
    assert dataplane.callers[1].roles == {Role.PREDICT}


@pytest.mark.parametrize("field", ["X-Request-Id", "X-Sieve-Arm"])
def test_metadata_that_cannot_be_meant_is_named_as_over_http(plain, field):
    metadata = ((field.lower(), "x" * 200),)
    code, problem = refusal(lambda: plain.stub.Recommend(pb.RecommendRequest(), metadata=metadata))
    assert (code, problem.field) == (Code.INVALID_ARGUMENT, field)


def test_many_are_answered_in_their_order_and_each_fails_in_its_place(tmp_path):
    def answer(query):
        if query.user_id == "bug":
            raise KeyError("secret")
        if query.user_id == "down":
            raise StoreUnavailable("secret")
        return answer_of(query)

    requests = [
        pb.RecommendRequest(user_id="u1", k=1, request_id="a"),
        pb.RecommendRequest(explain=True, request_id="b"),
        pb.RecommendRequest(user_id="down"),
        pb.RecommendRequest(user_id="bug"),
        pb.RecommendRequest(user_id="u2", k=3),
    ]
    with running(FakeDataplane(answer), role_tokens(tmp_path)) as server:
        metadata = bearer("predict", ("x-request-id", "all"))
        results = server.stub.RecommendBatch(pb.RecommendBatchRequest(requests=requests), metadata=metadata).results
    assert [each.WhichOneof("result") for each in results] == ["answer", "problem", "problem", "problem", "answer"]
    assert [results[n].answer.request_id for n in (0, 4)] == ["a", "all"]
    assert [len(results[n].answer.items) for n in (0, 4)] == [1, 3]
    assert (results[1].problem.field, results[1].problem.request_id) == ("explain", "b")
    assert [each.problem.status for each in results[1:4]] == [403, 503, 500]
    assert "secret" not in str(results)


def test_a_mistake_in_one_request_of_many_refuses_the_call_and_is_named(plain):
    wrong = pb.RecommendRequest(context=pb.Context(time=Timestamp(seconds=10**15)))
    request = pb.RecommendBatchRequest(requests=[pb.RecommendRequest(), wrong])
    code, problem = refusal(lambda: plain.stub.RecommendBatch(request))
    assert (code, problem.field) == (Code.INVALID_ARGUMENT, "requests.1.context.time")


@pytest.mark.parametrize("requests", [[], [pb.RecommendRequest()] * 101, [pb.RecommendRequest(k=1000)] * 11])
def test_a_batch_is_bounded_in_requests_and_items(plain, requests):
    code, problem = refusal(lambda: plain.stub.RecommendBatch(pb.RecommendBatchRequest(requests=requests)))
    assert (code, problem.field) == (Code.INVALID_ARGUMENT, "requests")


def test_the_requests_of_a_batch_share_its_deadline():
    dataplane = FakeDataplane()
    batch = pb.RecommendBatchRequest(requests=[pb.RecommendRequest(k=1)] * 4)
    with running(dataplane, admission=Admission(default_deadline_ms=1000)) as server:
        server.stub.RecommendBatch(batch)
        server.stub.RecommendBatch(batch, timeout=20)
    budgets_ms = [deadline.budget_ms for deadline in dataplane.deadlines]
    assert all(500 < budget_ms <= 4000 for budget_ms in budgets_ms[:4])
    assert 4000 < budgets_ms[4] < 5200


def test_a_batch_lets_others_in_between():
    order = []

    def answer(query):
        if not order:
            asyncio.get_running_loop().call_soon(order.append, "another")
        order.append("one of many")
        return answer_of(query)

    with running(FakeDataplane(answer)) as server:
        server.stub.RecommendBatch(pb.RecommendBatchRequest(requests=[pb.RecommendRequest(k=1)] * 50))
    assert order.index("another") < 5


class Journal:
    """Keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, app, transport, status, seconds, prediction=None, request_id=None, traceparent=None):
        assert 0 < seconds < TIMEOUT_S
        self.notes.append((app, transport, status, prediction is not None, request_id, traceparent))


def test_the_journal_is_told_of_every_request_and_of_a_batch_of_each():
    def answer(query):
        if query.user_id == "down":
            raise StoreUnavailable("down")
        return answer_of(query)

    journal = Journal()
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    batch = pb.RecommendBatchRequest(
        requests=[pb.RecommendRequest(request_id="r-2"), pb.RecommendRequest(user_id="down", request_id="r-3")]
    )
    with running(FakeDataplane(answer), journal=journal) as server:
        server.stub.Recommend(pb.RecommendRequest(request_id="r-1"), metadata=(("traceparent", parent),))
        server.stub.RecommendBatch(batch)
        refusal(lambda: server.stub.Recommend(pb.RecommendRequest(k=0)))
        server.await_(asyncio.sleep(0))
    assert journal.notes == [
        ("recommend", "grpc", "OK", True, "r-1", parent),
        ("recommend", "grpc", "OK", True, "r-2", None),
        ("recommend", "grpc", "UNAVAILABLE", False, "r-3", None),
        ("recommend", "grpc", "INVALID_ARGUMENT", False, None, None),
    ]
