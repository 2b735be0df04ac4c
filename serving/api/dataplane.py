"""The one transport-free object behind HTTP and gRPC: they translate, and it answers."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from serving.core.deadline import Deadline
from serving.core.prediction import Prediction
from serving.core.query import Query
from serving.errors import Forbidden


class Role(StrEnum):
    """What a token allows."""

    PREDICT = "predict"
    EXPLAIN = "explain"
    EVENTS = "events"
    REVIEW = "review"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the token's name, what it allows, and the arm that an admin forces."""

    name: str
    roles: frozenset[Role]
    forced_arm: str | None = None

    def require(self, role: Role, field: str) -> None:
        """Passes a caller with the role that `field` of the request needs.

        Raises:
            Forbidden: naming the field and the role.
        """
        if role not in self.roles:
            raise Forbidden(field, f"this needs a token with the role {role.value!r}")


ANONYMOUS = Caller("anonymous", frozenset(Role))
"""Everyone, where no tokens are configured."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests can be answered; `reason` says why not, `is_loading` that it may come by itself."""

    is_ready: bool
    is_loading: bool
    reason: str = ""
    bundles: dict[str, str] = field(default_factory=dict)
    """APP/VERSION in force by application."""


class Dataplane(Protocol):
    """Answers requests of every application that is configured."""

    async def recommend(self, query: Query, deadline: Deadline, caller: Caller) -> Prediction:
        """A ranked list, with what is to be counted and logged of it.

        Raises:
            ClientError: naming the field.
            SetupError: nothing is loaded yet.
        """
        ...

    def readiness(self) -> Readiness:
        """Whether a verified bundle is loaded."""
        ...


class Journal(Protocol):
    """What a transport tells of each request once its answer, or refusal, has gone out."""

    def note(
        self,
        app: str,
        transport: str,
        status: str,
        seconds: float,
        prediction: Prediction | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        """Notes one request; `prediction` is None where it was refused."""
        ...


class NoJournal:
    """Notes nothing."""

    def note(
        self,
        app: str,
        transport: str,
        status: str,
        seconds: float,
        prediction: Prediction | None = None,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> None:
        """Passes."""
