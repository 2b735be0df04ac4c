"""The moment by which an answer is due, on the monotonic clock."""

import time
from dataclasses import dataclass

from serving.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in monotonic time; infinity where the caller set none."""

    at_s: float = float("inf")

    @classmethod
    def after_ms(cls, budget_ms: float) -> "Deadline":
        """The deadline this many milliseconds from now."""
        return cls(time.monotonic() + budget_ms / 1000)

    def remaining_ms(self) -> float:
        """Milliseconds left; negative once it has passed."""
        return (self.at_s - time.monotonic()) * 1000

    def check(self, what: str) -> None:
        """Passes while there is time.

        Raises:
            DeadlineExceeded: the deadline passed before `what` began.
        """
        remaining_ms = self.remaining_ms()
        if remaining_ms <= 0:
            raise DeadlineExceeded(f"{what} would have begun {-remaining_ms:.1f} ms after the deadline")


NO_DEADLINE = Deadline()
