"""Verification: everything about a bundle that can be recomputed is, and all problems are told at once.

A file whose bytes are wrong is reported as such and not looked into further, nor is anything computed from it.
"""

import sys
from pathlib import Path

import numpy as np

from serving.bundles.arrays import array_problems
from serving.bundles.files import file_problems, lines, open_array, under
from serving.bundles.golden import FILES as GOLDEN_FILES
from serving.bundles.golden import golden_problems, input_file
from serving.bundles.layout import (
    ANN,
    CATALOGUE,
    HISTORY_EMBEDDINGS,
    ITEM_EMBEDDINGS,
    ITEM_TOWER,
    MODEL_FILES,
    RANKER,
    USER_TOWER,
    film_models,
)
from serving.bundles.manifest import MANIFEST, FeatureManifest, Manifest, read_manifest
from serving.bundles.onnx_models import model_problems, open_session, predict
from serving.errors import BundleError
from serving.features.item_table import ItemTable, verify_item_table
from serving.features.spec import film_features
from serving.retrieval.scann_index import ScannIndex

EMBEDDING_TOLERANCE = 1e-4
EMBEDDING_SAMPLE = 4096


def verify_bundle(directory: Path, published: bool = True) -> list[str]:
    """Recomputes all that can be: hashes, shapes, row ranges, models' metadata, embeddings, golden examples.

    Args:
        directory: a bundle. A published one is named by its version, and so by its manifest's hash.
        published: False for a draft, whose name says nothing.

    Returns:
        One `file: problem` line for each thing that is wrong; empty when the bundle may serve.
    """
    try:
        manifest = read_manifest(directory)
    except BundleError as error:
        return list(error.problems)
    problems_of_manifest = [*(_name_problems(directory, manifest) if published else []), *_feature_problems(manifest)]
    problems = file_problems(directory, manifest)
    damaged = set(problems)
    problems |= array_problems(directory, manifest, damaged)
    problems |= _model_problems(directory, manifest, damaged)
    if not under(damaged, CATALOGUE):
        problems |= _catalogue_problems(directory, manifest, set(problems))
    ranker_inputs = [tensor.name for tensor in manifest.models[RANKER].inputs] if RANKER in manifest.models else []
    needed = {*GOLDEN_FILES, *map(input_file, ranker_inputs)}
    needed |= {ITEM_EMBEDDINGS, MODEL_FILES[USER_TOWER], MODEL_FILES[RANKER]}
    if not needed & set(problems):
        problems |= golden_problems(directory, manifest.dimension, ranker_inputs)
    if (directory / ANN).is_dir() and not under(damaged, ANN):
        problems |= _index_problems(directory, manifest.items)
    return problems_of_manifest + lines(problems)


def _name_problems(directory: Path, manifest: Manifest) -> list[str]:
    name = directory.resolve().name
    if name == manifest.version:
        return []
    return [f"{MANIFEST}: is that of version {manifest.version}, the folder is named {name}"]


def _feature_problems(manifest: Manifest) -> list[str]:
    """Compares with the features that this installation computes for the same vocabulary."""
    ours = FeatureManifest.of(film_features(manifest.vocabulary))
    if ours == manifest.features:
        return []
    lost, added = set(ours.names) - set(manifest.features.names), set(manifest.features.names) - set(ours.names)
    parts = [f"it lacks {name}" for name in sorted(lost)[:5]] + [f"it has {name}" for name in sorted(added)[:5]]
    detail = "; ".join(parts) or "their order or defaults differ"
    return [f"{MANIFEST}: made for other features ({len(manifest.features)}, here {len(ours)}): {detail}"]


def _model_problems(directory: Path, manifest: Manifest, damaged: set[str]) -> dict[str, str]:
    kinds = [film_models(manifest.features, manifest.dimension, split_ranker=split) for split in (False, True)]
    problems = {
        entry.file: f"the manifest's entry of {name} does not fit its features and dimension"
        for name, entry in kinds[0].items()
        if manifest.models.get(name) not in [kind[name] for kind in kinds]
    }
    for entry in manifest.models.values():
        if entry.file in damaged or entry.file in problems:
            continue
        try:
            found = model_problems(open_session(directory / entry.file), entry, manifest)
        except BundleError as error:
            found = list(error.problems)
        if found:
            problems[entry.file] = "; ".join(found)
    return problems


def _catalogue_problems(directory: Path, manifest: Manifest, doubtful: set[str]) -> dict[str, str]:
    damage = verify_item_table(directory / CATALOGUE)
    if damage:
        return {CATALOGUE: "; ".join(damage)}
    catalogue = ItemTable.load(directory / CATALOGUE)
    found = []
    if len(catalogue.ids) != manifest.items:
        found.append(f"{len(catalogue.ids)} rows where the manifest says {manifest.items}")
    if tuple(catalogue.feature_names) != tuple(entry.name for entry in manifest.features.item):
        found.append("its features are not the manifest's item features, in order")
    if problem := catalogue.index.problem(np.asarray(catalogue.ids)):
        found.append(problem)
    if found:
        return {CATALOGUE: "; ".join(found)}
    if {ITEM_EMBEDDINGS, HISTORY_EMBEDDINGS, MODEL_FILES[ITEM_TOWER]} & doubtful:
        return {}
    problem = _embedding_problem(directory, manifest, catalogue)
    return {ITEM_EMBEDDINGS: problem} if problem else {}


def _index_problems(directory: Path, items: int) -> dict[str, str]:
    if sys.platform != "linux":
        return {}
    try:
        ScannIndex(directory / ANN, items)
    except BundleError as error:
        return {ANN: "; ".join(error.problems)}
    return {}


def _embedding_problem(directory: Path, manifest: Manifest, catalogue: ItemTable) -> str | None:
    """Runs the item tower over an even sample of the catalogue, all of it where it is small."""
    rows = np.linspace(0, manifest.items - 1, min(manifest.items, EMBEDDING_SAMPLE)).astype(np.int64)
    features = np.asarray(catalogue.features[rows], dtype=np.float32)
    defaults = np.array([entry.default for entry in manifest.features.item], dtype=np.float32)
    inputs = {
        "item": np.where(np.isnan(features), defaults, features),
        "id_embedding": np.asarray(open_array(directory / HISTORY_EMBEDDINGS)[rows]),
    }
    try:
        recomputed = predict(open_session(directory / MODEL_FILES[ITEM_TOWER]), inputs)
    except Exception as error:  # noqa: BLE001  the runtime's error classes have no base of their own
        return f"the item tower fails on the catalogue: {' '.join(str(error).split())[:300]}"
    stored = open_array(directory / ITEM_EMBEDDINGS)[rows]
    off = float(np.abs(recomputed - stored).max())
    if off <= EMBEDDING_TOLERANCE:
        return None
    return f"the item tower gives embeddings that differ by up to {off:.1e}"
