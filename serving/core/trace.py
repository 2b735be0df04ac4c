"""What happened to a request, stage by stage: time, counts, removals, failures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from serving.core.stages import Removed


@dataclass(frozen=True, slots=True)
class StageTrace:
    """One stage's run; `failure` names the expected error that its policy dealt with."""

    stage: str
    ms: float
    count_in: int
    count_out: int
    removed: dict[str, int] = field(default_factory=dict)
    failure: str | None = None


@dataclass(slots=True)
class Trace:
    """Stages in the order they ran, and the rows that rules removed."""

    stages: list[StageTrace] = field(default_factory=list)
    removed: list[Removed] = field(default_factory=list)

    def add(
        self,
        stage: str,
        seconds: float,
        counts: tuple[int, int],
        removed: Sequence[Removed] = (),
        failure: str | None = None,
    ) -> None:
        """Notes one finished stage; `counts` is candidates in and out."""
        by_reason = {r.reason: len(r.rows) for r in removed if len(r.rows)}
        self.removed.extend(r for r in removed if len(r.rows))
        self.stages.append(StageTrace(stage, round(seconds * 1000, 3), *counts, by_reason, failure))

    @property
    def failed(self) -> list[str]:
        """Names of the stages that failed, each once, in order."""
        return list(dict.fromkeys(s.stage for s in self.stages if s.failure))
