"""One HTTP request and its answer, straight on ASGI: headers, a bounded body, whether the client is still there."""

import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson

from serving.api.admission import MAX_DEADLINE_MS
from serving.api.auth import Tokens
from serving.api.dataplane import Caller, Role
from serving.api.problems import MEDIA_TYPE, TOO_LARGE, WRONG_MEDIA, Kind, problem
from serving.core.query import opaque_id
from serving.errors import InvalidRequest

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

REQUEST_ID = "X-Request-Id"
DEADLINE = "X-Sieve-Deadline-Ms"
ARM = "X-Sieve-Arm"
ARM_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
MIN_DEADLINE_MS = 1.0
_READ = frozenset((
    b"authorization", b"content-length", b"content-type", b"traceparent", b"x-request-id", b"x-sieve-arm",
    b"x-sieve-deadline-ms",
))  # fmt: skip
_NUMBER = re.compile(rb"[0-9]{1,6}(?:\.[0-9]{1,20})?")
_ARM = re.compile(ARM_NAME)
_JSON = re.compile(rb"application/(?:[\w.+-]+\+)?json[ \t]*(?:;.*)?", re.IGNORECASE)
_JSON_TYPE = (b"content-type", b"application/json")
_PROBLEM_TYPE = (b"content-type", MEDIA_TYPE.encode())
_VISIBLE = "".join(map(chr, range(0x21, 0x7F)))


class Refused(Exception):
    """A request that HTTP itself refuses: `kind` and `document` say how."""

    def __init__(self, kind: Kind, document: dict[str, Any]) -> None:
        super().__init__(kind, document)
        self.kind = kind
        self.document = document


class ClientGone(Exception):
    """The client closed its connection: nobody reads an answer."""


