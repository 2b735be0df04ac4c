"""What was shown to the user often and never taken up."""

from typing import Literal

import numpy as np

from serving.bundles.parts import FilmParts
from serving.core.candidates import Candidates, contains
from serving.core.request import Request
from serving.core.stages import Marked, Ruled, StageSettings
from serving.rules.eligibility import split

REASON = "ignored"


class IgnoredRule:
    """Takes out, or moves to the end, what the user has ignored often.

    A rule before the ranker that moves to the end is undone by the ranker's order: there, only removing has an
    effect on what was ranked.
    """

    class Settings(StageSettings):
        """action: `remove` with the reason `ignored`, or `demote` behind all others and mark as `ignored`."""

        action: Literal["remove", "demote"] = "remove"

    def __init__(self, parts: FilmParts, settings: Settings) -> None:
        del parts  # the request says it all
        self._demotes = settings.action == "demote"

    def apply(self, request: Request, candidates: Candidates) -> Ruled:
        """Keeps the order among the ignored and among the others."""
        ignored = contains(request.ignored, candidates.row)
        if not ignored.any():
            return Ruled(candidates)
        if not self._demotes:
            return split(candidates, [(REASON, ignored)])
        kept = candidates.take(np.argsort(ignored, kind="stable"))
        return Ruled(kept, marked=(Marked(candidates.row[ignored], REASON),))
