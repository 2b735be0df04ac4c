"""From a query to a request: who asks, what they took up, what they must not see.

Legend: N items, L history entries.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from serving.apps.film_model import FilmModel
from serving.core.candidates import Mask, Rows
from serving.core.query import Query
from serving.core.request import FloatVector, Request
from serving.errors import InvalidRequest, StoreUnavailable
from serving.features.assembly import Assembler
from serving.features.online import UserReader
from serving.features.user_state import UserState
from serving.retrieval.user_tower import pool_history
from serving.rules.filters import genre_bits

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Resolver:
    """Looks up everything that stages read, once per request."""

    def __init__(self, model: FilmModel, reader: UserReader | None, candidates: int, max_k: int) -> None:
        self._model = model
        self._reader = reader
        self._candidates = candidates
        self._max_k = max_k
        features = model.feature_set()
        self._assembler = Assembler(features, model.feature_settings)
        self._age = features.position["user_age"]
        self._age_known = features.position["user_age_known"]
        self._segments = {country: i + 1 for i, country in enumerate(model.vocabulary.countries)}

    def check(self, query: Query) -> None:
        """Passes a query that this application can answer.

        Raises:
            InvalidRequest: naming the field.
        """
        if query.k > self._max_k:
            raise InvalidRequest("k", f"at most {self._max_k} items can be asked for")
        if query.cursor is not None:
            raise InvalidRequest("cursor", "no cursor was issued")
        if query.filters.genres:
            genre_bits(query.filters.genres, self._model.vocabulary.genres)

    def read_user(self, query: Query, degraded: list[str]) -> UserState | None:
        """The user's state; None where there is no user, no reader, nothing stored or, noted, no store."""
        if query.user_id is None or self._reader is None:
            return None
        try:
            return self._reader.read(query.user_id)
        except StoreUnavailable:
            degraded.append("user_state")
            return None

    def resolve(self, query: Query, state: UserState | None, now_us: int, degraded: list[str]) -> Request:
        """Everything about a query in the bundle's rows; ids that the bundle does not know are left out.

        The history is that of the seed items where there are any, else the user's, oldest first, followed by
        the context's likes.
        """
        state = self._fitting(state, degraded)
        user, missing = self._assembler.user_vector(state, now_us)
        seeds = self._rows(query.seed_items)
        taken = self._rows([*(state.history_items if state else ()), *query.context.likes])
        history = (seeds if len(seeds) else taken)[-self._model.feature_settings.history_length :]
        seen = self._mask(self._rows(state.seen if state else ()), taken)
        excluded = self._mask(self._rows(query.exclude), seeds)
        blocked = int(np.count_nonzero(seen | excluded))
        return Request(
            query=query,
            now_us=now_us,
            user=user,
            has_statistics=missing < len(user),
            context=self._context(query, now_us),
            history=history,
            seen=seen,
            excluded=excluded,
            age_years=float(user[self._age]) if user[self._age_known] > 0 else None,
            segment=self._segments.get(query.context.country or "", 0),
            fetch=self._candidates + blocked,
            embed=self._embed,
        )

    def _fitting(self, state: UserState | None, degraded: list[str]) -> UserState | None:
        if state is None or state.stats is None or len(state.stats) == len(self._assembler.user_defaults):
            return state
        # Materialised for another vocabulary than the bundle's: its history still holds.
        degraded.append("user_features")
        return UserState(
            user_id=state.user_id,
            history_items=state.history_items,
            history_times_us=state.history_times_us,
            history_grades=state.history_grades,
            seen=state.seen,
        )

    def _rows(self, ids: Sequence[str]) -> Rows:
        # of an id that is there twice, the last place counts
        distinct = list(dict.fromkeys(reversed(ids)))[::-1]
        rows = self._model.catalogue.rows_of(distinct)
        return rows[rows >= 0]

    def _mask(self, *rows: Rows) -> Mask:
        mask = np.zeros(len(self._model.catalogue), np.bool_)
        for part in rows:
            mask[part] = True
        return mask

    def _context(self, query: Query, now_us: int) -> FloatVector:
        context = query.context
        time_us = now_us if context.time is None else (context.time - EPOCH) // MICROSECOND
        return self._assembler.context_vector(time_us, context.device, context.country)

    def _embed(self, request: Request) -> FloatVector:
        pooled = pool_history(self._model.history_embeddings, request.history)
        return self._model.user_tower.embed(request.user, pooled)
