"""Builds a bundle's approximate index and says how much of the exact answer it finds."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.retrieval.index import ExactIndex
from serving.retrieval.scann_index import MIN_ITEMS, ScannIndex, build_scann

RECALL_DEPTHS = (50, 500)
RECALL_QUERIES = 200


@dataclass(frozen=True)
class AnnReport:
    """What was built: recall by depth, the mean share of the exact index's best items that are found."""

    items: int
    recall: dict[int, float]


def build_ann(embeddings: npt.NDArray[np.float32], directory: Path) -> AnnReport | None:
    """Writes ScaNN's assets where the catalogue is too large to be searched one by one.

    Args:
        embeddings: float32[N, d], each of length 1.
        directory: the draft's `ann` folder. It is left alone up to 20,000 items, and where ScaNN has no wheel.

    Returns:
        The recall over 200 queries: items, each turned halfway towards another item, so that a query is in the
        place and of the kind of a user's. None where nothing was written. Embeddings without clusters (noise) can
        have a recall far below 0.9: the caller records it with the bundle's metrics and says so.
    """
    if len(embeddings) <= MIN_ITEMS or sys.platform != "linux":
        return None
    build_scann(embeddings, directory)
    return AnnReport(len(embeddings), measure_recall(embeddings, directory))


def measure_recall(embeddings: npt.NDArray[np.float32], directory: Path, seed: int = 0) -> dict[int, float]:
    """Mean share of the exact index's best items, by depth, that the written index finds."""
    exact, approximate = ExactIndex(embeddings), ScannIndex(directory, len(embeddings))
    queries = _queries(embeddings, np.random.default_rng(seed))
    recall = {}
    for depth in RECALL_DEPTHS:
        found = [
            np.isin(exact.search(query, depth)[0], approximate.search(query, depth)[0]).mean() for query in queries
        ]
        recall[depth] = float(np.mean(found))
    return recall


def _queries(embeddings: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    one, other = rng.integers(0, len(embeddings), (2, RECALL_QUERIES))
    mixed = embeddings[one] + 0.5 * embeddings[other]
    lengths = np.linalg.norm(mixed, axis=1, keepdims=True)
    queries: npt.NDArray[np.float32] = (mixed / np.maximum(lengths, 1e-12)).astype(np.float32)
    return queries
