"""Structured logs: one line per event, which names the request that it belongs to.

Lines hold a closed set of fields, opaque ids among them and no other personal data, and never a request's body.
"""

import logging
import random
import sys
import time
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from serving.observability.recorder import Outcome
from serving.observability.settings import AccessLogSettings, LogSettings

# What `extra={...}` may put on a line; anything else is left out, so that no body gets into a log by mistake.
FIELDS = (
    "error_id", "app", "transport", "status", "latency_ms", "served_by", "arm", "bundle", "degraded", "stage",
    "suppressed",
)  # fmt: skip
MAX_MESSAGE = 4096
MAX_EXCEPTION = 16_384
# gRPC's codes for what is not the caller's doing.
GRPC_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})

_request: ContextVar[tuple[str | None, str | None]] = ContextVar("sieve_request", default=(None, None))
access = logging.getLogger("serving.access")


class RequestScope:
    """Puts a request's ids on every line that is logged inside a `with` block, also across its awaits."""

    __slots__ = ("_ids", "_token")

    def __init__(self, request_id: str | None, prediction_id: str | None = None) -> None:
        self._ids = (request_id, prediction_id)
        self._token: Token[tuple[str | None, str | None]] | None = None

    def __enter__(self) -> "RequestScope":
        self._token = _request.set(self._ids)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _request.reset(self._token)


class JsonFormatter(logging.Formatter):
    """One JSON object per event: time, level, logger, message, ids and the known extra fields that there are."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; exceptions are a member of it, so an event stays one line."""
        line: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _bounded(record.getMessage(), MAX_MESSAGE),
            **_context(record),
        }
        if record.exc_info:
            line["exception"] = _bounded(self.formatException(record.exc_info), MAX_EXCEPTION)
        return orjson.dumps(line, default=str).decode()


class TextFormatter(logging.Formatter):
    """The same for people: `time LEVEL logger message [name=value ...]`, exceptions on lines of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and a traceback's lines after it."""
        fields = " ".join(f"{name}={value}" for name, value in _context(record).items())
        message = _bounded(record.getMessage(), MAX_MESSAGE).replace("\n", "\\n")
        line = f"{_time(record.created)} {record.levelname} {record.name} {message}"
        line = f"{line} [{fields}]" if fields else line
        if record.exc_info:
            line = f"{line}\n{_bounded(self.formatException(record.exc_info), MAX_EXCEPTION)}"
        return line


class _Handler(logging.StreamHandler[TextIO]):
    """Ours among the root's handlers."""


def configure_logs(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Sends what this process logs to standard error; done again, it replaces what it did before.

    Everything of `serving` is logged from the configured level on, other packages (a user's own stages among them)
    from WARNING. The stream is the process's own standard error: in a replica, Ray Serve's throughput mode has put
    a logger in the place of `sys.stderr`, which drops what is written to it below its own level and delays the rest.
    """
    handler = _Handler(stream or sys.__stderr__)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("serving").setLevel(settings.level)


class AccessLog:
    """Logs one line for a request that is worth it: by default those that failed or were slow."""

    def __init__(self, settings: AccessLogSettings) -> None:
        self._settings = settings
        self._slow_s = settings.slow_ms / 1000
        self._second = 0
        self._lines = 0
        self._suppressed = 0

    def note(self, app: str, transport: str, outcome: Outcome, bundle: str = "") -> None:
        """Logs an answered request, or not; its ids come from the `RequestScope` around it."""
        if not self._is_wanted(outcome) or not self._has_room():
            return
        fields: dict[str, Any] = {
            "app": app,
            "transport": transport,
            "status": outcome.status,
            "latency_ms": round(outcome.seconds * 1000, 3),
            "served_by": str(outcome.served_by),
            "arm": str(outcome.arm),
            "bundle": bundle,
            "degraded": list(outcome.degraded),
        }
        if self._suppressed:
            fields["suppressed"], self._suppressed = self._suppressed, 0
        level = logging.WARNING if is_error(outcome.status) else logging.INFO
        access.log(level, "answered", extra={name: value for name, value in fields.items() if value})

    def _is_wanted(self, outcome: Outcome) -> bool:
        settings = self._settings
        if settings.requests == "all":
            return True
        if settings.requests == "notable" and (outcome.seconds > self._slow_s or is_error(outcome.status)):
            return True
        return settings.sample > 0 and random.random() < settings.sample

    def _has_room(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines > self._settings.lines_per_s:
            self._suppressed += 1
            return False
        return True


def is_error(status: str) -> bool:
    """Whether an HTTP status or gRPC code says that the server failed, and not the caller."""
    return status.startswith("5") or status in GRPC_ERRORS


def _context(record: logging.LogRecord) -> dict[str, Any]:
    request_id, prediction_id = _request.get()
    fields = {"request_id": request_id, "prediction_id": prediction_id}
    fields |= {name: record.__dict__.get(name) for name in FIELDS}
    return {name: value for name, value in fields.items() if value is not None}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bounded(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
