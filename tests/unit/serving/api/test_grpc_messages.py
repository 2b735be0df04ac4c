import dataclasses
import math
from datetime import UTC, datetime

import pytest
from google.protobuf.json_format import MessageToDict

from serving.api.grpc_messages import SERVED_BY, decode_batch, decode_request, read_fields, write_answer, write_struct
from serving.api.protos.sieve.v1 import recommend_pb2 as pb
from serving.core.answer import Answer, AnswerItem, ServedBy
from serving.core.query import Context, Filters, Query
from serving.errors import InvalidRequest


def query_of(request: pb.RecommendRequest) -> Query:
    return Query.model_validate(read_fields(decode_request(request.SerializeToString())))


def test_an_empty_message_is_the_query_that_says_nothing():
    assert query_of(pb.RecommendRequest()) == Query()


def test_every_field_of_a_message_reaches_the_query():
    request = pb.RecommendRequest(
        user_id="ü1",
        session_id="s1",
        k=7,
        context=pb.Context(device="tv", surface="home", country="DE", likes=["i1", "i2"]),
        filters=pb.Filters(genres=["Drama"], year_from=0, year_to=1999),
        exclude=["i3"],
        seed_items=["i4", "i5"],
        cursor="c",
        explain=True,
        request_id="r-1",
    )
    moment = datetime(2026, 4, 1, 20, 15, 30, 250_000, tzinfo=UTC)
    request.context.time.FromDatetime(moment)
    assert query_of(request) == Query(
        user_id="ü1",
        session_id="s1",
        k=7,
        context=Context(device="tv", surface="home", country="DE", time=moment, likes=("i1", "i2")),
        filters=Filters(genres=("Drama",), year_from=0, year_to=1999),
        exclude=("i3",),
        seed_items=("i4", "i5"),
        cursor="c",
        explain=True,
        request_id="r-1",
    )


def test_what_is_set_to_nothing_is_a_mistake_and_not_a_default():
    fields = read_fields(pb.RecommendRequest(user_id="", k=0))
    assert (fields["user_id"], fields["k"]) == ("", 0)


@pytest.mark.parametrize(
    ("message", "model"), [(pb.RecommendRequest, Query), (pb.Context, Context), (pb.Filters, Filters)]
)
def test_messages_ask_what_can_be_asked_over_http(message, model):
    assert {field.name for field in message.DESCRIPTOR.fields} == set(model.model_fields)


@pytest.mark.parametrize(("message", "cls"), [(pb.RecommendResponse, Answer), (pb.AnswerItem, AnswerItem)])
def test_messages_tell_what_is_told_over_http(message, cls):
    assert {field.name for field in message.DESCRIPTOR.fields} == {field.name for field in dataclasses.fields(cls)}


def test_every_link_of_the_fallback_chain_has_its_own_value():
    assert set(SERVED_BY) == set(ServedBy)
    assert sorted(SERVED_BY.values()) == list(range(1, len(pb.ServedBy.keys())))


def test_every_field_of_an_answer_is_told():
    item = AnswerItem("i1", -0.1, ["two_tower", "popular"], ["your_taste"], 0)
    answer = Answer(
        "p1", "r1", [item], ServedBy.BUNDLED, "canary", "recommend/v1", ["ranker"], "next", {"stages": [{"ms": 0.5}]}
    )
    message = pb.RecommendResponse.FromString(write_answer(answer).SerializeToString())
    told = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    assert told == dataclasses.asdict(answer) | {"served_by": "SERVED_BY_BUNDLED"}


def test_what_an_answer_does_not_have_is_absent():
    message = write_answer(Answer("p1", None, [], ServedBy.POPULAR, "stable", "recommend/v1"))
    assert [message.HasField(field) for field in ("request_id", "cursor", "trace")] == [False] * 3


def test_a_trace_is_the_same_document_as_over_http():
    document = {"a": None, "b": True, "c": 3, "d": 0.25, "e": "é", "f": [1, [], {"g": {}}], "h": (2,), "": False}
    assert MessageToDict(write_struct(document)) == document | {"h": [2]}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null(number):
    assert MessageToDict(write_struct({"score": number})) == {"score": None}


def test_what_is_no_json_is_no_trace():
    with pytest.raises(TypeError, match="bytes"):
        write_struct({"a": b"x"})


@pytest.mark.parametrize("decode", [decode_request, lambda body: decode_batch(body, 100)], ids=["one", "many"])
@pytest.mark.parametrize("body", [b"\x0a", b"\x0a\x05abc", b"\x0a\x01\xff", b"{}"])
def test_bytes_that_are_no_message_are_refused(decode, body):
    with pytest.raises(InvalidRequest):
        decode(body)


def test_requests_are_counted_before_they_are_decoded():
    requests = [pb.RecommendRequest(), pb.RecommendRequest(user_id="u" * 300, k=7)] * 50
    body = pb.RecommendBatchRequest(requests=requests).SerializeToString()
    assert len(decode_batch(body, 100).requests) == 100
    with pytest.raises(InvalidRequest, match="at most 100 requests"):
        decode_batch(body + b"\x0a\x00", 100)
    with pytest.raises(InvalidRequest, match="at most 100 requests"):
        decode_batch(b"\x0a\x00" * 101 + b"\xff", 100)


def test_fields_of_every_wire_type_are_stepped_over():
    unknown = b"\x10\xff\x01" + b"\x19" + b"\x07" * 8 + b"\x22\x02ab" + b"\x2d" + b"\x07" * 4
    assert len(decode_batch(unknown + b"\x0a\x00", 5).requests) == 1
    for more_than_there_may_be in (unknown + b"\x0a\x00", b"\x7b\x7c" + b"\x0a\x00" * 5):
        with pytest.raises(InvalidRequest):
            decode_batch(more_than_there_may_be, 4)
