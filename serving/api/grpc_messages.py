"""Between `sieve.v1` messages and the objects that every transport shares, by hand: no reflection per field."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import ListValue, NullValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from serving.api.protos.sieve.v1 import recommend_pb2
from serving.core.answer import Answer, ServedBy
from serving.core.query import MAX_IDS
from serving.errors import InvalidRequest

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SERVED_BY = {each: recommend_pb2.ServedBy.Value(f"SERVED_BY_{each.name}") for each in ServedBy}


def decode_request(body: bytes) -> recommend_pb2.RecommendRequest:
    """One request.

    Raises:
        InvalidRequest: the bytes are not such a message.
    """
    request = recommend_pb2.RecommendRequest()
    try:
        request.ParseFromString(body)
    except DecodeError:
        raise InvalidRequest("message", "is not a sieve.v1.RecommendRequest") from None
    return request


def decode_batch(body: bytes, max_batch: int) -> recommend_pb2.RecommendBatchRequest:
    """Many requests.

    A megabyte holds half a million empty requests, which would take the loop for 0.1 s, so they are counted first.

    Raises:
        InvalidRequest: the bytes are not such a message, or there are too many requests in it.
    """
    if _has_more_fields(body, max_batch):
        raise InvalidRequest("requests", f"a batch has at most {max_batch} requests")
    batch = recommend_pb2.RecommendBatchRequest()
    try:
        batch.ParseFromString(body)
    except DecodeError:
        raise InvalidRequest("message", "is not a sieve.v1.RecommendBatchRequest") from None
    return batch


def read_fields(request: recommend_pb2.RecommendRequest, request_id: str | None = None) -> dict[str, Any]:
    """The fields of the query that a message asks, still to be validated.

    request_id: taken where the message has none.
    """
    fields: dict[str, Any] = {field.name: value for field, value in request.ListFields()}
    if request_id is not None and "request_id" not in fields:
        fields["request_id"] = request_id
    if "context" in fields:
        context = {field.name: value for field, value in fields["context"].ListFields()}
        if "time" in context:
            context["time"] = _moment(context["time"])
        fields["context"] = _tuples(context)
    if "filters" in fields:
        fields["filters"] = _tuples({field.name: value for field, value in fields["filters"].ListFields()})
    return _tuples(fields)


def write_answer(answer: Answer) -> recommend_pb2.RecommendResponse:
    """The message that tells an answer."""
    message = recommend_pb2.RecommendResponse(
        prediction_id=answer.prediction_id,
        request_id=answer.request_id,
        served_by=SERVED_BY[answer.served_by],
        arm=answer.arm,
        bundle=answer.bundle,
        degraded=answer.degraded,
        cursor=answer.cursor,
        trace=None if answer.trace is None else write_struct(answer.trace),
    )
    add = message.items.add
    for item in answer.items:
        # Field by field takes half as long as a constructor with keywords.
        told = add()
        told.id = item.id
        told.score = item.score
        told.sources.extend(item.sources)
        told.reasons.extend(item.reasons)
        told.position = item.position
    return message


def write_struct(document: Mapping[str, Any]) -> Struct:
    """A JSON document as a Struct; a number that is not finite is null, as it is over HTTP.

    Raises:
        TypeError: something in it is no JSON.
    """
    return Struct(fields={str(key): _value(value) for key, value in document.items()})


def _value(value: Any) -> Value:
    match value:
        case str():
            return Value(string_value=value)
        case bool():
            return Value(bool_value=value)
        case None:
            return Value(null_value=NullValue.NULL_VALUE)
        case float() | int():
            finite = math.isfinite(value)
            return Value(number_value=value) if finite else Value(null_value=NullValue.NULL_VALUE)
        case Mapping():
            return Value(struct_value=write_struct(value))
        case list() | tuple():
            return Value(list_value=ListValue(values=[_value(each) for each in value]))
    raise TypeError(f"a trace cannot hold {type(value).__name__}")


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    # A repeated field is a view into the message, which is no sequence to pydantic. One value more than any list may
    # have is enough to be told so; a megabyte of them would hold the loop.
    return {
        name: value if isinstance(value, str | int | dict | datetime) else tuple(value[: MAX_IDS + 1])
        for name, value in fields.items()
    }


def _moment(time: Timestamp) -> datetime:
    # What a datetime cannot hold becomes one that validation refuses, so that the mistake is told like any other.
    try:
        return EPOCH + timedelta(seconds=time.seconds, microseconds=time.nanos // 1000)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def _has_more_fields(body: bytes, most: int) -> bool:
    """Whether a message has more than `most` fields at its top; one that is damaged has those before the damage."""
    at = 0
    try:
        for _ in range(most + 1):
            if at >= len(body):
                return False
            key, at = _varint(body, at)
            at = _after_value(body, at, key & 7)
    except IndexError:
        return False
    return True


def _after_value(body: bytes, at: int, wire_type: int) -> int:
    match wire_type:
        case 0:
            return _varint(body, at)[1]
        case 1:
            return at + 8
        case 2:
            length, at = _varint(body, at)
            return at + length
        case 5:
            return at + 4
    # A group, which no version of this message has, or nothing at all.
    raise InvalidRequest("message", "is not a sieve.v1.RecommendBatchRequest")


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while body[at] >= 0x80:
        value |= (body[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | body[at] << shift, at + 1
