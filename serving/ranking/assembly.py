"""The ranker's features for one request: user, item, context, pair and affinity side by side.

C candidates, F features, N items, d embedding length.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from serving.core.candidates import FloatMatrix, Rows
from serving.core.request import FloatVector, Request
from serving.errors import DependencyError
from serving.features.affinity import Affinity
from serving.features.assembly import Assembler
from serving.features.item_table import ItemTable


class RequestFeatures:
    """Reads item features from the item table in force, the rest from the request and the bundle."""

    def __init__(
        self,
        assembler: Assembler,
        affinity: Affinity,
        item_embeddings: npt.NDArray[np.float32],
        table: Callable[[], ItemTable],
    ) -> None:
        """item_embeddings: float32[N, d].  table: gives the item table in force, in the bundle's rows."""
        self._assembler = assembler
        self._affinity = affinity
        self._item_embeddings = item_embeddings
        self._table = table

    @property
    def names(self) -> tuple[str, ...]:
        """The F features' names in order."""
        return self._assembler.features.names

    def matrix(self, request: Request, rows: Rows) -> FloatMatrix:
        """float32[C, F] for candidates int32[C]; each row is what it would be alone. No row, no NaN."""
        affinity = self._affinity.features(
            _embedding_or_none(request), self._item_embeddings[rows], request.history, rows
        )
        item = np.asarray(self._table().features[rows])
        return self._assembler.matrix(request.user, request.context, item, affinity)


def _embedding_or_none(request: Request) -> FloatVector | None:
    # The two-tower source has reported the failure; a ranker without one feature beats no ranker.
    try:
        return request.embedding
    except DependencyError:
        return None
