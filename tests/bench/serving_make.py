"""Makes the serving world: `python -m tests.bench.serving_make FOLDER`, where FOLDER/size.json says how large.

Everything is made by the production functions (exporters, index, writer, store) from random but plausible numbers:
items lie in clusters, neighbours share a cluster, and a user's history is drawn from a few of them. All versions
share their files on disk but the ranker's.

Legend: N items, d embedding length, K neighbours, P popular items, S segments.
"""

import json
import os
import shutil
import sys
import time
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xgboost

from serving.bundles import layout
from serving.bundles.golden import freeze_golden
from serving.bundles.manifest import OVERALL_SEGMENT, FeatureManifest, SplitEntry
from serving.bundles.onnx_models import open_session, predict
from serving.bundles.store import BundleStore
from serving.bundles.writer import BundleWriter
from serving.config import FeatureSettings, Vocabulary
from serving.durable import write_json
from serving.features.assembly import defaults_of, fill_missing
from serving.features.item_table import ALWAYS_US, EVERYWHERE, NEVER_US, ItemTable, write_item_table
from serving.features.spec import DAY_US, Feature, film_features
from tests.bench.serving_bundle import APP, NEURAL, TREES, BundleWorld, WorldSize, anchor_us
from training.ann import build_ann
from training.config import LambdaMartSettings, NeuralRankerSettings, TwoTowerSettings
from training.export.ranker import export_split_ranker, split_rows
from training.export.towers import export_item_tower, export_user_tower
from training.export.trees import export_lambdamart
from training.models.lambdamart import LambdaMart
from training.models.neural_ranker import NeuralRanker
from training.models.two_tower import TwoTower

CLUSTER = 997
"""Items of a cluster: a prime, so that stepping through it by any stride meets distinct items."""
NEIGHBOURS, POPULAR, SAMPLE = 50, 500, 8_000
SETTINGS = FeatureSettings.model_validate({"snapshot_ttl_days": 3650})
GENERATOR = np.random.Generator


