"""The rows that the ranker learns from, made by serving's own pipeline on replayed requests.

A request is replayed as of its own instant: the user's statistics and history and the item table that serving
would have read then, retrieval by models that were fitted on earlier data. So a training row is what the server
would have computed, by the same code.

Legend: G requests, R rows, C candidates of a request, F features.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.apps.recommend import Part, Recommender
from serving.core.query import Context, Query
from serving.core.request import Request as Resolved
from serving.errors import DataError
from serving.features.affinity import Affinity
from serving.features.context import country_codes, device_codes
from serving.features.user_state import UserState
from training.config import RankerData
from training.data.labels import labelled_impressions
from training.features.replay import Replay
from training.features.training_set import AffinityInputs, Requests, assemble
from training.jobs.entities import Entities
from training.models.interactions import Interactions
from training.models.ranker import RankerRows

PROGRESS_EVERY = 5_000


@dataclass(frozen=True)
class Request:
    """One replayed request: who, when, where, and the items whose grade is known (int32[n], int8[n])."""

    user: int
    time_us: int
    device: str | None
    country: str | None
    rows: NDArray[np.int32]
    grades: NDArray[np.int8]


def impression_requests(
    connection: duckdb.DuckDBPyConnection, entities: Entities, from_us: int, to_us: int, known_before_us: int
) -> list[Request]:
    """Every shown list of `from_us <= time < to_us` that led to something, with the grade of each item shown."""
    table = labelled_impressions(connection, from_us, to_us, known_before_us)
    if not table.num_rows:
        return []
    key = table["prediction_id"].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    user, item = entities.users(table["user_id"]), entities.items(table["item_id"])
    time_us, grade = table["time_us"].to_numpy(), table["grade"].to_numpy()
    keep = np.flatnonzero((key >= 0) & (user >= 0) & (item >= 0))
    keep = keep[np.argsort(key[keep], kind="stable")]
    starts = np.flatnonzero(np.diff(key[keep], prepend=-1))
    device, country = table["device"].combine_chunks(), table["country"].combine_chunks()
    requests = []
    for rows in np.split(keep, starts[1:]):
        if grade[rows].any():
            first = int(rows[np.argmin(time_us[rows])])
            shown, place = np.unique(item[rows], return_inverse=True)
            best = np.zeros(len(shown), np.int8)
            np.maximum.at(best, place, grade[rows])  # a film may be shown twice
            where = device[first].as_py(), country[first].as_py()
            requests.append(Request(int(user[first]), int(time_us[first]), *where, shown.astype(np.int32), best))
    return requests


def sample_requests(requests: list[Request], settings: RankerData, seed: int) -> list[Request]:
    """A seeded sample that fills about `max_rows` rows, in order of time."""
    order = np.random.default_rng(seed).permutation(len(requests))
    sizes = np.array([len(requests[i].rows) + settings.sampled_negatives for i in order])
    chosen = order[: int(np.searchsorted(np.cumsum(sizes), settings.max_rows, side="right"))]
    return sorted((requests[i] for i in chosen), key=lambda r: (r.time_us, r.user))


def positive_requests(interactions: Interactions, learned: NDArray[np.bool_]) -> list[Request]:
    """Requests where nothing was shown: one at each of the `learned` positives, bool[n].

    It and the user's later ones are what is wanted. What was not taken has no grade; only candidates that
    retrieval finds stand against the positives.
    """
    requests = []
    rows = np.flatnonzero(learned)
    for mine in np.split(rows, np.flatnonzero(np.diff(interactions.user[rows])) + 1):
        for start in range(len(mine)):
            first, rest = mine[start], mine[start:]
            user, time_us = int(interactions.user[first]), int(interactions.time_us[first])
            requests.append(Request(user, time_us, None, None, interactions.item[rest], interactions.grade[rest]))
    return requests


def build_rows(
    recommender: Recommender,
    replay: Replay,
    requests: list[Request],
    settings: RankerData,
    seed: int,
    report: Callable[[str], None],
) -> RankerRows:
    """Computes the features of every request's items and of sampled candidates that were not shown (grade 0).

    Raises:
        DataError: there is no request to learn from.
    """
    if not requests:
        raise DataError("the ranker has nothing to learn from", ["no request of its window led to an interaction"])
    groups = _Groups(recommender, len(requests))
    rng = np.random.default_rng(seed)
    for index, (request, query, state) in enumerate(replayed(recommender, replay, requests)):
        groups.add(request, recommender.resolve(query, state, request.time_us), settings.sampled_negatives, rng)
        if (index + 1) % PROGRESS_EVERY == 0:
            report(f"{index + 1:,} of {len(requests):,} requests")
    return groups.rows(replay, requests)


class _Groups:
    """Collects each request's candidates, history and embedding; then all features are read in one go."""

    def __init__(self, recommender: Recommender, count: int) -> None:
        model = recommender.model
        self._recommender = recommender
        self._embeddings = np.zeros((count, model.item_embeddings.shape[1]), np.float32)
        self._history = np.full((count, model.feature_settings.history_length), -1, np.int32)
        self._candidates: list[NDArray[np.int32]] = []
        self._grades: list[NDArray[np.int8]] = []

    def add(self, request: Request, resolved: Resolved, negatives: int, rng: np.random.Generator) -> None:
        index = len(self._candidates)
        self._embeddings[index] = resolved.embedding
        if len(resolved.history):
            self._history[index, -len(resolved.history) :] = resolved.history
        found = self._recommender.run_part(Part.RETRIEVAL, resolved).row
        unshown = np.setdiff1d(found, request.rows)
        sampled = rng.choice(unshown, min(negatives, len(unshown)), replace=False)
        self._candidates.append(np.concatenate([request.rows, sampled]).astype(np.int32))
        self._grades.append(np.concatenate([request.grades, np.zeros(len(sampled), np.int8)]))

    def rows(self, replay: Replay, requests: list[Request]) -> RankerRows:
        model = self._recommender.model
        affinity = Affinity(model.neighbour_rows, model.neighbour_scores, model.catalogue.cast)
        inputs = AffinityInputs(affinity, model.item_embeddings, self._embeddings, self._history)
        asked = Requests(
            replay.user_ids(np.array([r.user for r in requests])),
            np.array([r.time_us for r in requests], np.int64),
            device_codes([r.device for r in requests]),
            country_codes([r.country for r in requests], replay.features),
        )
        sizes = np.array([len(rows) for rows in self._candidates], np.int32)
        candidates = np.concatenate(self._candidates)
        features = assemble(replay.reader, asked, sizes, candidates, replay.item_ids, inputs)
        return RankerRows(features, np.concatenate(self._grades), sizes)


