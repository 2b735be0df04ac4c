"""A small but complete film bundle: 150 items, the real features, three tiny ONNX models.

The ranker is linear in three named features, so that a test can say by hand which item comes first.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.bundles.golden import freeze_golden
from serving.bundles.layout import (
    CATALOGUE,
    HISTORY_EMBEDDINGS,
    ITEM_EMBEDDINGS,
    ITEM_TOWER,
    LIST_LENGTH,
    LIST_ROWS,
    MODEL_FILES,
    NEIGHBOUR_ROWS,
    NEIGHBOUR_SCORES,
    POPULAR_ROWS,
    POPULAR_SCORES,
    RANKER,
    USER_TOWER,
    film_models,
    ranker_inputs,
)
from serving.bundles.manifest import FeatureManifest, SplitEntry
from serving.bundles.onnx_models import feature_metadata, open_session, predict
from serving.bundles.store import BundleStore
from serving.bundles.writer import BundleWriter
from serving.config import FeatureSettings, Vocabulary
from serving.features.assembly import CANDIDATE_VIEWS, REQUEST_VIEWS, defaults_of, fill_missing
from serving.features.item_table import ALWAYS_US, EVERYWHERE, NEVER_US, ItemTable, write_item_table
from serving.features.spec import FeatureSet, film_features

APP = "recommend"
ITEMS = 150
DIMENSION = 8
NEIGHBOURS = 10
ADULT_EVERY = 5
"""Every fifth item is for adults; all others are for everyone."""
RANKER_WEIGHTS = {"affinity_two_tower": 4.0, "item_popularity_7d": 1.0, "affinity_cowatch_max": 2.0}
CREATED_AT = datetime(2026, 4, 1, tzinfo=UTC)
WATERMARK_US = 1_775_001_600_000_000  # 2026-04-01


def build_tiny_bundle(
    root: Path, items: int = ITEMS, seed: int = 0, created_at: datetime = CREATED_AT, split_ranker: bool = False
) -> Path:
    """Publishes a valid bundle in a store at `root` and returns its folder; equal arguments, equal bundle.

    The ranker gives the same scores whether it takes what candidates share apart, `split_ranker`, or not.
    """
    store = BundleStore(root)
    writer = fill_draft(store.draft(APP), items, seed, split_ranker)
    writer.seal(tiny_fields(items, created_at, split_ranker))
    return root / APP / store.publish(APP, writer.directory)


def fill_draft(draft: Path, items: int = ITEMS, seed: int = 0, split_ranker: bool = False) -> BundleWriter:
    """Writes all of a bundle but its manifest."""
    rng = np.random.default_rng(seed)
    features = film_features(Vocabulary())
    writer = BundleWriter(draft)
    catalogue = tiny_catalogue(features, items, rng)
    write_item_table(draft / CATALOGUE, catalogue)
    _write_models(writer, features, rng, split_ranker)
    history = rng.normal(0, 0.3, (items, DIMENSION)).astype(np.float32)
    filled, _ = fill_missing(catalogue.features, defaults_of(features.item))
    session = open_session(draft / MODEL_FILES[ITEM_TOWER])
    writer.write_array(HISTORY_EMBEDDINGS, history)
    writer.write_array(ITEM_EMBEDDINGS, predict(session, {"item": filled, "id_embedding": history}))
    _write_tables(writer, catalogue, rng)
    _write_golden(writer, features, history, rng, split_ranker)
    return writer


def tiny_fields(items: int = ITEMS, created_at: datetime = CREATED_AT, split_ranker: bool = False) -> dict[str, Any]:
    """The manifest's fields of the tiny bundle."""
    vocabulary = Vocabulary()
    features = FeatureManifest.of(film_features(vocabulary))
    return {
        "app": APP,
        "created_at": created_at,
        "items": items,
        "dimension": DIMENSION,
        "vocabulary": vocabulary,
        "feature_settings": FeatureSettings(),
        "features": features,
        "models": film_models(features, DIMENSION, split_ranker),
        "segments": ("*", *vocabulary.countries),
        "data_versions": {"items": 1, "users": 1, "events": 3, "impressions": 3},
        "split": SplitEntry(method="time", cuts_us={"t1": 1, "t2": 2, "t3": WATERMARK_US}),
        "training": {"seed": 7, "two_tower": {"dimension": DIMENSION}},
        "metrics": {"ndcg@20": 0.31},
        "software": {"numpy": np.__version__},
    }


