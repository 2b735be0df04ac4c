"""What Ray Serve's own ingress would answer with, told as the rest of the surface tells it.

Ray reads some headers as UTF-8 before a request reaches the application, and answers 500 where they are not; and what
it refuses itself (too many requests in a replica, its own time limit, an unknown prefix) it refuses in plain text.
Ray puts the middlewares that `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH` names around every replica's HTTP server:
`serving.api.ingress:middlewares`. Read in Ray 2.60, ray/serve/_private: replica.py, http_util.py.
"""

from starlette.middleware import Middleware

from serving.api.exchange import Asgi, Exchange, Message, Receive, Scope, Send
from serving.api.problems import MEDIA_TYPE, error_problem, kind_of_status, problem
from serving.errors import InvalidRequest

READ_BY_RAY = frozenset((
    b"x-request-id", b"x-request-timeout-seconds", b"x-session-id", b"serve_multiplexed_model_id",
    b"serve-multiplexed-model-id", b"traceparent", b"tracestate",
))  # fmt: skip
RAYS_OWN = "/-/"
_PROBLEM = (b"content-type", MEDIA_TYPE.encode())


def middlewares() -> list[Middleware]:
    """What Ray puts around the HTTP server of each replica."""
    return [Middleware(Ingress)]


class Ingress:
    """ASGI middleware outside of Ray's own handling of a request."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(RAYS_OWN):
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name in READ_BY_RAY and not _is_utf8(value):
                mistake = InvalidRequest(name.decode(), "this is not UTF-8")
                await Exchange(scope, receive, send).refuse(*error_problem(mistake))
                return
        await self._app(scope, receive, _Translated(scope, receive, send))


class _Translated:
    """Passes an answer on, or a problem document in the place of a refusal that is none."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_replaced = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400 and not _is_problem(message):
            self._is_replaced = True
            kind = kind_of_status(message["status"])
            await Exchange(self._scope, self._receive, self._send).refuse(kind, problem(kind, kind.title))
        elif not self._is_replaced:
            await self._send(message)


def _is_problem(message: Message) -> bool:
    return _PROBLEM in [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
