"""`sieve.v1.RecommendService`: it translates calls, answers and errors, and decides nothing."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc
from pydantic import BaseModel, ValidationError

from serving.api.admission import MAX_DEADLINE_MS
from serving.api.auth import Tokens
from serving.api.dataplane import ANONYMOUS, Caller, Role
from serving.api.exchange import Refused, force_arm, parse_request_id
from serving.api.grpc_messages import decode_batch, decode_request, read_fields, write_answer
from serving.api.grpc_status import failure_of
from serving.api.protos.sieve.v1 import recommend_pb2
from serving.api.recommend import APP, MAX_BATCH_ITEMS, Desk, batch_model, mistakes
from serving.core.deadline import Deadline
from serving.core.prediction import Prediction
from serving.core.query import Query
from serving.errors import InvalidRequest, OverloadError

SERVICE: str = recommend_pb2.DESCRIPTOR.services_by_name["RecommendService"].full_name

TRANSPORT = "grpc"
OK = grpc.StatusCode.OK.name

M = TypeVar("M", bound=BaseModel)
Metadata = Mapping[str, str | bytes]
Method = Callable[[bytes, "Call"], Awaitable[tuple[bytes, Prediction | None]]]


class Call:
    """What comes with a call beside its message: under which id, who asks, by when, and in which trace."""

    __slots__ = ("_began_s", "budget_ms", "caller", "request_id", "traceparent")

    def __init__(self) -> None:
        self._began_s = time.perf_counter()
        self.request_id: str | None = None
        self.traceparent: str | None = None
        self.caller = ANONYMOUS
        self.budget_ms: float | None = None

    def read(self, context: grpc.aio.ServicerContext, tokens: Tokens) -> None:
        """
        Raises:
            Unauthenticated: no token, or one that is not known.
            Forbidden: it lacks the role for this.
            InvalidRequest: metadata that cannot be meant.
        """
        metadata = metadata_of(context)
        traceparent = metadata.get("traceparent")
        self.traceparent = traceparent if isinstance(traceparent, str) else None
        request_id = metadata.get("x-request-id")
        if request_id is not None:
            self.request_id = parse_request_id(_bytes(request_id))
        self.caller = caller_of(metadata, tokens, Role.PREDICT)
        self.budget_ms = _budget_ms(context)

    @property
    def seconds(self) -> float:
        """Since it arrived."""
        return time.perf_counter() - self._began_s


class RecommendService:
    """The service's methods over one data plane, at most `max_concurrent_rpcs` of them at a time."""

    def __init__(self, desk: Desk, max_concurrent_rpcs: int) -> None:
        self._desk = desk
        self._max_concurrent_rpcs = max_concurrent_rpcs
        self._batch = batch_model(desk.max_batch)
        self.ongoing = 0
        """Calls that are being answered."""

    def handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """By method name. Messages are decoded in here, because gRPC tells one that it cannot decode as UNKNOWN."""
        methods: dict[str, Method] = {"Recommend": self._recommend, "RecommendBatch": self._recommend_batch}
        return {
            name: grpc.unary_unary_rpc_method_handler(self._answered(f"{SERVICE}/{name}", method))
            for name, method in methods.items()
        }

    def _answered(self, name: str, method: Method) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]:
        async def handler(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
            call = Call()
            self.ongoing += 1
            try:
                self._check_room()
                call.read(context, self._desk.tokens)
                answer, prediction = await method(body, call)
            except Exception as error:  # noqa: BLE001, it is logged and told under an id
                failure = failure_of(error, name, call.request_id)
            else:
                if prediction is not None:
                    self._note(call, OK, call.seconds, call.request_id, prediction)
                return answer
            finally:
                self.ongoing -= 1
            self._note(call, failure.code.name, call.seconds, call.request_id)
            await context.abort(failure.code, failure.problem.detail, failure.metadata())
            return b""  # not reached: abort raises

        return handler

    def _note(
        self, call: Call, status: str, seconds: float, request_id: str | None, prediction: Prediction | None = None
    ) -> None:
        """Tells the journal of one request, once the loop has sent what this step answers."""
        note = self._desk.journal.note
        asyncio.get_running_loop().call_soon(
            note, APP, TRANSPORT, status, seconds, prediction, request_id, call.traceparent
        )

    def _check_room(self) -> None:
        if self.ongoing > self._max_concurrent_rpcs:
            self._desk.admission.observer.shed(APP, "concurrency")
            raise OverloadError(f"{self._max_concurrent_rpcs} calls are being answered")

    async def _recommend(self, body: bytes, call: Call) -> tuple[bytes, Prediction | None]:
        admission = self._desk.admission
        deadline = admission.enter(APP, call.budget_ms)
        query = _validated(Query, read_fields(decode_request(body), call.request_id))
        call.request_id = query.request_id
        await admission.turn(APP, deadline)
        prediction = await self._answer(query, deadline, call.caller)
        return write_answer(prediction.answer).SerializeToString(), prediction

    async def _recommend_batch(self, body: bytes, call: Call) -> tuple[bytes, Prediction | None]:
        admission = self._desk.admission
        queries = self._read_batch(body, call.request_id)
        default_ms = min(admission.default_deadline_ms * len(queries), MAX_DEADLINE_MS)
        whole = admission.enter(APP, default_ms if call.budget_ms is None else call.budget_ms)
        results = [await self._result(query, whole, len(queries) - i, call) for i, query in enumerate(queries)]
        return recommend_pb2.RecommendBatchResponse(results=results).SerializeToString(), None

    def _read_batch(self, body: bytes, request_id: str | None) -> tuple[Query, ...]:
        batch = decode_batch(body, self._desk.max_batch)
        fields = tuple(read_fields(each, request_id) for each in batch.requests)
        queries: tuple[Query, ...] = _validated(self._batch, {"requests": fields}).requests  # type: ignore[attr-defined]
        if sum(query.k for query in queries) > MAX_BATCH_ITEMS:
            raise InvalidRequest("requests", f"a batch asks for at most {MAX_BATCH_ITEMS} items in all")
        return queries

    async def _result(self, query: Query, whole: Deadline, left: int, call: Call) -> recommend_pb2.RecommendResult:
        """One answer or problem; it may take the part of the batch's time that falls to each one `left`."""
        before_s = call.seconds
        try:
            await self._desk.admission.turn(APP, whole)
            share = Deadline.after_ms(whole.remaining_ms() / left)
            prediction = await self._answer(query, share, call.caller)
            result = recommend_pb2.RecommendResult(answer=write_answer(prediction.answer))
        except Exception as error:  # noqa: BLE001, it is logged and told under an id
            failure = failure_of(error, f"{SERVICE}/RecommendBatch", query.request_id)
            self._note(call, failure.code.name, call.seconds - before_s, query.request_id)
            return recommend_pb2.RecommendResult(problem=failure.problem)
        self._note(call, OK, call.seconds - before_s, query.request_id, prediction)
        return result

    async def _answer(self, query: Query, deadline: Deadline, caller: Caller) -> Prediction:
        if query.explain:
            caller.require(Role.EXPLAIN, "explain")
        return await self._desk.dataplane.recommend(query, deadline, caller)


def _validated(model: type[M], fields: dict[str, Any]) -> M:
    """
    Raises:
        Refused: naming every field that is wrong.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise Refused(*mistakes(error)) from None


def metadata_of(context: grpc.aio.ServicerContext) -> Metadata:
    """A call's metadata; of a key that came twice, the last."""
    return dict(context.invocation_metadata() or ())


def caller_of(metadata: Metadata, tokens: Tokens, role: Role) -> Caller:
    """Who calls, with the arm that the call forces.

    Raises:
        Unauthenticated: no token, or one that is not known.
        Forbidden: it lacks the role.
        InvalidRequest: an arm that is none.
    """
    authorization = metadata.get("authorization")
    caller = tokens.caller(authorization if isinstance(authorization, str) else None)
    caller.require(role, "authorization")
    arm = metadata.get("x-sieve-arm")
    return caller if arm is None else force_arm(caller, _bytes(arm).decode("latin-1"))


def _budget_ms(context: grpc.aio.ServicerContext) -> float | None:
    remaining_s = context.time_remaining()
    if remaining_s is None or not math.isfinite(remaining_s):
        return None
    return float(min(remaining_s * 1000, MAX_DEADLINE_MS))


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
