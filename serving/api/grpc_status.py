"""What an error is to a gRPC client: a status code, and the same problem document as over HTTP.

The document travels as `grpc-status-details-bin`, gRPC's richer error model: a google.rpc.Status whose
details are a `sieve.v1.Problem`, a google.rpc.BadRequest and a google.rpc.RetryInfo, the last two where they
apply. All of it stays well below the 8 KiB of metadata that a client accepts.
"""

import logging
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from serving.api.problems import Kind, new_error_id
from serving.api.protos.sieve.v1.problem_pb2 import Problem
from serving.api.recommend import EXPECTED, internal, told

DETAILS_KEY = "grpc-status-details-bin"
MAX_MISTAKES = 10
MAX_TEXT_BYTES = 120
MAX_DETAIL_BYTES = 256
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """One error as a client reads it."""

    code: grpc.StatusCode
    problem: Problem

    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The trailing metadata that carries the details."""
        details: list[Message] = [self.problem]
        if self.problem.errors:
            details.append(_bad_request(self.problem))
        if self.problem.HasField("retry_after_s"):
            delay = Duration(seconds=self.problem.retry_after_s)
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        number: int = self.code.value[0]
        status = status_pb2.Status(code=number, message=self.problem.detail, details=[_any(each) for each in details])
        return ((DETAILS_KEY, status.SerializeToString()),)


def failure_of(error: Exception, method: str, request_id: str | None = None) -> Failure:
    """What a client of `method` is told of `error`; what is not the client's mistake is logged under an id."""
    if isinstance(error, EXPECTED):
        kind, document = told(error, method)
    else:
        error_id = new_error_id()
        log.error("error %s in %s", error_id, method, exc_info=error)
        kind, document = internal(error_id)
    return Failure(grpc.StatusCode[kind.grpc], _problem(document, kind, request_id))


def _problem(document: dict[str, Any], kind: Kind, request_id: str | None) -> Problem:
    mistakes = [
        Problem.Mistake(field=_cut(each["field"], MAX_TEXT_BYTES), problem=_cut(each["problem"], MAX_TEXT_BYTES))
        for each in document.get("errors", ())[:MAX_MISTAKES]
    ]
    field = document.get("field")
    return Problem(
        type=document["type"],
        title=document["title"],
        status=document["status"],
        detail=_cut(document["detail"], MAX_DETAIL_BYTES),
        field=None if field is None else _cut(field, MAX_TEXT_BYTES),
        errors=mistakes,
        error_id=document.get("error_id"),
        retry_after_s=kind.retry_after_s,
        request_id=request_id,
    )


def _bad_request(found: Problem) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation
    return error_details_pb2.BadRequest(
        field_violations=[violation(field=each.field, description=each.problem) for each in found.errors]
    )


def _any(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _cut(text: str, max_bytes: int) -> str:
    return text.encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")
