"""The HTTP surface over one recommender: it translates, and decides nothing."""

import json
import logging
from typing import Annotated, Any, Protocol

import orjson
from fastapi import Body, FastAPI, Header
from fastapi.exceptions import RequestValidationError
from fastapi.requests import Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from serving.api.guard import BodyTooLarge, Guard
from serving.api.problems import MEDIA_TYPE, NOT_JSON, SETUP, TOO_LARGE, Kind, error_problem, mistakes_problem, problem
from serving.core.answer import Answer
from serving.core.deadline import NO_DEADLINE, Deadline
from serving.core.query import Query
from serving.errors import DependencyError, SieveError

EXAMPLES = {
    "a user": {"value": {"user_id": "u0000001", "context": {"device": "tv", "country": "DE"}}},
    "someone new": {"value": {"session_id": "s1", "context": {"country": "US", "likes": ["i0000012"]}}},
    "more like this": {"value": {"user_id": "u0000001", "seed_items": ["i0000012"], "k": 10}},
    "explained": {"value": {"user_id": "u0000001", "k": 3, "explain": True}},
}
log = logging.getLogger(__name__)


class Application(Protocol):
    """What answers; `Recommender` is one."""

    def recommend(self, query: Query, *, deadline: Deadline) -> Answer: ...


class Service(Protocol):
    """Holds the application once a verified bundle is loaded."""

    @property
    def application(self) -> Application | None: ...

    @property
    def bundle(self) -> str | None:
        """APP/VERSION of what is loaded."""
        ...

    @property
    def reason(self) -> str:
        """Why there is no application yet."""
        ...

    @property
    def is_loading(self) -> bool:
        """Whether the first attempt to load is still under way."""
        ...


def create_http(service: Service, max_body_bytes: int) -> FastAPI:
    """The ASGI application with every route of this version."""
    app = FastAPI(
        title="Sieve",
        version="1",
        description="Machine-learned decisions. Errors are problem documents (RFC 9457).",
    )
    _add_recommend(app, service)
    _add_health(app, service)
    _add_errors(app)
    app.add_middleware(Guard, max_body_bytes=max_body_bytes)
    return app


def _add_recommend(app: FastAPI, service: Service) -> None:
    @app.post("/v1/recommend", responses=_responses(), tags=["recommend"], summary="A ranked list")
    async def recommend(
        query: Annotated[Query, Body(openapi_examples=EXAMPLES)],
        deadline_ms: Annotated[float | None, Header(alias="X-Sieve-Deadline-Ms", gt=0, le=600_000)] = None,
    ) -> Response:
        # Inline on purpose: a thread hop costs as much as the answer, which holds the loop for milliseconds.
        application = service.application
        if application is None:
            raise DependencyError(service.reason)
        deadline = NO_DEADLINE if deadline_ms is None else Deadline.after_ms(deadline_ms)
        return _json(application.recommend(query, deadline=deadline))


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["health"], summary="Whether the process answers")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz", tags=["health"], summary="Whether a verified bundle is loaded")
    async def readyz() -> Response:
        if service.application is None:
            return _problem(SETUP, problem(SETUP, service.reason, loading=service.is_loading))
        return _json({"status": "ready", "bundle": service.bundle})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(SieveError)
    async def sieve_error(request: Request, error: SieveError) -> Response:
        kind, document = error_problem(error)
        if "error_id" in document:
            log.error("error %s in %s: %s", document["error_id"], request.url.path, error, exc_info=error)
        return _problem(kind, document)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        if found and found[0]["type"] == "json_invalid":
            return _problem(NOT_JSON, problem(NOT_JSON, "the body is not valid JSON", field="body"))
        document = mistakes_problem([(_field(each["loc"]), str(each["msg"])) for each in found])
        return _problem(Kind(document["status"], "", ""), document)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        if isinstance(error, BodyTooLarge):
            return _problem(TOO_LARGE, problem(TOO_LARGE, error.detail, field="body"))
        kind = Kind(error.status_code, f"http-{error.status_code}", str(error.detail))
        return _problem(kind, problem(kind, str(error.detail)))


def _field(location: tuple[Any, ...]) -> str:
    """`('body', 'context', 'country')` is `context.country`; a header keeps its name, the body itself is `body`."""
    inside = location[1:] if location[0] in ("body", "header") else location
    return ".".join(map(str, inside)) or "body"


def _responses() -> dict[int | str, dict[str, Any]]:
    problem_content = {"content": {MEDIA_TYPE: {"schema": {"type": "object"}}}}
    return {
        200: {"model": Answer, "description": "The list, and how it came about"},
        422: {"description": "A mistake in the request, naming the field", **problem_content},
        503: {"description": "No verified bundle is loaded yet", **problem_content},
    }


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _problem(kind: Kind, document: dict[str, Any]) -> Response:
    headers = {} if kind.retry_after_s is None else {"Retry-After": str(kind.retry_after_s)}
    return Response(json.dumps(document), kind.status, headers, MEDIA_TYPE)
