"""`POST /v1/recommend`, one request or many, on bare ASGI: a framework's machinery would cost more than the answer."""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from serving.api.admission import MAX_DEADLINE_MS, Admission
from serving.api.auth import Tokens
from serving.api.dataplane import Caller, Dataplane, Journal, NoJournal, Role
from serving.api.exchange import ClientGone, Exchange, Receive, Refused, Scope, Send
from serving.api.problems import INTERNAL, NOT_JSON, Kind, error_problem, mistakes_problem, new_error_id, problem
from serving.core.answer import Answer
from serving.core.deadline import Deadline
from serving.core.prediction import Prediction
from serving.core.query import Query
from serving.errors import InvalidRequest, SetupError, SieveError

APP = "recommend"
PATH = "/v1/recommend"
BATCH_PATH = "/v1/recommend/batch"
MAX_BATCH_ITEMS = 10_000
MAX_FIELD = 128
MAX_MISTAKES = 1000
EXPECTED = (Refused, SieveError)
B = TypeVar("B", bound=BaseModel)
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Desk:
    """What every endpoint works with.

    max_body_bytes: of a request, and of a whole batch.
    echoes_request_id: whether answers carry `X-Request-Id`.
    journal: told of each request once it is answered; of a batch, of each of its requests.
    """

    dataplane: Dataplane
    tokens: Tokens
    admission: Admission
    max_body_bytes: int = 1_000_000
    max_batch: int = 100
    echoes_request_id: bool = True
    journal: Journal = field(default_factory=NoJournal)

    def note(self, exchange: Exchange, status: int, seconds: float, prediction: Prediction | None = None) -> None:
        """Tells the journal of one request."""
        request_id = exchange.request_id if prediction is None else prediction.answer.request_id
        self.journal.note(APP, "http", str(status), seconds, prediction, request_id, exchange.traceparent)


class Endpoint(ABC):
    """One POST address: reads, asks the dataplane, and tells whatever goes wrong as a problem document."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._desk.echoes_request_id)
        try:
            body, prediction = await self._answer(exchange)
        except ClientGone:
            self._desk.admission.observer.cancelled(APP)
            return
        except EXPECTED as error:
            refusal = told(error, scope["path"])
        except Exception:
            error_id = new_error_id()
            log.exception("error %s in %s", error_id, scope["path"])
            refusal = internal(error_id)
        else:
            await exchange.reply(body)
            if prediction is not None:
                self._desk.note(exchange, exchange.status, exchange.seconds, prediction)
            return
        await exchange.refuse(*refusal)
        self._desk.note(exchange, exchange.status, exchange.seconds)

    @abstractmethod
    async def _answer(self, exchange: Exchange) -> tuple[bytes, Prediction | None]:
        """The answer's JSON, and what is to be noted of it once it has gone out."""


class RecommendEndpoint(Endpoint):
    """One ranked list."""

    async def _answer(self, exchange: Exchange) -> tuple[bytes, Prediction | None]:
        desk = self._desk
        exchange.read_request_id()
        caller = exchange.caller(desk.tokens)
        caller.require(Role.PREDICT, "authorization")
        deadline = desk.admission.enter(APP, exchange.budget_ms())
        query = identified(parse(Query, await exchange.body(desk.max_body_bytes)), exchange)
        if query.explain:
            caller.require(Role.EXPLAIN, "explain")
        if await desk.admission.turn(APP, deadline) and exchange.is_gone():
            raise ClientGone
        prediction = await desk.dataplane.recommend(query, deadline, caller)
        return encode(prediction.answer), prediction


