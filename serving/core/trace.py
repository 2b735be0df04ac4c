"""What happened to a request, stage by stage: time, counts, removals, failures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from serving.core.stages import Marked, Removed


class Kind(StrEnum):
    """What a traced stage is."""

    RESOLVE = "resolve"
    SOURCE = "source"
    MERGE = "merge"
    RULE = "rule"
    SCORER = "scorer"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class StageTrace:
    """One stage's run; `failure` names the expected error that its policy dealt with."""

    stage: str
    kind: Kind
    ms: float
    count_in: int
    count_out: int
    removed: dict[str, int] = field(default_factory=dict)
    failure: str | None = None


@dataclass(slots=True)
class Trace:
    """Stages in the order they ran, the rows that rules removed or marked, and what was done with less work."""

    stages: list[StageTrace] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)
    marked: list[Marked] = field(default_factory=list)
    unscored: int = 0
    """Candidates that a scorer had no time for."""
    missing: int = 0
    """Feature values of candidates that a default stood in for."""

    def add(
        self,
        stage: str,
        kind: Kind,
        seconds: float,
        counts: tuple[int, int],
        removed: Sequence[Removed] = (),
        failure: str | None = None,
    ) -> None:
        """Notes one finished stage; `counts` is candidates in and out."""
        by_reason = {r.reason: len(r.rows) for r in removed if len(r.rows)}
        self.removed.extend(r for r in removed if len(r.rows))
        self.stages.append(StageTrace(stage, kind, round(seconds * 1000, 4), *counts, by_reason, failure))

    @property
    def is_scored(self) -> bool:
        """Whether a scorer, or one that stood in for it, gave the order."""
        return any(s.kind is Kind.SCORER and s.failure is None for s in self.stages)

    @property
    def failed(self) -> list[str]:
        """Names of the stages that failed, each once, in order."""
        return list(dict.fromkeys(s.stage for s in self.stages if s.failure))
