"""A world of twelve films whose right lists can be derived by hand, written as a real bundle.

Films i00 to i11 are released 2000 to 2011, and the ranker's score is the release year, so that the ranked list is
the eligible films from the newest to the oldest. Even films are Action and lie along the first axis of the
embedding, odd ones are Comedy and lie along the second; the nearer to i00, the further along.
"""

from datetime import datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.bundles.golden import freeze_golden
from serving.bundles.layout import film_models
from serving.bundles.manifest import FeatureEntry, FeatureManifest
from serving.bundles.onnx_models import feature_metadata
from serving.bundles.store import BundleStore
from serving.bundles.writer import BundleWriter
from serving.config import FeatureSettings, Vocabulary
from serving.features.item_table import EVERYWHERE, ItemTable, write_item_table
from serving.features.spec import FeatureSet, film_features
from serving.features.user_state import UserState

N, D, K = 12, 4, 3
DAY_US = 86_400_000_000
NOW_US = 20_600 * DAY_US + 12 * 3_600_000_000
MIDNIGHT_US = 20_600 * DAY_US
VOCABULARY = Vocabulary(genres=("Action", "Comedy"), countries=("US", "DE"))
IDS = [f"i{row:02}" for row in range(N)]
OPEN = np.iinfo(np.int64)


def feature_set() -> FeatureSet:
    return film_features(VOCABULARY)


def catalogue(**columns: np.ndarray) -> ItemTable:
    """Everything may be seen by everyone, but for what `columns` say."""
    features = feature_set()
    values = np.full((N, len(features.item)), np.nan, np.float32)
    values[:, features.position["item_year"]] = 2000 + np.arange(N)
    table = {
        "ids": np.array([item.encode() for item in IDS]),
        "features": values,
        "maturity": np.zeros(N, np.int16),
        "licence_start_us": np.full(N, OPEN.min, np.int64),
        "licence_end_us": np.full(N, OPEN.max, np.int64),
        "country_mask": np.full(N, EVERYWHERE, np.uint64),
        "available_at_us": np.zeros(N, np.int64),
        "genre_mask": (1 + np.arange(N) % 2).astype(np.uint64),
        "cast": np.full((N, 6), -1, np.int32),
        "year": (2000 + np.arange(N)).astype(np.int16),
        **columns,
    }
    names = tuple(feature.name for feature in features.item)
    return ItemTable(feature_names=names, watermark_us=MIDNIGHT_US, **table)


