"""The outermost layer of the HTTP server: bounds bodies, and tells nothing of the inside when a bug escapes."""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException

from serving.api.problems import INTERNAL, MEDIA_TYPE, TOO_LARGE, Kind, new_error_id, problem

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
log = logging.getLogger(__name__)


class BodyTooLarge(HTTPException):
    """More bytes came than a body may have.

    An HTTPException, because that is what the framework lets through while it reads a body.
    """

    def __init__(self, max_body_bytes: int) -> None:
        super().__init__(TOO_LARGE.status, f"a body has at most {max_body_bytes} bytes")


class Guard:
    """ASGI middleware, inside the framework's own error page and outside everything else."""

    def __init__(self, app: Asgi, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            self._check_announced(scope)
            await self._app(scope, self._bounded(receive), answer)
        except BodyTooLarge as error:
            await answer.fail(TOO_LARGE, problem(TOO_LARGE, error.detail, field="body"))
        except Exception:
            error_id = new_error_id()
            log.exception("error %s in %s", error_id, scope["path"])
            detail = f"error {error_id}: the server's log says more"
            await answer.fail(INTERNAL, problem(INTERNAL, detail, error_id=error_id))

    def _check_announced(self, scope: MutableMapping[str, Any]) -> None:
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._max_body_bytes:
                raise BodyTooLarge(self._max_body_bytes)

    def _bounded(self, receive: Receive) -> Receive:
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise BodyTooLarge(self._max_body_bytes)
            return message

        return bounded


class _Answer:
    """Passes messages on and remembers whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_begun = False

    async def __call__(self, message: Message) -> None:
        self._has_begun = self._has_begun or message["type"] == "http.response.start"
        await self._send(message)

    async def fail(self, kind: Kind, document: dict[str, Any]) -> None:
        if self._has_begun:
            return
        body = orjson.dumps(document)
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        await self._send({"type": "http.response.start", "status": kind.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
