"""The error tree, grouped by who is responsible.

    SieveError
    ├── ClientError            the caller's mistake: names the field
    │   ├── InvalidRequest
    │   ├── NotFound
    │   ├── Unauthenticated
    │   └── Forbidden
    ├── DependencyError        something Sieve needs is down, late or wrong
    │   └── StoreUnavailable
    ├── OverloadError          too much work: try again later
    │   └── DeadlineExceeded
    └── SetupError             what was installed or configured does not fit: found before any traffic
        ├── ConfigError        every problem of a configuration at once
        ├── BundleError        a bundle that is damaged, incomplete or made for other features
        └── DataError          tables that break their declared schema

Anything else that escapes is a bug. Every class takes its arguments positionally, because keyword-only
constructors do not survive a Ray boundary.
"""

from collections.abc import Sequence


class SieveError(Exception):
    """Base of every error that Sieve raises on purpose."""


class ClientError(SieveError):
    """The caller's mistake; `field` is the dotted path of what is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class InvalidRequest(ClientError):
    """A request that cannot be answered as it stands."""


class NotFound(ClientError):
    """Something named by the request does not exist."""


class Unauthenticated(ClientError):
    """No token, or one that is not known."""


class Forbidden(ClientError):
    """A known token without the role that this needs."""


class DependencyError(SieveError):
    """A store, a model or another service failed."""


class StoreUnavailable(DependencyError):
    """The online store cannot be read."""


class OverloadError(SieveError):
    """There is more work than can be done in time."""


class DeadlineExceeded(OverloadError):
    """The request's deadline passed before the work was done."""


class SetupError(SieveError):
    """A list of problems found before any work started."""

    def __init__(self, what: str, problems: Sequence[str] = ()) -> None:
        super().__init__(what, tuple(problems))
        self.what = what
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  - {problem}" for problem in self.problems)])


class ConfigError(SetupError):
    """A configuration with one or more mistakes, all of them listed."""


class BundleError(SetupError):
    """A bundle that must not serve."""


class DataError(SetupError):
    """Data that must not be trained on."""