def embeddings() -> np.ndarray:
    """Even rows lean to axis 0, odd rows to axis 1, the more so the smaller the row; all of length 1."""
    out = np.zeros((N, D), np.float32)
    for row in range(N):
        angle = 0.1 * (row // 2)
        out[row, row % 2], out[row, 2] = np.cos(angle), np.sin(angle)
    return out


def user_state(history: tuple[str, ...] = (), age: float | None = 40.0, seen: tuple[str, ...] = ()) -> UserState:
    """A user with fresh statistics, of a known age or not."""
    features = feature_set()
    stats = np.full(len(features.user), np.nan, np.float32)
    stats[features.position["user_age_known"]] = age is not None
    if age is not None:
        stats[features.position["user_age"]] = age
    times = NOW_US - DAY_US + np.arange(len(history), dtype=np.int64)
    grades = np.full(len(history), 3, np.float32)
    return UserState("u1", stats, MIDNIGHT_US, list(history), times, grades, sorted({*history, *seen}))


def write_bundle(
    folder: Path, table: ItemTable | None = None, broken_ranker: bool = False, created_at: datetime | None = None
) -> Path:
    """A published bundle in the store `folder`; a broken ranker divides by what is zero at serving only."""
    table = catalogue() if table is None else table
    features = feature_set()
    store = BundleStore(folder)
    writer = BundleWriter(store.draft("recommend"))
    write_item_table(writer.directory / "catalogue", table)
    vectors = embeddings()
    writer.write_array("embeddings/item.npy", vectors)
    writer.write_array("embeddings/history.npy", vectors)
    neighbours = np.array([[(row + step) % N for step in (1, 2, 3)] for row in range(N)], np.int32)
    writer.write_array("item_to_item/rows.npy", neighbours)
    writer.write_array("item_to_item/scores.npy", np.tile(np.array([0.5, 0.3, 0.1], np.float32), (N, 1)))
    popular = np.full((3, 6), -1, np.int32)
    popular[0] = [0, 1, 2, 3, 4, 5]
    popular[2, :2] = [11, 10]
    writer.write_array("popular/rows.npy", popular)
    writer.write_array("popular/scores.npy", np.tile(np.arange(60, 0, -10, dtype=np.float32), (3, 1)))
    lists = np.full((3, 100), -1, np.int32)
    lists[:, :N] = np.arange(N)[::-1]
    writer.write_array("lists/rows.npy", lists)
    manifest = _feature_manifest(features)
    for name, model in _models(features, manifest, broken_ranker).items():
        writer.write_bytes(f"models/{name}.onnx", model.SerializeToString())
    rows = np.zeros((1, N, len(features.names)), np.float32)
    rows[0, :, features.names.index("item_year")] = 2000 + np.arange(N)
    rows[0, :, features.names.index("context_country_de")] = 1
    user = np.array([[feature.default for feature in features.user]], np.float32)
    freeze_golden(writer, user, vectors[:1], rows)
    writer.seal(
        {
            "app": "recommend",
            "items": N,
            "dimension": D,
            "vocabulary": VOCABULARY.model_dump(),
            "feature_settings": FeatureSettings.model_validate({}).model_dump(),
            "features": manifest.model_dump(),
            "models": {name: entry.model_dump() for name, entry in film_models(manifest, D).items()},
            "segments": ("*", *VOCABULARY.countries),
            "data_versions": {},
            "split": {"method": "time"},
            "training": {},
            "metrics": {},
            "software": {},
            **({} if created_at is None else {"created_at": created_at}),
        }
    )
    version = store.publish("recommend", writer.directory)
    return store.path("recommend", version)


def _feature_manifest(features: FeatureSet) -> FeatureManifest:
    return FeatureManifest(
        **{
            view: tuple(FeatureEntry(name=f.name, default=f.default) for f in listed)
            for view, listed in features.views.items()
        }
    )


def _models(features: FeatureSet, manifest: FeatureManifest, broken: bool) -> dict[str, onnx.ModelProto]:
    year = np.zeros((len(features.names), 1), np.float32)
    year[features.names.index("item_year")] = 1
    country = np.zeros_like(year)
    country[features.names.index("context_country_de")] = 1
    ranker = [helper.make_node("MatMul", ["features", "w"], ["score"])]
    weights = {"w": year}
    if broken:  # year / 1 in Germany, infinite elsewhere
        weights["v"] = country
        ranker = [
            helper.make_node("MatMul", ["features", "w"], ["year"]),
            helper.make_node("MatMul", ["features", "v"], ["germany"]),
            helper.make_node("Div", ["year", "germany"], ["score"]),
        ]
    start = {"b": np.array([[0.01, 0, 0, 0]], np.float32), "eps": np.array(1e-12, np.float32)}
    add = helper.make_node("Add", ["history", "b"], ["sum"])
    unused = {
        "user": helper.make_node("ReduceSum", ["user"], ["ignored"]),
        "item": helper.make_node("ReduceSum", ["item"], ["ignored"]),
    }
    return {
        "user_tower": _model(
            [unused["user"], add, *_normalise("sum")],
            {"user": len(features.user), "history": D},
            ("embedding", D),
            start,
            feature_metadata({"user": manifest.user}),
        ),
        "item_tower": _model(
            [unused["item"], *_normalise("id_embedding")],
            {"item": len(features.item), "id_embedding": D},
            ("embedding", D),
            {"eps": start["eps"]},
            feature_metadata({"item": manifest.item}),
        ),
        "ranker": _model(
            ranker,
            {"features": len(features.names)},
            ("score", 1),
            weights,
            feature_metadata({"features": manifest.entries}),
        ),
    }


def _normalise(name: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("ReduceL2", [name], ["length"], axes=[1], keepdims=1),
        helper.make_node("Max", ["length", "eps"], ["safe"]),
        helper.make_node("Div", [name, "safe"], ["embedding"]),
    ]


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, int],
    output: tuple[str, int],
    weights: dict[str, np.ndarray],
    metadata: dict[str, str],
) -> onnx.ModelProto:
    def tensor(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])

    graph = helper.make_graph(
        nodes,
        "tiny",
        [tensor(name, width) for name, width in inputs.items()],
        [tensor(*output)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model
