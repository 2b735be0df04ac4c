"""What a recommendation pipeline is made from: a bundle's arrays and models, or those of one in the making.

Legend: N items, d embedding length, S segments, P popular items, K neighbours, Du user features.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serving.bundles.bundle import Bundle
from serving.bundles.layout import RANKER, USER_TOWER
from serving.config import FeatureSettings, Vocabulary
from serving.core.request import FloatVector, Request
from serving.core.stages import Scorer
from serving.errors import BundleError
from serving.features.affinity import Affinity
from serving.features.assembly import Assembler
from serving.features.item_table import ItemTable
from serving.features.spec import FeatureSet, film_features
from serving.ranking.assembly import RequestFeatures
from serving.ranking.scorer import OnnxScorer, feature_problems
from serving.retrieval.index import AnnIndex
from serving.retrieval.scann_index import open_index
from serving.retrieval.user_tower import UserTower

PLAIN_FIELDS = ("feature_names", "watermark_us")


class UserEmbedder(Protocol):
    """float32[d] for user features float32[Du] and a pooled history float32[d]."""

    def embed(self, user: FloatVector, history: FloatVector) -> FloatVector: ...


@dataclass(frozen=True)
class FilmModel:
    """The trained parts. The catalogue fixes the rows; every array counts in them."""

    name: str
    """APP/VERSION."""
    vocabulary: Vocabulary
    feature_settings: FeatureSettings
    catalogue: ItemTable
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

    def request_features(self, tables: "TableInForce") -> RequestFeatures:
        """What puts a request's features together, item features from the table in force."""
        affinity = Affinity(self.neighbour_rows, self.neighbour_scores, self.catalogue.cast)
        assembler = Assembler(self.feature_set(), self.feature_settings)
        return RequestFeatures(assembler, affinity, self.item_embeddings, tables)

    def ranker(self, features: RequestFeatures) -> Scorer[Request] | None:
        """The bundle's ranker.

        Raises:
            BundleError: it does not fit the features that this code computes.
        """
        if self.bundle is None:
            return None
        return OnnxScorer(self.bundle.model_path(RANKER), self.bundle.manifest, features)


def open_film_model(bundle: Bundle) -> FilmModel:
    """The parts of a bundle, its index and user tower opened.

    Raises:
        BundleError: a part is damaged, or the features are not those that this code computes.
    """
    manifest = bundle.manifest
    computed = film_features(manifest.vocabulary).names
    problems = feature_problems(manifest.features.names, computed)
    if problems:
        raise BundleError(f"the bundle {bundle.directory} was made for other features", problems)
    return FilmModel(
        name=f"{bundle.app}/{bundle.version}",
        vocabulary=manifest.vocabulary,
        feature_settings=manifest.feature_settings,
        catalogue=bundle.catalogue,
        item_embeddings=bundle.item_embeddings,
        history_embeddings=bundle.history_embeddings,
        popular_rows=bundle.popular_rows,
        popular_scores=bundle.popular_scores,
        neighbour_rows=bundle.neighbour_rows,
        neighbour_scores=bundle.neighbour_scores,
        list_rows=bundle.list_rows,
        index=open_index(bundle.ann_directory, np.asarray(bundle.item_embeddings)),
        user_tower=UserTower(bundle.model_path(USER_TOWER)),
        bundle=bundle,
    )


def unmapped(table: ItemTable) -> ItemTable:
    """The same memory as plain arrays: indexing NumPy's memory-map class costs several times as much."""
    columns: dict[str, Any] = {
        f.name: np.asarray(getattr(table, f.name)) for f in fields(table) if f.name not in PLAIN_FIELDS
    }
    return replace(table, **columns)


class TableInForce:
    """The item table that answers are made with, in the bundle's rows; replaced in one assignment.

    Items that are newer than the bundle have no row in it and are not served until a bundle knows them.
    """

    def __init__(self, catalogue: ItemTable, live: ItemTable | None = None) -> None:
        """The bundle's own catalogue until a live table takes over.

        Raises:
            BundleError: as `replace`.
        """
        self._ids = catalogue.ids_of(np.arange(len(catalogue)))
        self._feature_names = catalogue.feature_names
        self._table = catalogue
        if live is not None:
            self.replace(live)

    def __call__(self) -> ItemTable:
        return self._table

    def replace(self, live: ItemTable) -> None:
        """Puts a newer table in force.

        Raises:
            BundleError: its features are not the bundle's; the table in force stays.
        """
        problems = feature_problems(self._feature_names, live.feature_names)
        if problems:
            raise BundleError("the item table is made for other features", problems)
        self._table = live.reindex(self._ids)
