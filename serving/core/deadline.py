"""The moment by which an answer is due, on the monotonic clock."""

import time
from contextvars import ContextVar
from dataclasses import dataclass

from serving.errors import DeadlineExceeded

NEVER_S = float("inf")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in monotonic time; infinity where the caller set none. `budget_ms` is what there was in all."""

    at_s: float = NEVER_S
    budget_ms: float = NEVER_S

    @classmethod
    def after_ms(cls, budget_ms: float, spent_ms: float = 0.0) -> "Deadline":
        """The deadline of a request that may take `budget_ms`, of which `spent_ms` were spent waiting."""
        return cls(time.monotonic() + (budget_ms - spent_ms) / 1000, budget_ms)

    def remaining_ms(self) -> float:
        """Milliseconds left; negative once it has passed."""
        return (self.at_s - time.monotonic()) * 1000

    def within(self, budget_ms: float) -> "Deadline":
        """This deadline, or the one a stage's own budget sets if that comes first; without a deadline, none."""
        if budget_ms == NEVER_S or self.at_s == NEVER_S:
            return self
        at_s = time.monotonic() + budget_ms / 1000
        return self if self.at_s <= at_s else Deadline(at_s, budget_ms)

    def check(self, what: str) -> None:
        """Passes while there is time.

        Raises:
            DeadlineExceeded: the deadline passed before `what` began.
        """
        remaining_ms = self.remaining_ms()
        if remaining_ms <= 0:
            raise DeadlineExceeded(f"{what} would have begun {-remaining_ms:.1f} ms after the deadline")


NO_DEADLINE = Deadline()

STAGE_DEADLINE_S: ContextVar[float] = ContextVar("stage_deadline_s", default=NEVER_S)
"""When the stage that is running must be done, in monotonic seconds: what a watchdog over native code reads."""
