"""What a request for recommendations is answered with."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ServedBy(StrEnum):
    """The link of the fallback chain that made the list."""

    RANKER = "ranker"
    RETRIEVAL = "retrieval"
    PRECOMPUTED = "precomputed"
    POPULAR = "popular"
    BUNDLED = "bundled"


@dataclass(frozen=True, slots=True)
class AnswerItem:
    """One recommended item; `position` 0 is the top, `score` is comparable within this answer only."""

    id: str
    score: float
    sources: list[str]
    reasons: list[str]
    position: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A ranked list and how it came about; `degraded` names what could not be used."""

    prediction_id: str
    request_id: str | None
    items: list[AnswerItem]
    served_by: ServedBy
    arm: str
    bundle: str
    degraded: list[str] = field(default_factory=list)
    cursor: str | None = None
    trace: dict[str, Any] | None = None
