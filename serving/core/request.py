"""A query with everything that stages read about it, resolved once.

L history entries, Du user features, Dc context features, d embedding length, N items.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from serving.core.candidates import Mask, Rows
from serving.core.query import Query

FloatVector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Request:
    """What is known of one request when its stages begin.

    now_us: the server's clock, microseconds since the epoch.
    user: float32[Du], defaults where a value is missing; `has_statistics` is False where all of it is defaults.
    context: float32[Dc].
    history: int32[L], rows of what the user took up (or of the seed items), newest last.
    seen: bool[N], what the user has already seen.
    excluded: bool[N], what the caller does not want, seed items included.
    age_years: None where it is unknown.
    segment: the popular lists' segment, 0 for everyone.
    fetch: how many candidates a source should find, so that enough are left when rules have passed.
    embed: computes `embedding`; may raise DependencyError.
    """

    query: Query
    now_us: int
    user: FloatVector
    has_statistics: bool
    context: FloatVector
    history: Rows
    seen: Mask
    excluded: Mask
    age_years: float | None
    segment: int
    fetch: int
    embed: Callable[["Request"], FloatVector]

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
