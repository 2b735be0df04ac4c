"""What was answered, with everything that is to be counted and logged of it."""

from dataclasses import dataclass

from serving.core.answer import Answer
from serving.core.candidates import Candidates
from serving.core.request import Request
from serving.core.trace import Trace

EXPLORED = "explored"
"""The mark on what chance has placed."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer and how it came about.

    items: the answered candidates in rows, with their propensities.
    fell_back: an earlier link of the chain was to answer, and could not.
    """

    answer: Answer
    request: Request
    items: Candidates
    trace: Trace
    fell_back: bool = False

    @property
    def explored(self) -> bool:
        """Whether chance has placed an item."""
        return any(marked.reason == EXPLORED for marked in self.trace.marked)