class BatchEndpoint(Endpoint):
    """Many lists in one call, each of them waiting for its turn like a request of its own."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self.model = batch_model(desk.max_batch)

    async def _answer(self, exchange: Exchange) -> tuple[bytes, Prediction | None]:
        desk = self._desk
        exchange.read_request_id()
        caller = exchange.caller(desk.tokens)
        caller.require(Role.PREDICT, "authorization")
        budget_ms = exchange.budget_ms()
        batch = parse(self.model, await exchange.body(desk.max_body_bytes))
        queries: tuple[Query, ...] = batch.requests  # type: ignore[attr-defined]
        if sum(query.k for query in queries) > MAX_BATCH_ITEMS:
            raise InvalidRequest("requests", f"a batch asks for at most {MAX_BATCH_ITEMS} items in all")
        if budget_ms is None:
            budget_ms = min(desk.admission.default_deadline_ms * len(queries), MAX_DEADLINE_MS)
        whole = desk.admission.enter(APP, budget_ms)
        answers = [
            orjson.Fragment(await self._one(query, whole, len(queries) - i, caller, exchange))
            for i, query in enumerate(queries)
        ]
        return orjson.dumps({"request_id": exchange.request_id, "answers": answers}), None

    async def _one(self, query: Query, whole: Deadline, left: int, caller: Caller, exchange: Exchange) -> bytes:
        """One answer or problem; it may take the part of the batch's time that falls to each one `left`."""
        query = identified(query, exchange, is_alone=False)
        began_s = exchange.seconds
        try:
            await self._desk.admission.turn(APP, whole)
            if exchange.is_gone():
                raise ClientGone
            if query.explain:
                caller.require(Role.EXPLAIN, "explain")
            share = Deadline.after_ms(whole.remaining_ms() / left)
            prediction = await self._desk.dataplane.recommend(query, share, caller)
            body = encode(prediction.answer)
            self._desk.note(exchange, 200, exchange.seconds - began_s, prediction)
            return body
        except EXPECTED as error:
            document = told(error, BATCH_PATH)[1]
        except ClientGone:
            raise
        except Exception:
            error_id = new_error_id()
            log.exception("error %s in %s", error_id, BATCH_PATH)
            document = internal(error_id)[1]
        self._desk.note(exchange, document["status"], exchange.seconds - began_s)
        return orjson.dumps({**document, "request_id": query.request_id})


def batch_model(max_batch: int) -> type[BaseModel]:
    """The closed schema of a batch's body."""
    requests = Annotated[tuple[Query, ...], FailFast(), Field(min_length=1, max_length=max_batch)]
    config = ConfigDict(extra="forbid", frozen=True)
    return create_model("Batch", __config__=config, __doc__="Many requests in one call.", requests=(requests, ...))


def parse(model: type[B], body: bytes) -> B:
    """A body by its schema: no number from a string, no flag from a number; of a key given twice the last counts.

    Raises:
        Refused: naming every field that is wrong.
    """
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise Refused(*mistakes(error)) from None


def identified(query: Query, exchange: Exchange, is_alone: bool = True) -> Query:
    """The query with a request id: its own, else the header's; where it is alone, the exchange gets it too."""
    if query.request_id is None:
        known = exchange.request_id
        return query if known is None else query.model_copy(update={"request_id": known})
    if is_alone:
        exchange.request_id = query.request_id
    return query


def encode(answer: Answer) -> bytes:
    """An answer in JSON."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def told(error: Refused | SieveError, where: str) -> tuple[Kind, dict[str, Any]]:
    """What a client is told of an expected error; what is not its own mistake is logged, with an id."""
    if isinstance(error, Refused):
        return error.kind, error.document
    kind, document = error_problem(error)
    if "error_id" in document:
        # that nothing is loaded yet needs no traceback for every request
        traceback = None if isinstance(error, SetupError) else error
        log.error("error %s in %s: %s", document["error_id"], where, error, exc_info=traceback)
    return kind, document


def internal(error_id: str) -> tuple[Kind, dict[str, Any]]:
    """What a client is told of a bug."""
    return INTERNAL, problem(INTERNAL, f"error {error_id}: the server's log says more", error_id=error_id)


def mistakes(error: ValidationError) -> tuple[Kind, dict[str, Any]]:
    """Each mistake of a body by its field, or that it is no JSON; of very many only their number, which is cheap."""
    if error.error_count() > MAX_MISTAKES:
        return mistakes_problem([("body", f"there are {error.error_count()} mistakes in it")])
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return NOT_JSON, problem(NOT_JSON, str(found[0]["msg"]), field="body")
    told = [(_field(e["loc"]), str(e["msg"]).removeprefix("Value error, ")) for e in found if not _is_echo(e, found)]
    return mistakes_problem(told)


def _is_echo(each: ErrorDetails, found: list[ErrorDetails]) -> bool:
    """Whether a list is said to be too short only because what is in it is wrong."""
    place = each["loc"]
    return each["type"] == "too_short" and any(e["loc"][: len(place)] == place != e["loc"] for e in found)


def _field(location: tuple[int | str, ...]) -> str:
    """`('context', 'country')` is `context.country`; the whole body is `body`."""
    return ".".join(map(str, location))[:MAX_FIELD] or "body"