class Exchange:
    """One request; `request_id` is the header's until the body's is known, `status` 0 until it is answered."""

    __slots__ = ("_headers", "_receive", "_send", "began_s", "echoes", "request_id", "status")

    def __init__(self, scope: Scope, receive: Receive, send: Send, echoes: bool = True) -> None:
        """echoes: whether answers carry `X-Request-Id`; not where the server around this does that itself."""
        self._headers: dict[bytes, bytes] = {name: value for name, value in scope["headers"] if name in _READ}
        self._receive = receive
        self._send = send
        self.echoes = echoes
        self.request_id: str | None = None
        self.status = 0
        self.began_s = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.began_s

    @property
    def traceparent(self) -> str | None:
        """The caller's W3C trace context, as it was sent."""
        value = self._headers.get(b"traceparent")
        return None if value is None else value.decode("latin-1")

    def read_request_id(self) -> None:
        """Takes the request id from its header, if there is one.

        Raises:
            InvalidRequest: it is not an opaque id.
        """
        value = self._headers.get(b"x-request-id")
        if value is not None:
            self.request_id = parse_request_id(value)

    def caller(self, tokens: Tokens) -> Caller:
        """Who asks, with the arm that the request forces.

        Raises:
            Unauthenticated: no token, or one that is not known.
            Forbidden: an arm is forced without the role for it.
            InvalidRequest: that is not an arm's name.
        """
        authorization = self._headers.get(b"authorization")
        caller = tokens.caller(None if authorization is None else authorization.decode("latin-1"))
        arm = self._headers.get(b"x-sieve-arm")
        return caller if arm is None else force_arm(caller, arm.decode("latin-1"))

    def budget_ms(self) -> float | None:
        """The request's deadline in milliseconds from now; None where it sets none.

        Raises:
            InvalidRequest: this is no number of milliseconds, or out of bounds.
        """
        value = self._headers.get(b"x-sieve-deadline-ms")
        if value is None:
            return None
        budget_ms = float(value) if _NUMBER.fullmatch(value) else 0.0
        if not MIN_DEADLINE_MS <= budget_ms <= MAX_DEADLINE_MS:
            raise InvalidRequest(DEADLINE, f"a number of milliseconds, {MIN_DEADLINE_MS:.0f} to {MAX_DEADLINE_MS:.0f}")
        return budget_ms

    async def body(self, max_bytes: int) -> bytes:
        """The whole JSON body; what is announced as too long is refused unread.

        Raises:
            Refused: it is too large, or not announced as JSON.
            ClientGone: it will never be complete.
        """
        self._check_announced(max_bytes)
        message = await self._receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body", False) and len(body) <= max_bytes:
            return body
        chunks, size = [body], len(body)
        while message["type"] == "http.request" and message.get("more_body", False) and size <= max_bytes:
            message = await self._receive()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
        if size > max_bytes:
            raise too_large(max_bytes)
        if message["type"] != "http.request":
            raise ClientGone
        return b"".join(chunks)

    def is_gone(self) -> bool:
        """Whether the client is known to have closed its connection, once the body is read; never waits.

        What `receive` has to say is taken by one step of its coroutine, which is closed if it would wait.
        """
        waiting = self._receive().__await__()
        try:
            next(waiting)
        except StopIteration as done:
            return bool(done.value["type"] == "http.disconnect")
        waiting.close()
        return False

    async def reply(self, body: bytes) -> None:
        """Sends an answer in JSON."""
        await self._reply(200, _JSON_TYPE, body)

    async def refuse(self, kind: Kind, document: dict[str, Any]) -> None:
        """Sends a problem document, with the request's id in it."""
        if self.request_id is not None:
            document = {**document, "request_id": self.request_id}
        await self._reply(kind.status, _PROBLEM_TYPE, orjson.dumps(document), problem_headers(kind))

    async def _reply(
        self, status: int, content_type: tuple[bytes, bytes], body: bytes, more: dict[str, str] | None = None
    ) -> None:
        headers = [content_type, (b"content-length", b"%d" % len(body))]
        if more:
            headers += [(name.lower().encode(), value.encode()) for name, value in more.items()]
        if self.request_id is not None and self.echoes:
            headers.append((b"x-request-id", quote(self.request_id, safe=_VISIBLE).encode()))
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    def _check_announced(self, max_bytes: int) -> None:
        media = self._headers.get(b"content-type", b"")
        if media != b"application/json" and not _JSON.fullmatch(media):
            raise Refused(WRONG_MEDIA, problem(WRONG_MEDIA, "send `Content-Type: application/json`", field="body"))
        length = self._headers.get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > max_bytes):
            raise too_large(max_bytes)


def too_large(max_bytes: int) -> Refused:
    """What a body beyond the limit is answered with."""
    return Refused(TOO_LARGE, problem(TOO_LARGE, f"a body has at most {max_bytes} bytes", field="body"))


def force_arm(caller: Caller, arm: str) -> Caller:
    """The caller with an arm forced.

    Raises:
        Forbidden: that needs the admin role.
        InvalidRequest: that is not an arm's name.
    """
    caller.require(Role.ADMIN, ARM)
    if not _ARM.fullmatch(arm):
        raise InvalidRequest(ARM, "an arm's name is letters, digits, `.`, `_` and `-`, at most 64")
    return replace(caller, forced_arm=arm)


def parse_request_id(value: bytes) -> str:
    """The id that an `X-Request-Id` header holds.

    Raises:
        InvalidRequest: it is not an opaque id.
    """
    try:
        return opaque_id(value.decode())
    except UnicodeDecodeError:
        raise InvalidRequest(REQUEST_ID, "this is not UTF-8") from None
    except ValueError as error:
        raise InvalidRequest(REQUEST_ID, str(error)) from None


def problem_headers(kind: Kind) -> dict[str, str]:
    """The headers that go with a problem: when to try again, and how to authenticate."""
    headers = {}
    if kind.retry_after_s is not None:
        headers["Retry-After"] = str(kind.retry_after_s)
    if kind.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="sieve"'
    return headers
