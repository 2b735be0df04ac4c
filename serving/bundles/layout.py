"""Where everything is in a bundle of the `recommend` application, and in which shape.

Legend: N items, d embedding length, S segments, K neighbours, P popular items, B rows of a batch, C candidates,
G golden requests, F ranker features, Dq of a request, Dc of a candidate.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from serving.bundles.manifest import FeatureEntry, FeatureManifest, Manifest, ModelEntry, TensorEntry
from serving.features.assembly import CANDIDATE_VIEWS, REQUEST_VIEWS

CATALOGUE = "catalogue"
ANN = "ann"
ITEM_EMBEDDINGS = "embeddings/item.npy"
HISTORY_EMBEDDINGS = "embeddings/history.npy"
POPULAR_ROWS = "popular/rows.npy"
POPULAR_SCORES = "popular/scores.npy"
NEIGHBOUR_ROWS = "item_to_item/rows.npy"
NEIGHBOUR_SCORES = "item_to_item/scores.npy"
LIST_ROWS = "lists/rows.npy"
LIST_LENGTH = 100

USER_TOWER = "user_tower"
ITEM_TOWER = "item_tower"
RANKER = "ranker"
MODEL_FILES = {name: f"models/{name}.onnx" for name in (USER_TOWER, ITEM_TOWER, RANKER)}

FEATURES = "features"
"""The input of a ranker that takes every feature of a candidate: float32[C, F]."""
REQUEST, CANDIDATE = "request", "candidate"
"""The inputs of a ranker that takes what candidates share apart: float32[1, Dq] and float32[C, Dc]."""


@dataclass(frozen=True)
class ArraySpec:
    """One array file: its dtype, its shape (None is any size) and, for rows, its partner of scores."""

    path: str
    dtype: str
    shape: tuple[int | None, ...]
    holds_rows: bool = False
    scores: str | None = None


def array_specs(manifest: Manifest) -> tuple[ArraySpec, ...]:
    """The arrays that a bundle with this manifest must hold."""
    items, dimension, segments = manifest.items, manifest.dimension, len(manifest.segments)
    return (
        ArraySpec(ITEM_EMBEDDINGS, "float32", (items, dimension)),
        ArraySpec(HISTORY_EMBEDDINGS, "float32", (items, dimension)),
        ArraySpec(POPULAR_ROWS, "int32", (segments, None), holds_rows=True, scores=POPULAR_SCORES),
        ArraySpec(POPULAR_SCORES, "float32", (segments, None)),
        ArraySpec(NEIGHBOUR_ROWS, "int32", (items, None), holds_rows=True, scores=NEIGHBOUR_SCORES),
        ArraySpec(NEIGHBOUR_SCORES, "float32", (items, None)),
        ArraySpec(LIST_ROWS, "int32", (segments, LIST_LENGTH), holds_rows=True),
    )


def request_entries(features: FeatureManifest) -> tuple[FeatureEntry, ...]:
    """The Dq features that all candidates of a request share, in matrix order."""
    return tuple(entry for view in REQUEST_VIEWS for entry in getattr(features, view))


def candidate_entries(features: FeatureManifest) -> tuple[FeatureEntry, ...]:
    """The Dc features that a candidate has to itself, in matrix order."""
    return tuple(entry for view in CANDIDATE_VIEWS for entry in getattr(features, view))


def ranker_inputs(features: FeatureManifest, split: bool) -> Mapping[str, tuple[FeatureEntry, ...]]:
    """What a ranker takes, by the name of the input: every feature at once, or `split` by what is shared."""
    if split:
        return {REQUEST: request_entries(features), CANDIDATE: candidate_entries(features)}
    return {FEATURES: features.entries}


def film_models(features: FeatureManifest, dimension: int, split_ranker: bool = False) -> dict[str, ModelEntry]:
    """The three models of a film bundle, as the manifest lists them."""
    embedding = TensorEntry(name="embedding", shape=(None, dimension))
    user, item = _names(features.user), _names(features.item)
    return {
        USER_TOWER: ModelEntry(
            file=MODEL_FILES[USER_TOWER],
            inputs=(
                TensorEntry(name="user", shape=(None, len(user)), features=user),
                TensorEntry(name="history", shape=(None, dimension)),
            ),
            outputs=(embedding,),
        ),
        ITEM_TOWER: ModelEntry(
            file=MODEL_FILES[ITEM_TOWER],
            inputs=(
                TensorEntry(name="item", shape=(None, len(item)), features=item),
                TensorEntry(name="id_embedding", shape=(None, dimension)),
            ),
            outputs=(embedding,),
        ),
        RANKER: ModelEntry(
            file=MODEL_FILES[RANKER],
            inputs=tuple(
                TensorEntry(name=name, shape=(None, len(entries)), features=_names(entries))
                for name, entries in ranker_inputs(features, split_ranker).items()
            ),
            outputs=(TensorEntry(name="score", shape=(None,)),),
        ),
    }


def _names(entries: tuple[FeatureEntry, ...]) -> tuple[str, ...]:
    return tuple(entry.name for entry in entries)
