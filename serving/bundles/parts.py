"""What the stages of a film pipeline are built from: a bundle's arrays and models, and the items in force.

Legend: N items of the bundle, T newer ones, M = N + T, d embedding length, S segments, P popular items,
K neighbours, F ranker features, Du user features.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from serving.bundles.bundle import Bundle
from serving.config import FeatureSettings, Vocabulary
from serving.core.candidates import FloatMatrix, Rows, Scores
from serving.core.request import FloatVector, Request
from serving.features.item_table import ItemTable
from serving.features.spec import FeatureSet, film_features
from serving.retrieval.index import AnnIndex

T = TypeVar("T")


class UserEmbedder(Protocol):
    """The user's side of the two-tower model."""

    def embed(self, user: FloatVector, history: FloatVector) -> FloatVector:
        """float32[d] for user features float32[Du] and a pooled history float32[d]."""
        ...


class RankerFeatures(Protocol):
    """Puts the ranker's features together."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def matrix(self, request: Request, rows: Rows) -> FloatMatrix:
        """float32[C, F] for candidates int32[C]."""
        ...


class ItemsInForce(Protocol):
    """The items that answers are made with: the bundle's rows first, then those that are newer."""

    def __call__(self) -> ItemTable:
        """The table of M rows in force."""
        ...

    def vectors(self, rows: Rows) -> FloatMatrix:
        """float32[n, d]: the embeddings of rows int32[n] of the table in force."""
        ...

    def tail_search(self, query: FloatVector, n: int) -> tuple[Rows, Scores]:
        """At most n of the newer items' rows int32[m], and their inner products with float32[d], best first."""
        ...

    def derive(self, make: Callable[[ItemTable, Callable[[Rows], FloatMatrix]], T]) -> Callable[[], T]:
        """What `make` makes of the table in force and of `vectors`: made now and for each newer table, read often."""
        ...


@dataclass(frozen=True, kw_only=True)
class FilmModel:
    """The trained parts, of a bundle or of one in the making. The catalogue fixes the rows that arrays count in."""

    name: str
    """APP/VERSION."""
    vocabulary: Vocabulary
    feature_settings: FeatureSettings
    catalogue: ItemTable
    """The N items as of training."""
    item_embeddings: npt.NDArray[np.float32]
    """float32[N, d]."""
    history_embeddings: npt.NDArray[np.float32]
    """float32[N, d]."""
    popular_rows: npt.NDArray[np.int32]
    """int32[S, P], -1 padded."""
    popular_scores: npt.NDArray[np.float32]
    """float32[S, P]."""
    neighbour_rows: npt.NDArray[np.int32]
    """int32[N, K], -1 padded."""
    neighbour_scores: npt.NDArray[np.float32]
    """float32[N, K]."""
    list_rows: npt.NDArray[np.int32]
    """int32[S, 100], -1 padded."""
    index: AnnIndex
    user_tower: UserEmbedder
    bundle: Bundle | None = None
    """Where the ranker comes from; None while there is none, and retrieval order stands."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "catalogue", unmapped(self.catalogue))
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), np.ndarray):
                object.__setattr__(self, field.name, np.asarray(value))

    def feature_set(self) -> FeatureSet:
        """The features that this code computes for the model's vocabulary."""
        return film_features(self.vocabulary)


@dataclass(frozen=True, kw_only=True)
class FilmParts(FilmModel):
    """Everything that a stage may read: the trained parts, the items in force, and what makes features of them."""

    table: ItemsInForce
    features: RankerFeatures

    def item_vectors(self, rows: Rows) -> FloatMatrix:
        """float32[n, d]: the embeddings of rows int32[n] of the table in force, newer items included."""
        return self.table.vectors(rows)


def unmapped(table: ItemTable) -> ItemTable:
    """The same memory as plain arrays: indexing NumPy's memory-map class costs several times as much."""
    columns = {field.name: getattr(table, field.name) for field in fields(table)}
    arrays: dict[str, Any] = {name: np.asarray(c) for name, c in columns.items() if isinstance(c, np.ndarray)}
    return replace(table, **arrays)
