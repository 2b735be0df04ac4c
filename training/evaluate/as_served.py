"""Evaluation as served: every holdout request goes through serving's own pipeline, replayed as of its instant.

Each part of the pipeline can answer alone, so that one table shows what every model adds. The rankings are over
the whole catalogue, with what the user had seen and must not see left out.

Legend: U requests (one per user), K list length, N items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.apps.recommend import Part, Recommender
from training.config import EvaluationSettings
from training.evaluate import metrics
from training.evaluate.bootstrap import mean_interval
from training.evaluate.metrics import PerUser, RelevantSets
from training.evaluate.slices import sliced, user_slices
from training.features.replay import Replay
from training.jobs.ranker_rows import Request, replayed

SERVED = "served"
BASELINES: dict[str, Part] = {"popular": Part.POPULAR, "item_to_item": Part.ITEM_TO_ITEM}
ALONE: dict[str, Part] = {**BASELINES, "two_tower": Part.TWO_TOWER, "retrieval": Part.RETRIEVAL}
LIST_LENGTH = 50
GATE_METRIC = "ndcg@20"


@dataclass(frozen=True)
class Holdout:
    """The requests to answer and what their users went on to take; `prior` int64[N] counts earlier takers."""

    requests: list[Request]
    prior: NDArray[np.int64]
    prior_by_user: NDArray[np.int64]
    """int64[U]: how many interactions each request's user had before."""
    country: NDArray[np.int16]
    """int16[U]: the user's country in the vocabulary, -1 for any other."""

    @property
    def relevant(self) -> RelevantSets:
        """What each request's user took afterwards, with grades."""
        sizes = np.array([len(r.rows) for r in self.requests], np.int64)
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        rows = np.concatenate([r.rows for r in self.requests]).astype(np.int32)
        return RelevantSets(indptr, rows, np.concatenate([r.grades for r in self.requests]))


def answer_all(
    recommender: Recommender, replay: Replay, holdout: Holdout, parts: Mapping[str, Part | None]
) -> dict[str, NDArray[np.int32]]:
    """int32[U, 50] of each part, best first, -1 padded, in the run's rows; None is the whole chain as served.

    The bundle may be an earlier one with other rows, and answers with newer items as it would have done then; an
    item that this run does not know counts as a miss.
    """
    lists = {name: np.full((len(holdout.requests), LIST_LENGTH), -1, np.int32) for name in parts}
    own_row = {item: row for row, item in enumerate(replay.item_ids)}
    replays = replayed(recommender, replay, holdout.requests, with_shown=True)
    for index, (request, query, state) in enumerate(replays):
        for name, part in parts.items():
            if part is None:
                full = query.model_copy(update={"k": LIST_LENGTH})
                answer = recommender.recommend(full, state, request.time_us)
                ids = [item.id for item in answer.items]
            else:
                ids = recommender.table().ids_of(
                    recommender.retrieve(query, state, request.time_us, part).row[:LIST_LENGTH]
                )
            lists[name][index, : len(ids)] = [own_row.get(item, -1) for item in ids]
    return lists


def measure(lists: NDArray[np.int32], holdout: Holdout, relevant: RelevantSets) -> dict[str, PerUser]:
    """The per-user metrics of one part's lists, each float64[U]."""
    return {
        "ndcg@20": metrics.ndcg(lists, relevant, 20),
        "ndcg@10": metrics.ndcg(lists, relevant, 10),
        "recall@50": metrics.recall(lists, relevant, 50),
        "hit_rate@10": metrics.hit_rate(lists, relevant, 10),
        "novelty@20": metrics.novelty(lists, holdout.prior, 20),
    }


def summarise(
    measured: Mapping[str, Mapping[str, PerUser]],
    lists: Mapping[str, NDArray[np.int32]],
    holdout: Holdout,
    countries: Sequence[str],
    settings: EvaluationSettings,
    seed: int,
) -> dict[str, Any]:
    """Means with 95 % intervals for every part and metric, coverage, and the gate's metric by slice as served."""
    samples = settings.bootstrap_samples
    parts: dict[str, dict[str, Any]] = {}
    for part, values in measured.items():
        parts[part] = {}
        for name, value in values.items():
            interval = mean_interval(value, samples, seed)
            parts[part][name] = {"mean": interval.mean, "low": interval.low, "high": interval.high}
        parts[part]["coverage@20"] = {"mean": metrics.coverage(lists[part], len(holdout.prior), 20)}
    slices = user_slices(holdout.prior_by_user, holdout.country, countries)
    by_slice = {
        result.name: {"users": result.interval.users, "mean": result.interval.mean}
        for result in sliced(measured[SERVED][GATE_METRIC], slices, samples, seed)
        if result.interval.users
    }
    return {"users": len(holdout.requests), "parts": parts, "slices": by_slice}
