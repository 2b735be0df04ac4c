"""From a bundle to the parts that a film pipeline is built from."""

from dataclasses import fields

import numpy as np

from serving.bundles.bundle import Bundle
from serving.bundles.layout import USER_TOWER
from serving.bundles.parts import FilmModel, FilmParts, ItemsInForce
from serving.errors import BundleError
from serving.features.affinity import Affinity
from serving.features.assembly import Assembler
from serving.features.spec import film_features
from serving.ranking.assembly import RequestFeatures
from serving.ranking.scorer import feature_problems
from serving.retrieval.scann_index import open_index
from serving.retrieval.user_tower import UserTower


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


def film_parts(model: FilmModel, items: ItemsInForce) -> FilmParts:
    """What stages are built from: a model, the items in force, and what makes features of both."""
    affinity = Affinity(model.neighbour_rows, model.neighbour_scores, model.catalogue.cast)
    assembler = Assembler(model.feature_set(), model.feature_settings)
    features = RequestFeatures(assembler, affinity, items)
    trained = {field.name: getattr(model, field.name) for field in fields(FilmModel)}
    return FilmParts(**trained, table=items, features=features)
