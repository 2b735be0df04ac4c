"""Completes a fit of the retrieval models with a ranker into a sealed bundle."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from serving.apps.recommend import Part, Recommender
from serving.bundles import layout
from serving.bundles.golden import freeze_golden
from serving.bundles.manifest import OVERALL_SEGMENT, FeatureManifest, SplitEntry
from serving.bundles.writer import BundleWriter
from serving.config import SieveConfig
from serving.errors import DataError
from serving.features.spec import film_features
from serving.retrieval.user_tower import pool_history
from training.config import TrainingConfig
from training.export.parity import check_parity
from training.export.ranker import export_split_ranker, split_rows
from training.export.trees import export_lambdamart
from training.features.replay import Replay
from training.jobs.ranker_rows import Request, replayed
from training.jobs.retrieval import open_retrieval
from training.models.lambdamart import LambdaMart
from training.models.neural_ranker import NeuralRanker
from training.models.ranker import RankerRows

APP = "recommend"
GOLDEN_REQUESTS = 8
GOLDEN_CANDIDATES = 50
PARITY_ROWS = 4096
SOFTWARE = ("numpy", "onnx", "onnxruntime", "scann", "torch", "xgboost", "feast", "ray", "sieve-serving")


@dataclass(frozen=True)
class Draft:
    """What a bundle is sealed from: a fit of retrieval, a trained ranker and where they came from."""

    retrieval: Path
    ranker: LambdaMart | NeuralRanker
    rows: RankerRows
    config: SieveConfig
    training: TrainingConfig
    data_versions: Mapping[str, int]
    cuts_us: Mapping[str, int]
    metrics: Mapping[str, float]


def seal_draft(draft: Draft, replay: Replay, examples: list[Request], target: Path) -> str:
    """Writes a complete, sealed bundle into `target` and returns its version.

    Raises:
        BundleError: onnxruntime and the trained ranker disagree.
        DataError: too few example requests with enough candidates for golden examples.
    """
    shutil.copytree(draft.retrieval, target, dirs_exist_ok=True)
    writer = BundleWriter(target)
    features = FeatureManifest.of(film_features(draft.config.vocabulary))
    _write_ranker(draft, features, writer)
    freeze_golden(writer, **_golden_inputs(draft, features, replay, examples))
    manifest = writer.seal(_manifest_fields(draft, features, replay))
    return manifest.version


def _write_ranker(draft: Draft, features: FeatureManifest, writer: BundleWriter) -> None:
    sample = np.array(draft.rows.features[:PARITY_ROWS])
    if isinstance(draft.ranker, NeuralRanker):
        content = export_split_ranker(draft.ranker, features)
        inputs = split_rows(sample, features)
    else:
        content = export_lambdamart(draft.ranker, features.entries)
        inputs = {layout.FEATURES: sample}
    check_parity("ranker", draft.ranker.score(sample), content, inputs)
    writer.write_bytes(layout.MODEL_FILES[layout.RANKER], content)


def _golden_inputs(
    draft: Draft, features: FeatureManifest, replay: Replay, examples: list[Request]
) -> dict[str, np.ndarray]:
    """What `freeze_golden` takes, of real requests."""
    recommender = Recommender(open_retrieval(draft.retrieval, draft.config, APP))
    users, histories, matrices = [], [], []
    for request, query, state in replayed(recommender, replay, examples):
        resolved = recommender.resolve(query, state, request.time_us)
        rows = recommender.run_part(Part.RETRIEVAL, resolved).row[:GOLDEN_CANDIDATES]
        if len(rows) < GOLDEN_CANDIDATES:
            continue
        users.append(resolved.user)
        histories.append(pool_history(recommender.model.history_embeddings, resolved.history))
        matrices.append(recommender.request_features.matrix(resolved, rows))
        if len(users) == GOLDEN_REQUESTS:
            break
    if not users:
        raise DataError("no golden examples", [f"no request has {GOLDEN_CANDIDATES} eligible candidates"])
    inputs = {"user": np.stack(users), "history": np.stack(histories), "features": np.stack(matrices)}
    if isinstance(draft.ranker, NeuralRanker):
        apart = [split_rows(matrix, features) for matrix in matrices]
        inputs["features"] = np.stack([rows[layout.CANDIDATE] for rows in apart])
        inputs["request"] = np.stack([rows[layout.REQUEST][0] for rows in apart])
    return inputs


def _manifest_fields(draft: Draft, features: FeatureManifest, replay: Replay) -> dict[str, Any]:
    dimension = draft.training.two_tower.dimension
    return {
        "app": APP,
        "items": len(replay.item_ids),
        "dimension": dimension,
        "vocabulary": draft.config.vocabulary,
        "feature_settings": draft.config.features,
        "features": features,
        "models": layout.film_models(features, dimension, split_ranker=isinstance(draft.ranker, NeuralRanker)),
        "segments": (OVERALL_SEGMENT, *draft.config.vocabulary.countries),
        "data_versions": dict(draft.data_versions),
        "split": SplitEntry(method=draft.training.split.method, cuts_us=dict(draft.cuts_us)),
        "training": draft.training.model_dump(mode="json"),
        "metrics": dict(draft.metrics),
        "software": {name: version(name) for name in SOFTWARE},
    }