def replayed(
    recommender: Recommender, replay: Replay, requests: list[Request], with_shown: bool = False
) -> Iterator[tuple[Request, Query, UserState]]:
    """Each request with its query and user state; the item table in force moves along with their times.

    Requests should be in order of time, since a table is built at each change of the snapshot. `with_shown`: the
    states tell what was shown in vain, which rules read and rankers do not.
    """
    users = np.array([r.user for r in requests], np.int32)
    times = np.array([r.time_us for r in requests], np.int64)
    in_force = None
    for request, state in zip(requests, replay.states(users, times, with_shown), strict=True):
        table = replay.item_table(request.time_us)
        if table is not in_force:
            recommender.table.replace(table)
            in_force = table
        context = Context(device=request.device, country=request.country)
        yield request, Query(user_id=state.user_id, context=context), state


def holdout_requests(
    connection: duckdb.DuckDBPyConnection,
    entities: Entities,
    interactions: Interactions,
    held_out: NDArray[np.bool_],
    limit: int,
    seed: int,
) -> list[Request]:
    """One request for each of at most `limit` users with `held_out` positives, bool[n], in order of time.

    It happens at the first of them, with the device and country of that moment; all of them are relevant.
    """
    rows = np.flatnonzero(held_out)
    if not len(rows):
        return []
    by_user = np.split(rows, np.flatnonzero(np.diff(interactions.user[rows])) + 1)
    chosen = [by_user[i] for i in np.random.default_rng(seed).permutation(len(by_user))[:limit]]
    users = np.array([interactions.user[mine[0]] for mine in chosen], np.int32)
    times = np.array([interactions.time_us[mine[0]] for mine in chosen], np.int64)
    places = _places(connection, entities, users, times)
    requests = [
        Request(user, time_us, *places.get(user, (None, None)), interactions.item[mine], interactions.grade[mine])
        for user, time_us, mine in zip(users.tolist(), times.tolist(), chosen, strict=True)
    ]
    return sorted(requests, key=lambda r: (r.time_us, r.user))


def _places(
    connection: duckdb.DuckDBPyConnection, entities: Entities, users: NDArray[np.int32], time_us: NDArray[np.int64]
) -> dict[int, tuple[str | None, str | None]]:
    """Device and country of each user's first event from the given time on."""
    ids = pa.array([user.decode() for user in entities.user_ids[users].tolist()], pa.string())
    connection.register("asked", pa.table({"row": users, "user_id": ids, "time_us": time_us}))
    table = connection.sql(
        """SELECT "row", arg_min(device, event_time) AS device, arg_min(country, event_time) AS country
           FROM events JOIN asked USING (user_id) WHERE epoch_us(event_time) >= time_us GROUP BY "row" """
    ).to_arrow_table()
    connection.unregister("asked")
    places = zip(table["device"].to_pylist(), table["country"].to_pylist(), strict=True)
    return dict(zip(table["row"].to_pylist(), places, strict=True))
