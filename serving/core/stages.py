"""The stages that a pipeline is made of, and what happens when one fails.

A stage is any object with these methods; `R` is the application's resolved request, which stages only read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from serving.core.candidates import Candidates, FloatMatrix, Rows, Scores

R_contra = TypeVar("R_contra", contravariant=True)
R = TypeVar("R")
S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Removed:
    """Rows that a rule took out, int32[n], and why."""

    rows: Rows
    reason: str


@dataclass(frozen=True, slots=True)
class Ruled:
    """A rule's result: together `kept` and `removed` hold each candidate that came in exactly once."""

    kept: Candidates
    removed: tuple[Removed, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """A scorer's result: score float32[C] for the candidates in their order; features float32[C, F] if read."""

    score: Scores
    features: FloatMatrix | None = None


class Source(Protocol[R_contra]):
    """Finds candidates, best first, with its own bit on them."""

    @property
    def name(self) -> str: ...

    def find(self, request: R_contra) -> Candidates: ...


class Merger(Protocol[R_contra]):
    """Makes one list of what the sources found: each row once, with every bit, in one order."""

    @property
    def name(self) -> str: ...

    def merge(self, request: R_contra, pools: Sequence[Candidates]) -> Candidates: ...


class Scorer(Protocol[R_contra]):
    """Gives one score per candidate; drops nothing and reorders nothing."""

    @property
    def name(self) -> str: ...

    def score(self, request: R_contra, candidates: Candidates) -> Scored: ...


class Rule(Protocol[R_contra]):
    """Drops or reorders candidates, and says what it dropped and why."""

    @property
    def name(self) -> str: ...

    def apply(self, request: R_contra, candidates: Candidates) -> Ruled: ...


class OnFailure(StrEnum):
    """What an expected failure of a stage means for the request; a bug is never covered by it."""

    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Fallback(Generic[S]):
    """A stage of the same kind that runs where the first one failed; if it fails too, so does the request."""

    stage: S


@dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """A stage in its place, with its policy."""

    stage: S
    on_failure: OnFailure | Fallback[S] = OnFailure.FAIL


@dataclass(frozen=True, slots=True)
class Pipeline(Generic[R]):
    """An application's ordered stages: all sources, their merge, then rules and scorers from top to bottom."""

    name: str
    sources: tuple[Step[Source[R]], ...]
    merge: Merger[R]
    stages: tuple[Step[Scorer[R] | Rule[R]], ...] = ()
