"""The items that answers are made with: a bundle's rows, then those that are newer than the bundle.

A table whose first rows are those in force is used where it lies: item tables only grow at their end, so that the
pages of one file serve every bundle and process of a machine. Any other table is copied into the rows in force.

Legend: N items of the bundle, T newer ones, M = N + T, d embedding length, Di item features.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.bundles.layout import ITEM_TOWER
from serving.bundles.onnx_models import open_session, predict
from serving.bundles.parts import FilmModel, unmapped
from serving.core.candidates import FloatMatrix, Rows, Scores
from serving.errors import BundleError
from serving.features.assembly import defaults_of, fill_missing
from serving.features.item_table import ItemTable
from serving.retrieval.index import top_rows

MAX_NEWER = 100_000
_BLOCK = 1 << 16
_TOWER_BATCH = 8192
log = logging.getLogger(__name__)

T = TypeVar("T")
Derive = Callable[[ItemTable, Callable[[Rows], FloatMatrix]], Any]


@dataclass(frozen=True)
class _InForce:
    """One state, replaced as a whole. newer: float32[T, d], the embeddings of rows N to M - 1."""

    table: ItemTable
    newer: FloatMatrix
    derived: tuple[Any, ...] = ()


class LiveItems:
    """The item table in force, with the embeddings of all its rows; safe to share between threads.

    A row keeps its item for as long as this object lives, so that a request which began before a newer table came
    ends well after it.
    """

    def __init__(self, model: FilmModel, live: ItemTable | None = None, max_newer: int = MAX_NEWER) -> None:
        """Begins with the bundle's own catalogue.

        Args:
            live: a table to put in force at once.
            max_newer: items beyond the bundle's that are served; each costs time in every search.

        Raises:
            BundleError: as `replace`.
        """
        self._model = model
        self._known = len(model.catalogue)
        self._max_newer = max_newer
        self._makers: list[Derive] = []
        self._lock = threading.Lock()
        dimension = model.item_embeddings.shape[1]
        self._state = _InForce(model.catalogue, np.empty((0, dimension), np.float32))
        if live is not None:
            self.replace(live)

    def __call__(self) -> ItemTable:
        """The table of M rows in force."""
        return self._state.table

    def vectors(self, rows: Rows) -> FloatMatrix:
        """float32[n, d]: the embeddings of rows int32[n] of the table in force."""
        return self._vectors(self._state.newer, rows)

    def tail_search(self, query: npt.NDArray[np.float32], n: int) -> tuple[Rows, Scores]:
        """At most n of the T newest rows int32[m], and their inner products with float32[d], best first."""
        newer = self._state.newer
        if not len(newer):
            return np.empty(0, np.int32), np.empty(0, np.float32)
        scores = newer @ query
        best = top_rows(scores, n)
        return best + np.int32(self._known), scores[best]

    def derive(self, make: Callable[[ItemTable, Callable[[Rows], FloatMatrix]], T]) -> Callable[[], T]:
        """What `make` makes of the table in force and its `vectors`: made now and for each newer table, read often."""
        with self._lock:
            place = len(self._makers)
            self._makers.append(make)
            state = self._state
            self._state = self._with_derived(state.table, state.newer)
        return lambda: self._state.derived[place]

    def replace(self, live: ItemTable) -> None:
        """Puts a newer table in force, in one assignment, with everything that is made of it.

        Raises:
            BundleError: its features are not the bundle's, or the item tower is missing or gives what is not finite;
                the table in force stays.
        """
        if live.feature_names != self._model.catalogue.feature_names:
            raise BundleError("the item table is made for other features", self._differences(live))
        with self._lock:
            table = self._in_rows(unmapped(live))
            self._state = self._with_derived(table, self._embed(table))

    def _in_rows(self, live: ItemTable) -> ItemTable:
        """The table with the rows in force first, and no more rows than are served."""
        held, limit = self._state.table.ids, self._known + self._room()
        if not _begins_with(live.ids, held):
            log.warning(
                "the item table does not begin with the %d items in force: it is copied into their order", len(held)
            )
            added = live.ids[self._state.table.rows_of(live.ids) < 0]
            live = live.reindex(np.concatenate([held, added]))
        if len(live) > limit:
            log.warning("%d items are newer than the bundle %s: the first %d of them are served, train anew",
                        len(live) - self._known, self._model.name, limit - self._known)  # fmt: skip
            live = live.first(limit)
        return live

    def _room(self) -> int:
        return 0 if self._model.bundle is None else self._max_newer

    def _embed(self, table: ItemTable) -> FloatMatrix:
        """float32[T, d]: what the item tower makes of the newer items' features, with no id of theirs learned."""
        features = table.features[self._known :]
        dimension = self._model.item_embeddings.shape[1]
        out = np.empty((len(features), dimension), np.float32)
        if not len(out) or self._model.bundle is None:
            return out
        tower = open_session(self._model.bundle.model_path(ITEM_TOWER))
        defaults = defaults_of(self._model.feature_set().item)
        for start in range(0, len(out), _TOWER_BATCH):
            batch, _ = fill_missing(features[start : start + _TOWER_BATCH], defaults)
            unlearned = np.zeros((len(batch), dimension), np.float32)
            out[start : start + len(batch)] = predict(tower, {"item": batch, "id_embedding": unlearned})
        if not np.isfinite(out).all():
            raise BundleError("the item tower gives embeddings that are not finite", [self._model.name])
        return out

    def _with_derived(self, table: ItemTable, newer: FloatMatrix) -> _InForce:
        def vectors(rows: Rows) -> FloatMatrix:
            return self._vectors(newer, rows)

        return _InForce(table, newer, tuple(make(table, vectors) for make in self._makers))

    def _vectors(self, newer: FloatMatrix, rows: Rows) -> FloatMatrix:
        known = self._model.item_embeddings
        if not len(newer) or not len(rows) or rows.max() < self._known:
            return known[rows]
        out = known.take(rows, axis=0, mode="clip")
        late = np.flatnonzero(rows >= self._known)
        out[late] = newer[rows[late] - self._known]
        return out

    def _differences(self, live: ItemTable) -> list[str]:
        wanted, found = self._model.catalogue.feature_names, live.feature_names
        problems = [f"it lacks the feature {name}" for name in wanted if name not in set(found)]
        problems += [f"the bundle does not know its feature {name}" for name in found if name not in set(wanted)]
        return problems or ["its features are in another order"]


def _begins_with(ids: npt.NDArray[np.bytes_], held: npt.NDArray[np.bytes_]) -> bool:
    return len(ids) >= len(held) and all(
        np.array_equal(ids[at : min(at + _BLOCK, len(held))], held[at : at + _BLOCK])
        for at in range(0, len(held), _BLOCK)
    )
