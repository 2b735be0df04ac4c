"""The one table of what each error is to a client, and problem documents after RFC 9457."""

import secrets
from dataclasses import dataclass
from typing import Any

from serving import errors


@dataclass(frozen=True)
class Kind:
    """How one class of errors is told: HTTP status, name of the type, title, and when to try again."""

    status: int
    type: str
    title: str
    retry_after_s: int | None = None


CLIENT = Kind(400, "bad-request", "The request cannot be answered as it stands")
DEPENDENCY = Kind(503, "dependency-unavailable", "Something this answer needs is unavailable", 1)
SETUP = Kind(503, "not-ready", "The server is not set up to answer", 5)

KINDS: dict[type[errors.SieveError], Kind] = {
    errors.SieveError: Kind(500, "internal", "The request failed"),
    errors.ClientError: CLIENT,
    errors.InvalidRequest: Kind(422, "invalid-request", "The request has a mistake"),
    errors.NotFound: Kind(404, "not-found", "There is no such thing"),
    errors.DependencyError: DEPENDENCY,
    errors.StoreUnavailable: DEPENDENCY,
    errors.OverloadError: Kind(503, "overloaded", "There is more work than can be done in time", 1),
    errors.DeadlineExceeded: Kind(504, "deadline-exceeded", "The deadline passed"),
    errors.SetupError: SETUP,
    errors.ConfigError: SETUP,
    errors.BundleError: SETUP,
    errors.DataError: SETUP,
}
TOO_LARGE = Kind(413, "too-large", "The request's body is too large")
NOT_JSON = Kind(400, "not-json", "The request's body is not JSON")
INTERNAL = Kind(500, "internal", "The request failed")

MEDIA_TYPE = "application/problem+json"


def problem(kind: Kind, detail: str, **members: Any) -> dict[str, Any]:
    """A problem document; `members` are extensions such as `field`."""
    return {"type": f"urn:sieve:problem:{kind.type}", "title": kind.title, "status": kind.status,
            "detail": detail, **members}  # fmt: skip


def error_problem(error: errors.SieveError) -> tuple[Kind, dict[str, Any]]:
    """What a client is told of one of Sieve's own errors; only a client's mistake is told in full."""
    kind = KINDS.get(type(error), INTERNAL)
    if isinstance(error, errors.ClientError):
        field = [{"field": error.field, "problem": error.problem}]
        return kind, problem(kind, str(error), field=error.field, errors=field)
    return kind, problem(kind, kind.title, error_id=new_error_id())


def mistakes_problem(mistakes: list[tuple[str, str]]) -> dict[str, Any]:
    """A document for several mistakes (dotted field, what is wrong with it), the first one on top."""
    kind = KINDS[errors.InvalidRequest]
    listed = [{"field": field, "problem": what} for field, what in mistakes]
    return problem(kind, f"{mistakes[0][0]}: {mistakes[0][1]}", field=mistakes[0][0], errors=listed)


def new_error_id() -> str:
    """An id that joins what a client was told to what the log says."""
    return secrets.token_hex(8)