class Clusters:
    """Which items belong together: a random order of the rows, cut into pieces of `CLUSTER`."""

    def __init__(self, size: WorldSize) -> None:
        self.size = size
        self.count = max(1, size.items // CLUSTER)
        self.width = min(CLUSTER, size.items)
        self.order = _rng(size, "clusters").permutation(size.items).astype(np.int32)
        """int32[N]: rows by place."""

    def cluster(self, place: np.ndarray) -> np.ndarray:
        """The cluster of each place; what is left over at the end is dealt out."""
        return np.where(place < self.count * self.width, place // self.width, place % self.count)

    def members(self, cluster: np.ndarray, step: np.ndarray) -> np.ndarray:
        """int32: the rows at these steps inside these clusters."""
        rows: np.ndarray = self.order[cluster * self.width + step % self.width]
        return rows


def random_features(features: tuple[Feature, ...], count: int, rng: GENERATOR) -> np.ndarray:
    """float32[count, D]: values of each feature's usual size, a twentieth of them missing."""
    values = rng.random((count, len(features)), dtype=np.float32)
    for column, feature in enumerate(features):
        if feature.default > 1:
            values[:, column] = feature.default * (0.5 + values[:, column])
        elif not _is_share(feature.name):
            values[:, column] = np.floor(-40 * np.log1p(-values[:, column]))
    values[rng.random(values.shape, dtype=np.float32) < 0.05] = np.nan
    return values


def _is_share(name: str) -> bool:
    marks = ("ctr", "rate", "share", "genre_", "daypart", "device", "known", "popularity", "affinity", "context")
    return any(mark in name for mark in marks)


def main(folder: Path) -> None:
    """Makes the bundles of the world in `folder`; what an earlier attempt left there is removed."""
    size, started = WorldSize(**json.loads((folder / "size.json").read_text())), time.monotonic()
    world = BundleWorld(size, folder)
    for kind in (NEURAL, TREES):
        shutil.rmtree(world.root(kind), ignore_errors=True)
    store = BundleStore(world.root() / "bundles")
    writer = BundleWriter(store.draft(APP))
    clusters = Clusters(size)
    metrics = _fill(writer, clusters)
    _write_ranker(writer, size, NEURAL, seed=0)
    writer.seal(_fields(size, metrics, NEURAL))
    published = store.path(APP, store.publish(APP, writer.directory))
    _publish_variant(published, BundleStore(world.root(TREES) / "bundles"), size, metrics, TREES, 0)
    _publish_variant(published, store, size, metrics, NEURAL, 1)
    write_json(folder / "made.json", {"size": asdict(size), "seconds": time.monotonic() - started, **metrics})


def _fill(writer: BundleWriter, clusters: Clusters) -> dict[str, float]:
    """Writes all but ranker, golden examples and manifest; returns the index's recall."""
    size, features = clusters.size, film_features(Vocabulary())
    rng = _rng(size, "items")
    catalogue = _catalogue(size, rng)
    write_item_table(writer.directory / layout.CATALOGUE, catalogue)
    history = _history_embeddings(clusters, rng)
    writer.write_array(layout.HISTORY_EMBEDDINGS, history)
    _write_towers(writer, size, catalogue)
    session = open_session(writer.directory / layout.MODEL_FILES[layout.ITEM_TOWER], threads=os.cpu_count() or 1)
    defaults = defaults_of(features.item)
    parts = []
    for start in range(0, size.items, 65_536):
        filled, _ = fill_missing(np.asarray(catalogue.features[start : start + 65_536]), defaults)
        parts.append(predict(session, {"item": filled, "id_embedding": history[start : start + 65_536]}))
    embeddings = np.concatenate(parts)
    writer.write_array(layout.ITEM_EMBEDDINGS, embeddings)
    _write_tables(writer, clusters, catalogue, rng)
    report = build_ann(embeddings, writer.directory / layout.ANN)
    return {} if report is None else {f"index_recall@{depth}": value for depth, value in report.recall.items()}


def _catalogue(size: WorldSize, rng: GENERATOR) -> ItemTable:
    vocabulary, n, now_us = Vocabulary(), size.items, anchor_us()
    features = film_features(vocabulary)
    values = random_features(features.item, n, rng)
    genres = rng.integers(0, len(vocabulary.genres), (n, 2))
    genre_mask = np.bitwise_or.reduce(np.left_shift(np.uint64(1), genres.astype(np.uint64)), axis=1)
    first = features.position["item_genre_action"]
    for i in range(len(vocabulary.genres)):
        values[:, first + i] = genre_mask >> np.uint64(i) & np.uint64(1)
    masks = rng.integers(1, 2 ** len(vocabulary.countries), n).astype(np.uint64)
    columns: dict[str, Any] = {
        "ids": np.char.add("i", np.char.zfill(np.arange(n).astype("U7"), 7)).astype("S"),
        "features": values,
        "maturity": rng.choice(np.array([0, 6, 12, 16, 18], np.int16), n),
        "licence_start_us": np.full(n, NEVER_US, np.int64),
        "licence_end_us": np.where(rng.random(n) < 0.7, ALWAYS_US, now_us + rng.integers(-30, 300, n) * DAY_US),
        "country_mask": np.where(rng.random(n) < 0.9, EVERYWHERE, masks),
        "available_at_us": now_us - rng.integers(0, 3000, n) * DAY_US,
        "genre_mask": genre_mask,
        "cast": rng.integers(1, max(50, n // 20), (n, 6), dtype=np.int32),
        "year": rng.integers(1950, 2027, n, dtype=np.int16),
        "franchise": np.where(rng.random(n) < 0.2, rng.integers(0, max(1, n // 25), n), -1).astype(np.int32),
        "edition": np.where(rng.random(n) < 0.05, rng.integers(0, max(1, n // 40), n), -1).astype(np.int32),
        "provider": rng.integers(0, 50, n, dtype=np.int32),
    }
    known = {field.name for field in fields(ItemTable)}
    names = tuple(feature.name for feature in features.item)
    return ItemTable(
        feature_names=names, watermark_us=now_us, **{name: column for name, column in columns.items() if name in known}
    )


def _history_embeddings(clusters: Clusters, rng: GENERATOR) -> np.ndarray:
    """float32[N, d]: a centre for each cluster and, around it, its items."""
    n, d = clusters.size.items, clusters.size.dimension
    centres = rng.standard_normal((clusters.count, d), dtype=np.float32)
    history = 0.35 * rng.standard_normal((n, d), dtype=np.float32)
    places = np.arange(n)
    history[clusters.order[places]] += centres[clusters.cluster(places)]
    return history


def _write_towers(writer: BundleWriter, size: WorldSize, catalogue: ItemTable) -> None:
    """Towers whose weights on ids are the same on both sides, so that users land beside what they took up."""
    torch.manual_seed(size.seed)
    features = film_features(Vocabulary())
    manifest = FeatureManifest.of(features)
    widths = len(features.user), len(features.item)
    model = TwoTower(*widths, 1, size.dimension, TwoTowerSettings.model_validate({}).hidden)
    sample, _ = fill_missing(np.asarray(catalogue.features[:4096]), defaults_of(features.item))
    model.item_tower.standardise.fit(sample)
    model.user_tower.standardise.fit(user_rows(size, 4096, filled=True))
    _align(model, *widths)
    writer.write_bytes(layout.MODEL_FILES[layout.USER_TOWER], export_user_tower(model.eval(), manifest.user))
    writer.write_bytes(layout.MODEL_FILES[layout.ITEM_TOWER], export_item_tower(model, manifest.item))


def _align(model: TwoTower, user_width: int, item_width: int) -> None:
    user: Any = model.user_tower.layers
    item: Any = model.item_tower.layers
    with torch.no_grad():
        item[0].weight[:, :item_width] *= 0.2
        item[0].weight[:, item_width:] *= 4
        user[0].weight[:, :user_width] *= 0.2
        user[0].weight[:, user_width:] = item[0].weight[:, item_width:]
        user[0].bias.copy_(item[0].bias)
        user[2].load_state_dict(item[2].state_dict())


def user_rows(size: WorldSize, count: int, filled: bool = False) -> np.ndarray:
    """float32[count, Du]: the first users' statistics as stored; every one is grown up."""
    features = film_features(Vocabulary())
    values = random_features(features.user, count, _rng(size, "users"))
    values[:, features.position["user_age_known"]] = 1
    values[:, features.position["user_age"]] = 40
    return fill_missing(values, defaults_of(features.user))[0] if filled else values


def _write_tables(writer: BundleWriter, clusters: Clusters, catalogue: ItemTable, rng: GENERATOR) -> None:
    n, segments = clusters.size.items, 1 + len(Vocabulary().countries)
    places = np.arange(n)
    strides = rng.integers(1, clusters.width, n)[:, None]
    steps = places[:, None] % clusters.width + strides * np.arange(1, NEIGHBOURS + 1)
    rows = np.empty((n, NEIGHBOURS), np.int32)
    rows[clusters.order] = clusters.members(clusters.cluster(places)[:, None], steps)
    scores = np.sort(rng.random((n, NEIGHBOURS), dtype=np.float32), axis=1)[:, ::-1]
    writer.write_array(layout.NEIGHBOUR_ROWS, rows)
    writer.write_array(layout.NEIGHBOUR_SCORES, scores)
    popular = np.stack([rng.choice(n, min(POPULAR, n), replace=False) for _ in range(segments)]).astype(np.int32)
    writer.write_array(layout.POPULAR_ROWS, popular)
    writer.write_array(layout.POPULAR_SCORES, np.sort(rng.random(popular.shape, dtype=np.float32))[:, ::-1])
    lists = np.full((segments, layout.LIST_LENGTH), -1, np.int32)
    for segment in range(segments):
        order = rng.permutation(np.flatnonzero(catalogue.maturity == 0))[: layout.LIST_LENGTH]
        lists[segment, : len(order)] = order
    writer.write_array(layout.LIST_ROWS, lists)


def _write_ranker(writer: BundleWriter, size: WorldSize, kind: str, seed: int) -> None:
    """The ranker with the training's default shape, and golden examples of it."""
    features = film_features(Vocabulary())
    everything = tuple(feature for view in features.views.values() for feature in view)
    rng = _rng(size, f"ranker {kind} {seed}")
    sample, _ = fill_missing(random_features(everything, SAMPLE, rng), defaults_of(everything))
    manifest = FeatureManifest.of(features)
    export = _neural(sample, seed, manifest) if kind == NEURAL else _trees(sample, manifest.entries, rng)
    writer.write_bytes(layout.MODEL_FILES[layout.RANKER], export)
    history = np.asarray(np.load(writer.directory / layout.HISTORY_EMBEDDINGS, mmap_mode="r")[:200])
    examples = {"features": sample[:200].reshape(4, 50, -1)}
    if kind == NEURAL:
        apart = split_rows(sample[:200], manifest)
        examples = {"features": apart[layout.CANDIDATE].reshape(4, 50, -1), "request": apart[layout.REQUEST][::50]}
    freeze_golden(writer, user_rows(size, 4, filled=True), history.reshape(4, 50, -1).mean(axis=1), **examples)


def _neural(sample: np.ndarray, seed: int, features: FeatureManifest) -> bytes:
    torch.manual_seed(seed)
    settings = NeuralRankerSettings.model_validate({"model": "neural"})
    model = NeuralRanker(sample.shape[1], settings.hidden, settings.dropout)
    model.standardise.fit(sample)
    return export_split_ranker(model.eval(), features)


def _trees(sample: np.ndarray, entries: Any, rng: GENERATOR) -> bytes:
    """A forest of the full default size, fitted to a rough function of many features."""
    settings = LambdaMartSettings.model_validate({})
    hidden = np.tanh(sample @ rng.standard_normal((sample.shape[1], 64), dtype=np.float32) / 50)
    target = hidden @ rng.standard_normal(64, dtype=np.float32)
    parameters = {"max_depth": settings.depth, "eta": settings.learning_rate, "colsample_bytree": settings.column_share}
    booster = xgboost.train(
        {"objective": "reg:squarederror", "tree_method": "hist", "seed": 0, **parameters},
        xgboost.DMatrix(sample, target),
        settings.trees,
    )
    return export_lambdamart(LambdaMart(booster), entries)


def _publish_variant(
    base: Path, store: BundleStore, size: WorldSize, metrics: dict[str, float], kind: str, seed: int
) -> None:
    """The same bundle with another ranker; all other files are the same ones on disk."""
    draft = store.draft(APP)
    own = {layout.MODEL_FILES[layout.RANKER], "manifest.json"}
    for path in base.rglob("*"):
        relative = path.relative_to(base)
        if path.is_dir():
            (draft / relative).mkdir(exist_ok=True)
        elif str(relative) not in own and relative.parts[0] != "golden":
            os.link(path, draft / relative)
    writer = BundleWriter(draft)
    _write_ranker(writer, size, kind, seed)
    writer.seal(_fields(size, metrics, kind, seed))
    store.publish(APP, draft)


def _fields(size: WorldSize, metrics: dict[str, float], kind: str, age_days: int = 0) -> dict[str, Any]:
    vocabulary = Vocabulary()
    features = FeatureManifest.of(film_features(vocabulary))
    return {
        "app": APP,
        "created_at": datetime.fromtimestamp(anchor_us() / 1e6, UTC) - timedelta(days=age_days),
        "items": size.items,
        "dimension": size.dimension,
        "vocabulary": vocabulary,
        "feature_settings": SETTINGS,
        "features": features,
        "models": layout.film_models(features, size.dimension, split_ranker=kind == NEURAL),
        "segments": (OVERALL_SEGMENT, *vocabulary.countries),
        "data_versions": {},
        "split": SplitEntry(method="none"),
        "training": {"ranker": kind, **asdict(size)},
        "metrics": metrics,
        "software": {"numpy": version("numpy")},
    }


def _rng(size: WorldSize, purpose: str) -> GENERATOR:
    return np.random.default_rng((size.seed, *purpose.encode()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
