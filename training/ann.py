"""Builds a bundle's approximate index and says how much of the exact answer it finds."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.retrieval.index import ExactIndex
from serving.retrieval.scann_index import MIN_ITEMS, WIDEST, Effort, ScannIndex, build_scann, set_effort

RECALL_DEPTHS = (50, 500)
RECALL_QUERIES = 200
RECALL_AIM = 0.92
EFFORTS = (Effort(0.005, 2), Effort(0.01, 2), Effort(0.02, 2), Effort(0.03, 3), Effort(0.05, 4), Effort(0.1, 4), WIDEST)
"""How far searches may go, the fastest first."""


@dataclass(frozen=True)
class AnnReport:
    """What was built: how far it is searched, and recall by depth, the mean share of the exact index's best items
    that are found."""

    items: int
    effort: Effort
    recall: dict[int, float]


def build_ann(embeddings: npt.NDArray[np.float32], directory: Path) -> AnnReport | None:
    """Writes ScaNN's assets where the catalogue is too large to be searched one by one.

    It is searched no further than finds 92 % of the 500 best; as far as pays where that finds fewer.

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
    queries = _queries(embeddings, np.random.default_rng(0))
    exact = ExactIndex(embeddings)
    best = [exact.search(query, max(RECALL_DEPTHS))[0] for query in queries]
    for effort in EFFORTS:
        set_effort(directory, effort)
        recall = measure_recall(ScannIndex(directory, len(embeddings)), queries, best)
        if recall[max(RECALL_DEPTHS)] >= RECALL_AIM:
            break
    return AnnReport(len(embeddings), effort, recall)


def measure_recall(
    index: ScannIndex, queries: npt.NDArray[np.float32], best: list[npt.NDArray[np.int32]]
) -> dict[int, float]:
    """Mean share of the exact index's `best` items, by depth, that an index finds for queries float32[Q, d]."""
    recall = {}
    for depth in RECALL_DEPTHS:
        found = [
            np.isin(rows[:depth], index.search(query, depth)[0]).mean()
            for query, rows in zip(queries, best, strict=True)
        ]
        recall[depth] = float(np.mean(found))
    return recall


def _queries(embeddings: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    one, other = rng.integers(0, len(embeddings), (2, RECALL_QUERIES))
    mixed = embeddings[one] + 0.5 * embeddings[other]
    lengths = np.linalg.norm(mixed, axis=1, keepdims=True)
    queries: npt.NDArray[np.float32] = (mixed / np.maximum(lengths, 1e-12)).astype(np.float32)
    return queries
