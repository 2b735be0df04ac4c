"""The one table of what each error is to a client, over HTTP and gRPC, and problem documents after RFC 9457."""

import secrets
from dataclasses import dataclass
from typing import Any

from serving import errors

MEDIA_TYPE = "application/problem+json"
MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class Kind:
    """How one class of errors is told: HTTP status, name of the type, title, gRPC status code by its name.

    retry_after_s: when to try again, told in `Retry-After`; None where that would change nothing.
    """

    status: int
    type: str
    title: str
    grpc: str
    retry_after_s: int | None = None


CLIENT = Kind(400, "bad-request", "The request cannot be answered as it stands", "INVALID_ARGUMENT")
DEPENDENCY = Kind(503, "dependency-unavailable", "Something this answer needs is unavailable", "UNAVAILABLE", 1)
SETUP = Kind(503, "not-ready", "The server is not set up to answer", "UNAVAILABLE", 5)
INTERNAL = Kind(500, "internal", "The request failed", "INTERNAL")

KINDS: dict[type[errors.SieveError], Kind] = {
    errors.SieveError: INTERNAL,
    errors.ClientError: CLIENT,
    errors.InvalidRequest: Kind(422, "invalid-request", "The request has a mistake", "INVALID_ARGUMENT"),
    errors.NotFound: Kind(404, "not-found", "There is no such thing", "NOT_FOUND"),
    errors.Unauthenticated: Kind(401, "unauthenticated", "A token is needed", "UNAUTHENTICATED"),
    errors.Forbidden: Kind(403, "forbidden", "The token does not allow this", "PERMISSION_DENIED"),
    errors.DependencyError: DEPENDENCY,
    errors.StoreUnavailable: DEPENDENCY,
    errors.OverloadError: Kind(503, "overloaded", "There is more work than can be done in time", "UNAVAILABLE", 1),
    errors.DeadlineExceeded: Kind(504, "deadline-exceeded", "The deadline passed", "DEADLINE_EXCEEDED"),
    errors.SetupError: SETUP,
    errors.ConfigError: SETUP,
    errors.BundleError: SETUP,
    errors.DataError: SETUP,
}
NOT_JSON = Kind(400, "not-json", "The request's body is not JSON", "INVALID_ARGUMENT")
NO_ROUTE = Kind(404, "no-route", "There is nothing at this address", "UNIMPLEMENTED")
WRONG_METHOD = Kind(405, "wrong-method", "This address takes another method", "UNIMPLEMENTED")
TOO_LARGE = Kind(413, "too-large", "The request is too large", "RESOURCE_EXHAUSTED")
WRONG_MEDIA = Kind(415, "wrong-media-type", "The request's body is not announced as JSON", "INVALID_ARGUMENT")

OVERLOADED = KINDS[errors.OverloadError]

BY_STATUS = {kind.status: kind for kind in (NO_ROUTE, WRONG_METHOD, TOO_LARGE, WRONG_MEDIA, INTERNAL, OVERLOADED)}


def kind_of(error: errors.SieveError) -> Kind:
    """The row of the nearest class that the table has."""
    return next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)


def kind_of_status(status: int) -> Kind:
    """The row for what a framework refused with nothing but an HTTP status."""
    client = Kind(status, f"http-{status}", "The request was refused", "INVALID_ARGUMENT")
    return BY_STATUS.get(status) or (client if status < 500 else INTERNAL)


def problem(kind: Kind, detail: str, **members: Any) -> dict[str, Any]:
    """A problem document; `members` are extensions such as `field`."""
    return {"type": f"urn:sieve:problem:{kind.type}", "title": kind.title, "status": kind.status,
            "detail": detail, **members}  # fmt: skip


def error_problem(error: errors.SieveError) -> tuple[Kind, dict[str, Any]]:
    """What a client is told of one of Sieve's own errors; only a client's mistake is told in full.

    Everything else carries an `error_id`, which the caller of this function logs beside the error.
    """
    kind = kind_of(error)
    if isinstance(error, errors.ClientError):
        field = [{"field": error.field, "problem": error.problem}]
        return kind, problem(kind, str(error), field=error.field, errors=field)
    if isinstance(error, errors.OverloadError):
        return kind, problem(kind, kind.title)
    return kind, problem(kind, kind.title, error_id=new_error_id())


def mistakes_problem(mistakes: list[tuple[str, str]]) -> tuple[Kind, dict[str, Any]]:
    """A document for several mistakes (dotted field, what is wrong with it), the first one on top; at most 20."""
    kind = KINDS[errors.InvalidRequest]
    listed = [{"field": field, "problem": what} for field, what in mistakes[:MAX_LISTED]]
    return kind, problem(kind, f"{mistakes[0][0]}: {mistakes[0][1]}", field=mistakes[0][0], errors=listed)


def new_error_id() -> str:
    """An id that joins what a client was told to what the log says."""
    return secrets.token_hex(8)
