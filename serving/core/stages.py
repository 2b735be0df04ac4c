"""The stages that a pipeline is made of, and what happens when one fails.

A stage is any object with these methods; `R` is the application's resolved request, which stages only read. A
source or scorer that runs elsewhere gives an awaitable of its result instead of the result.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from serving.core.candidates import Candidates, FloatMatrix, Rows, Scores
from serving.core.pressure import Pressure

R_contra = TypeVar("R_contra", contravariant=True)
R = TypeVar("R")
S_co = TypeVar("S_co", covariant=True)
T = TypeVar("T")


class StageSettings(BaseModel):
    """Closed base of a stage's own settings: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Removed:
    """Rows that a rule took out, int32[n], and why."""

    rows: Rows
    reason: str


@dataclass(frozen=True, slots=True)
class Marked:
    """Rows that a rule placed or moved, int32[n], and the reason that the caller is told."""

    rows: Rows
    reason: str


@dataclass(frozen=True, slots=True)
class Ruled:
    """A rule's result: together `kept` and `removed` hold each candidate that came in exactly once."""

    kept: Candidates
    removed: tuple[Removed, ...] = ()
    marked: tuple[Marked, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """A scorer's result: score float32[C] for the candidates in their order; features float32[C, F] if read.

    missing: how many of the candidates' feature values a default stood in for.
    """

    score: Scores
    features: FloatMatrix | None = None
    missing: int = 0


class Source(Protocol[R_contra]):
    """Finds candidates, best first; each row at most once."""

    def find(self, request: R_contra) -> Candidates | Awaitable[Candidates]: ...


class Merger(Protocol[R_contra]):
    """Makes one list of what the sources found: each row once, with every bit, in one order."""

    def merge(self, request: R_contra, pools: Sequence[Candidates]) -> Candidates: ...


class Scorer(Protocol[R_contra]):
    """Gives one score per candidate; drops nothing and reorders nothing."""

    def score(self, request: R_contra, candidates: Candidates) -> Scored | Awaitable[Scored]: ...


class Rule(Protocol[R_contra]):
    """Drops or reorders candidates, and says what it dropped and why."""

    def apply(self, request: R_contra, candidates: Candidates) -> Ruled: ...


class OnFailure(StrEnum):
    """What an expected failure of a stage means for the request; a bug is never covered by it."""

    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Fallback(Generic[S_co]):
    """A stage of the same kind that runs where the first one failed; if it fails too, so does the request."""

    stage: S_co


@dataclass(frozen=True)
class Step(Generic[S_co]):
    """A stage in its place: its name, its policy, and what it may cost.

    budget_ms: time cut for the stage from what the request has left.
    pressure: for a scorer, decides how many candidates there is time for; None scores all.
    is_remote: the stage gives awaitables; such sources run beside the others.
    """

    name: str
    stage: S_co
    on_failure: OnFailure | Fallback[S_co] = OnFailure.FAIL
    budget_ms: float = float("inf")
    pressure: Pressure | None = None
    is_remote: bool = False


@dataclass(frozen=True)
class Pipeline(Generic[R]):
    """An application's ordered stages: all sources, their merge, then rules and scorers from top to bottom."""

    name: str
    sources: tuple[Step[Source[R]], ...]
    merge: Merger[R]
    stages: tuple[Step[Scorer[R] | Rule[R]], ...] = ()

    @cached_property
    def source_names(self) -> tuple[str, ...]:
        """The sources' names; bit i of a candidate belongs to the i-th."""
        return tuple(step.name for step in self.sources)