def tiny_catalogue(features: FeatureSet, items: int, rng: np.random.Generator) -> ItemTable:
    """Items i0000000 onwards, licensed everywhere and always; a tenth of their features is missing."""
    values = rng.random((items, len(features.item)), dtype=np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    row = np.arange(items)
    return ItemTable(
        ids=np.array([f"i{i:07}".encode() for i in row]),
        features=values,
        feature_names=tuple(feature.name for feature in features.item),
        maturity=np.where(row % ADULT_EVERY == 0, 18, 0).astype(np.int16),
        licence_start_us=np.full(items, NEVER_US, np.int64),
        licence_end_us=np.full(items, ALWAYS_US, np.int64),
        country_mask=np.full(items, EVERYWHERE, np.uint64),
        available_at_us=np.full(items, WATERMARK_US - 86_400_000_000, np.int64),
        genre_mask=np.left_shift(np.uint64(1), (row % 18).astype(np.uint64)),
        cast=rng.integers(1, 50, (items, 6), dtype=np.int32),
        year=(1990 + row % 35).astype(np.int16),
        watermark_us=WATERMARK_US,
    )


def _write_tables(writer: BundleWriter, catalogue: ItemTable, rng: np.random.Generator) -> None:
    items, segments = len(catalogue), 1 + len(Vocabulary().countries)
    popular = np.stack([rng.permutation(items) for _ in range(segments)]).astype(np.int32)
    scores = np.sort(rng.random(popular.shape, dtype=np.float32))[:, ::-1]
    writer.write_array(POPULAR_ROWS, popular)
    writer.write_array(POPULAR_SCORES, scores)
    offsets = np.arange(1, NEIGHBOURS + 1)
    neighbours = ((np.arange(items)[:, None] + offsets) % items).astype(np.int32)
    writer.write_array(NEIGHBOUR_ROWS, neighbours)
    writer.write_array(NEIGHBOUR_SCORES, np.broadcast_to(1 / offsets, neighbours.shape).astype(np.float32))
    lists = np.full((segments, LIST_LENGTH), -1, np.int32)
    for segment, order in enumerate(popular):
        for_everyone = order[catalogue.maturity[order] == 0][:LIST_LENGTH]
        lists[segment, : len(for_everyone)] = for_everyone
    writer.write_array(LIST_ROWS, lists)


def _write_golden(
    writer: BundleWriter, features: FeatureSet, history: np.ndarray, rng: np.random.Generator, split_ranker: bool
) -> None:
    user = np.stack([defaults_of(features.user)] * 4)
    pooled = np.stack([history[rows].mean(axis=0) for rows in rng.integers(0, len(history), (4, 5))])
    matrix = rng.random((4, 50, len(features.names)), dtype=np.float32)
    if not split_ranker:
        freeze_golden(writer, user, pooled, matrix)
        return
    own = columns_of(features, CANDIDATE_VIEWS)
    freeze_golden(writer, user, pooled, matrix[:, :, own], matrix[:, 0, columns_of(features, REQUEST_VIEWS)])


def columns_of(features: FeatureSet, views: tuple[str, ...]) -> np.ndarray:
    """Where the features of these views stand in the matrix."""
    wanted = {feature.name for view in views for feature in features.views[view]}
    return np.array([i for i, name in enumerate(features.names) if name in wanted])


def _write_models(writer: BundleWriter, features: FeatureSet, rng: np.random.Generator, split_ranker: bool) -> None:
    manifest = FeatureManifest.of(features)
    towers = {USER_TOWER: ("user", "history"), ITEM_TOWER: ("item", "id_embedding")}
    for name, (side, vector) in towers.items():
        entries = getattr(manifest, side)
        weights = rng.normal(0, 1e-5, (len(entries), DIMENSION)).astype(np.float32)
        model = _tower(side, vector, weights)
        helper.set_model_props(model, feature_metadata({side: entries}))
        writer.write_bytes(MODEL_FILES[name], model.SerializeToString())
    weights = np.array([RANKER_WEIGHTS.get(name, 0.0) for name in manifest.names], np.float32)
    ranker = _linear(weights)
    if split_ranker:
        views = (REQUEST_VIEWS, CANDIDATE_VIEWS)
        ranker = _split_linear(*(weights[columns_of(features, each)][:, None] for each in views))
    helper.set_model_props(ranker, feature_metadata(ranker_inputs(manifest, split_ranker)))
    writer.write_bytes(MODEL_FILES[RANKER], ranker.SerializeToString())


def _tower(side: str, vector: str, weights: np.ndarray) -> onnx.ModelProto:
    """normalise(vector + side @ weights): the vector decides, the features nudge."""
    nodes = [
        helper.make_node("MatMul", [side, "weights"], ["nudge"]),
        helper.make_node("Add", [vector, "nudge"], ["sum"]),
        helper.make_node("Add", ["sum", "floor"], ["away_from_zero"]),
        helper.make_node("LpNormalization", ["away_from_zero"], ["embedding"], axis=1, p=2),
    ]
    floor = np.full(weights.shape[1], 1e-3, np.float32)
    inputs = [_tensor(side, ["rows", len(weights)]), _tensor(vector, ["rows", weights.shape[1]])]
    outputs = [_tensor("embedding", ["rows", weights.shape[1]])]
    return _model(nodes, inputs, outputs, {"weights": weights, "floor": floor})


def _linear(weights: np.ndarray) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["features", "weights"], ["score"])]
    inputs = [_tensor("features", ["rows", len(weights)])]
    return _model(nodes, inputs, [_tensor("score", ["rows"])], {"weights": weights})


def _split_linear(request: np.ndarray, candidate: np.ndarray) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["request", "request_weights"], ["shared"]),
        helper.make_node("Gemm", ["candidate", "candidate_weights", "shared"], ["column"]),
        helper.make_node("Reshape", ["column", "flat"], ["score"]),
    ]
    inputs = [_tensor("request", ["requests", len(request)]), _tensor("candidate", ["rows", len(candidate)])]
    constants = {"request_weights": request, "candidate_weights": candidate, "flat": np.array([-1])}
    return _model(nodes, inputs, [_tensor("score", ["rows"])], constants)


def _tensor(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model
