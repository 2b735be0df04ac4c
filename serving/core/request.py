"""A query with everything that stages read about it, resolved once.

L history entries, Du user features, Dc context features, d embedding length.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from serving.core.candidates import Rows
from serving.core.query import Query
from serving.errors import DependencyError

FloatVector = npt.NDArray[np.float32]

NO_ROWS: Rows = np.empty(0, np.int32)


@dataclass(frozen=True)
class Request:
    """What is known of one request when its stages begin.

    now_us: the server's clock, microseconds since the epoch.
    user: float32[Du], defaults where a value is missing; `has_statistics` is False where all of it is defaults.
    context: float32[Dc].
    history: int32[L], rows of what the user took up (or of the seed items), newest last.
    seen: sorted rows int32 of what the user has already seen.
    excluded: sorted rows int32 of what the caller does not want, seed items included.
    age_years: None where it is unknown.
    segment: the popular lists' segment, 0 for everyone.
    fetch: how many candidates a source should find, so that enough are left when rules have passed.
    embed: computes `embedding`; may raise DependencyError.
    consider: how many of all sources' candidates together are merged and put through the rules.
    ignored: sorted rows int32 of what was shown often and never taken up.
    missing: how many of the user's feature values a default stands in for.
    offset: position in the whole list of the first item answered, 0 but for later pages.
    prediction_id: the answer's id; all that is left to chance is drawn from it, so an answer can be replayed.
    """

    query: Query
    now_us: int
    user: FloatVector
    has_statistics: bool
    context: FloatVector
    history: Rows
    seen: Rows
    excluded: Rows
    age_years: float | None
    segment: int
    fetch: int
    embed: Callable[["Request"], FloatVector]
    consider: int = 1 << 30
    ignored: Rows = field(default_factory=lambda: NO_ROWS)
    missing: int = 0
    prediction_id: str = ""
    offset: int = 0

    @cached_property
    def embedding(self) -> FloatVector:
        """float32[d], the user's place in the item space, computed when a stage first asks.

        Raises:
            DependencyError: the model behind it failed.
        """
        return self.embed(self)

    @property
    def is_known(self) -> bool:
        """Whether there is anything personal to go by."""
        return self.has_statistics or len(self.history) > 0

    def bound(self, embed: "Callable[[Request], FloatVector]") -> "Request":
        """The same request with another way to compute its embedding, which is kept where it is known already."""
        other = replace(self, embed=embed)
        if "embedding" in self.__dict__:
            other.__dict__["embedding"] = self.embedding
        return other

    def portable(self) -> "Request":
        """The same request without what cannot leave the process; whoever receives it binds it anew."""
        return self.bound(_embeds_elsewhere)


def _embeds_elsewhere(request: Request) -> FloatVector:
    raise DependencyError("this request was not bound to a model here")
