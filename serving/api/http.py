"""The HTTP surface over one dataplane: it translates, and decides nothing."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.requests import Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from serving.api.admission import Admission
from serving.api.auth import Tokens
from serving.api.dataplane import Dataplane, Journal, NoJournal
from serving.api.exchange import REQUEST_ID, Asgi, Receive, Scope, Send, parse_request_id, problem_headers
from serving.api.guard import Guard
from serving.api.openapi import SECURITY, complete, problem_responses
from serving.api.problems import MEDIA_TYPE, SETUP, Kind, kind_of_status, problem
from serving.api.recommend import BATCH_PATH, PATH, BatchEndpoint, Desk, RecommendEndpoint, told
from serving.errors import InvalidRequest, SieveError

Metrics = Callable[[], Awaitable[tuple[str, bytes]]]
DRAINING = "the server is shutting down"


class SieveHttp(FastAPI):
    """The routes; those in `fast` are dispatched by their path alone, past the framework's layers."""

    def __init__(self, fast: dict[str, Any], **settings: Any) -> None:
        super().__init__(**settings)
        self._fast: dict[tuple[str, str], Asgi] = {("POST", path): endpoint for path, endpoint in fast.items()}
        self.router.routes[:0] = [Route(path, endpoint, methods=["POST"]) for path, endpoint in fast.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            endpoint = self._fast.get((scope["method"], scope["path"]))
            if endpoint is not None:
                await endpoint(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


def create_http(
    dataplane: Dataplane,
    *,
    tokens: Tokens | None = None,
    admission: Admission | None = None,
    max_body_bytes: int = 1_000_000,
    max_batch: int = 100,
    echoes_request_id: bool = True,
    metrics: Metrics | None = None,
    journal: Journal | None = None,
) -> FastAPI:
    """The ASGI application with every route of this version.

    tokens: None lets everyone do everything.
    admission: shared with the process's other transports.
    echoes_request_id: False where the server around this sends `X-Request-Id` itself, as Ray Serve does.
    metrics: content type and body of `/metrics`; None leaves the route out.
    journal: told of each request for a list once it is answered.
    """
    tokens = tokens or Tokens()
    admission = admission or Admission()
    journal = journal or NoJournal()
    desk = Desk(dataplane, tokens, admission, max_body_bytes, max_batch, echoes_request_id, journal)
    batch = BatchEndpoint(desk)
    app = SieveHttp(
        {PATH: RecommendEndpoint(desk), BATCH_PATH: batch},
        title="Sieve",
        version="1",
        description="Machine-learned decisions. Errors are problem documents (RFC 9457).",
        lifespan=_lifespan(admission),
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.is_draining = False  # also where nothing runs the lifespan
    _add_health(app, dataplane)
    if metrics is not None:
        _add_metrics(app, metrics, tokens)
    _add_errors(app)
    app.add_middleware(Guard)
    _complete_openapi(app, batch)
    return app


def _lifespan(admission: Admission) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.is_draining = False
        yield
        app.state.is_draining = True
        admission.lag.stop()

    return lifespan


def _add_health(app: FastAPI, dataplane: Dataplane) -> None:
    @app.get("/healthz", tags=["health"], summary="Whether the process answers")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    responses = problem_responses(503)

    @app.get("/readyz", tags=["health"], summary="Whether a verified bundle is loaded", responses=responses)
    async def readyz(request: Request) -> Response:
        now = dataplane.readiness()
        if app.state.is_draining:
            return _problem(request, SETUP, problem(SETUP, DRAINING, loading=False))
        if not now.is_ready:
            return _problem(request, SETUP, problem(SETUP, now.reason, loading=now.is_loading))
        return _json({"status": "ready", "bundles": now.bundles})


def _add_metrics(app: FastAPI, metrics: Metrics, tokens: Tokens) -> None:
    page_content = {200: {"description": "The page", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    responses = page_content | problem_responses(401)

    @app.get(
        "/metrics",
        tags=["health"],
        summary="Prometheus' metrics; any token will do",
        responses=responses,
        response_class=Response,
        openapi_extra={"security": SECURITY},
    )
    async def page(request: Request) -> Response:
        tokens.caller(request.headers.get("authorization"))
        content_type, body = await metrics()
        return Response(body, headers={"content-type": content_type})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(SieveError)
    async def sieve_error(request: Request, error: SieveError) -> Response:
        return _problem(request, *told(error, request.url.path))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        kind = kind_of_status(error.status_code)
        return _problem(request, kind, problem(kind, str(error.detail)), error.headers)


def _complete_openapi(app: FastAPI, batch: BatchEndpoint) -> None:
    of_the_framework = app.openapi
    made: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not made:
            made.update(complete(of_the_framework(), batch.model))
        return made

    app.openapi = openapi  # type: ignore[method-assign]


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


def _problem(
    request: Request, kind: Kind, document: dict[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    with suppress(KeyError, InvalidRequest):
        document["request_id"] = parse_request_id(request.headers[REQUEST_ID].encode("latin-1"))
    return Response(orjson.dumps(document), kind.status, {**problem_headers(kind), **(headers or {})}, MEDIA_TYPE)
