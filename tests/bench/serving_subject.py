"""What is measured: an application over a bundle as a replica builds it, and the bare library calls behind an answer.

The one place that knows how an application is constructed and called.

Legend: C candidates, F features.
"""

import sqlite3
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from serving.apps.recommend import Recommender
from serving.bundles.bundle import Bundle
from serving.bundles.files import open_array
from serving.bundles.layout import HISTORY_EMBEDDINGS, ITEM_EMBEDDINGS, MODEL_FILES, RANKER, USER_TOWER
from serving.bundles.onnx_models import open_session
from serving.config import load_config
from serving.core.answer import Answer
from serving.core.query import Context, Query
from serving.features.feast_format import entity_key
from serving.features.online import HISTORY_VIEW, PROJECT, STATS_VIEW, USER_KEY, SqliteUserReader, open_reader
from serving.features.spec import DEVICES
from serving.retrieval.user_tower import pool_history

CANDIDATES = 500
FLOOR_PARTS = ("store read", "user tower", "index search", "ranker")
SEARCH_CALLS = ("search", "search_batched")


def open_application(bundle: Path, config: Path, verify: bool = False) -> Any:
    """The application that answers from a bundle with the configuration's online store."""
    settings = load_config(config)
    return Recommender(Bundle.load(bundle, verify), open_reader(settings.online_store), settings=settings.recommend)


def answer(application: Any, query: Query) -> Answer:
    """One answer, without an event loop where every stage is inline."""
    answered: Answer = application.recommend(query)
    return answered


def import_surface() -> None:
    """Imports what a replica imports beside the application."""
    from serving.api import http  # noqa: F401
    from serving.apps import service  # noqa: F401


def start_service(config: Path) -> Any:
    """The service as a replica brings it up: the bundle verified, opened and warm, and in `.application`.

    Raises:
        RuntimeError: it does not come up; the message is the service's own.
    """
    from serving.apps.service import RecommendService

    service = RecommendService(load_config(config))
    service.step()
    if service.application is None:
        raise RuntimeError(service.reason)
    return service


def query_of(user: str, place: int, explain: bool = False, k: int = 20) -> Query:
    """The request of a user on some device, from a country of the vocabulary."""
    context = Context(device=DEVICES[place % len(DEVICES)], country=("US", "DE", "FR", "JP")[place % 4])
    return Query(user_id=user, k=k, context=context, explain=explain)


@dataclass
class Floor:
    """The library calls that no answer can do without, on ready inputs, one after another.

    `ms` holds each part's durations: SQLite's raw bytes of one user, the user tower on one row, the index search with
    the parameters that the application itself uses, and the ranker on the matrix of 500 candidates.
    """

    bundle: Path
    online: Path
    application: Any
    users: list[str]
    ms: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in FLOOR_PARTS})

    def __post_init__(self) -> None:
        self._tower = open_session(self.bundle / MODEL_FILES[USER_TOWER])
        self._ranker = open_session(self.bundle / MODEL_FILES[RANKER])
        self._store = sqlite3.connect(f"{self.online.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        self._search = recorded_search(self.bundle, self.application, query_of(self.users[0], 0))
        self._tower_inputs = self._inputs_of_users()
        self._queries = [self._tower.run(None, inputs)[0][0] for inputs in self._tower_inputs]
        self._ranker_inputs = ranker_inputs(self._ranker)

    def __call__(self, place: int) -> None:
        user = place % len(self.users)
        key = entity_key(USER_KEY, self.users[user])
        clock = time.perf_counter
        started = clock()
        self._store.execute(_READ, (key, key)).fetchall()
        read = clock()
        self._tower.run(None, self._tower_inputs[user])
        embedded = clock()
        self._search(self._queries[user])
        searched = clock()
        self._ranker.run(None, self._ranker_inputs)
        ranked = clock()
        for part, seconds in zip(
            FLOOR_PARTS, (read - started, embedded - read, searched - embedded, ranked - searched), strict=True
        ):
            self.ms[part].append(seconds * 1000)

    def forget(self) -> None:
        """Drops what the warm-up measured."""
        for values in self.ms.values():
            values.clear()

    def _inputs_of_users(self) -> list[dict[str, np.ndarray]]:
        reader, history = SqliteUserReader(self.online), np.asarray(open_array(self.bundle / HISTORY_EMBEDDINGS))
        catalogue = Bundle.load(self.bundle, verify=False).catalogue
        inputs = []
        for user in self.users:
            state = reader.read(user)
            assert state is not None, f"the world's online store lacks {user}"
            stats = np.nan_to_num(np.asarray(state.stats, np.float32))
            pooled = pool_history(history, catalogue.rows_of(list(state.history_items)))
            inputs.append({"user": stats[None], "history": pooled[None]})
        return inputs


_READ = " UNION ALL ".join(
    f"SELECT feature_name, value, event_ts FROM {PROJECT}_{view} WHERE entity_key = ?"
    for view in (STATS_VIEW, HISTORY_VIEW)
)


def ranker_inputs(session: Any, candidates: int = CANDIDATES) -> dict[str, np.ndarray]:
    """Ready inputs of a ranker: float32[C, width], but one row for an input `request`."""
    rng = np.random.default_rng(0)
    return {
        tensor.name: rng.random((1 if tensor.name == "request" else candidates, tensor.shape[-1]), dtype=np.float32)
        for tensor in session.get_inputs()
    }


def exact_search(embeddings: np.ndarray, n: int = CANDIDATES) -> Callable[[np.ndarray], Any]:
    """The n nearest of float32[N, d] by comparing with all."""
    n = min(n, len(embeddings))
    return lambda vector: np.argpartition(embeddings @ vector, len(embeddings) - n)[-n:]


def recorded_search(bundle: Path, application: Any, query: Query) -> Callable[[np.ndarray], Any]:
    """The ScaNN call that an answer makes, for another query vector; where it makes none, an exact search in NumPy.

    Raises:
        RuntimeError: the answer makes several.
    """
    from scann.scann_ops.py.scann_ops_pybind import ScannSearcher

    calls: list[tuple[Any, str, tuple[Any, ...], dict[str, Any]]] = []
    with _recorded(ScannSearcher, calls):
        answer(application, query)
    if not calls:
        return exact_search(np.asarray(open_array(bundle / ITEM_EMBEDDINGS)))
    if len(calls) != 1:
        raise RuntimeError(f"an answer searches ScaNN {len(calls)} times, not once")
    searcher, name, rest, named = calls[0]
    bare = getattr(searcher, name)
    if name == "search":
        return lambda vector: bare(vector, *rest, **named)
    return lambda vector: bare(vector[None], *rest, **named)


@contextmanager
def _recorded(searcher: type[Any], calls: list[Any]) -> Any:
    kept = {name: getattr(searcher, name) for name in SEARCH_CALLS}

    def record(name: str) -> Callable[..., Any]:
        def call(self: Any, vector: Any, *rest: Any, **named: Any) -> Any:
            calls.append((self, name, rest, named))
            return kept[name](self, vector, *rest, **named)

        return call

    try:
        for name in SEARCH_CALLS:
            setattr(searcher, name, record(name))
        yield
    finally:
        for name, original in kept.items():
            setattr(searcher, name, original)
