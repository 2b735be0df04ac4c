"""From a query to a request: who asks, what they took up, what they must not see.

Legend: M items in force, L history entries.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise

import numpy as np

from serving.apps.cursor import Page
from serving.bundles.parts import FilmParts
from serving.config import RecommendSettings
from serving.core.candidates import Rows
from serving.core.query import Filters, Query
from serving.core.request import FloatVector, Request
from serving.errors import InvalidRequest, StoreUnavailable
from serving.features.assembly import Assembler
from serving.features.online import UserReader
from serving.features.user_state import UserState, certain_age_years
from serving.retrieval.user_tower import pool_history
from serving.rules.eligibility import still_seen
from serving.rules.filters import genre_bits

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NOBODY = UserState(user_id="")
NO_FILTERS = Filters()
EVERYTHING = 1 << 30


class Resolver:
    """Looks up everything that stages read, once per request."""

    def __init__(self, parts: FilmParts, reader: UserReader | None, settings: RecommendSettings) -> None:
        self._parts = parts
        self._reader = reader
        self._settings = settings
        features = parts.feature_set()
        self._assembler = Assembler(features, parts.feature_settings)
        self._age = features.position["user_age"]
        self._age_known = features.position["user_age_known"]
        self._segments = {country: i + 1 for i, country in enumerate(parts.vocabulary.countries)}

    def request(
        self, query: Query, state: UserState | None, now_us: int | None, page: Page, degraded: list[str]
    ) -> Request:
        """Everything about a query, in rows of the items in force; ids that are not known there are left out.

        The history is that of the seed items where there are any, else the user's, oldest first, followed by the
        context's likes. `degraded` notes what could not be read.

        Raises:
            InvalidRequest: naming the field.
        """
        self._check(query)
        if state is None:
            state = self._read_user(query, degraded)
        now_us = time.time_ns() // 1000 if now_us is None else now_us
        return self._resolve(query, self._fitting(state, degraded), now_us, page)

    def _check(self, query: Query) -> None:
        if query.k > self._settings.max_k:
            raise InvalidRequest("k", f"at most {self._settings.max_k} items can be asked for")
        if query.filters.genres:
            genre_bits(query.filters.genres, self._parts.vocabulary.genres)

    def _read_user(self, query: Query, degraded: list[str]) -> UserState | None:
        """The user's state; None where there is no user, no reader, nothing stored or, noted, no store."""
        if query.user_id is None or self._reader is None:
            return None
        try:
            return self._reader.read(query.user_id)
        except StoreUnavailable:
            degraded.append("user_state")
            return None

    def _fitting(self, state: UserState | None, degraded: list[str]) -> UserState:
        if state is None or state.stats is None or len(state.stats) == len(self._assembler.user_defaults):
            return state or NOBODY
        # Materialised for another vocabulary than the bundle's: its history still holds.
        degraded.append("user_features")
        return replace(state, stats=None, stats_time_us=None)

    def _resolve(self, query: Query, state: UserState, now_us: int, page: Page) -> Request:
        user, missing = self._assembler.user_vector(state, now_us)
        seeds, history, liked, seen, excluded, ignored = self._rows(
            query.seed_items, state.history_items, query.context.likes, state.seen, query.exclude, self._ignored(state)
        )
        met, met_at_us = history[history >= 0], state.history_times_us[history >= 0]
        taken = np.concatenate([met, known(liked)])
        seen = _sorted(known(seen), taken)
        horizon_days = self._settings.seen_again_after_days
        if horizon_days is not None:
            seen = still_seen(seen, met, met_at_us, now_us, horizon_days)
        excluded = _sorted(known(excluded), known(seeds), page.shown)
        return Request(
            query=query,
            now_us=now_us,
            user=user,
            has_statistics=missing < len(user),
            context=self._context(query, now_us),
            history=_distinct(known(seeds) if len(known(seeds)) else taken)[
                -self._parts.feature_settings.history_length :
            ],
            seen=seen,
            excluded=excluded,
            age_years=certain_age_years(float(user[self._age])) if user[self._age_known] > 0 else None,
            segment=self._segments.get(query.context.country or "", 0),
            fetch=self._settings.candidates + len(seen) + len(excluded),
            embed=self.embed,
            consider=self._consider(query, len(seen) + len(excluded)),
            ignored=_sorted(known(ignored)),
            missing=missing,
            prediction_id=page.prediction_id,
            offset=page.offset,
        )

    def _rows(self, *groups: Sequence[str]) -> list[Rows]:
        """The rows of each group of ids, in their order, by one look-up; -1 for an id that is not known."""
        rows = self._parts.table().rows_of([identifier for group in groups for identifier in group])
        ends = list(accumulate(map(len, groups), initial=0))
        return [rows[start:end] for start, end in pairwise(ends)]

    def _consider(self, query: Query, blocked: int) -> int:
        # twice what is ranked leaves room for what may not be shown; a filter may leave little of all there is
        is_filtered = query.filters != NO_FILTERS
        return EVERYTHING if is_filtered else 2 * self._settings.candidates + blocked

    def _ignored(self, state: UserState) -> Sequence[str]:
        often = self._settings.ignored_after
        return [item for item, count in zip(state.shown_items, state.shown_counts, strict=True) if count >= often]

    def _context(self, query: Query, now_us: int) -> FloatVector:
        context = query.context
        time_us = now_us if context.time is None else (context.time - EPOCH) // MICROSECOND
        return self._assembler.context_vector(time_us, context.device, context.country)

    def embed(self, request: Request) -> FloatVector:
        """float32[d]: the user's place in the item space.

        Raises:
            DependencyError: the user tower failed.
        """
        history = request.history
        within = history[history < len(self._parts.history_embeddings)]
        pooled = pool_history(self._parts.history_embeddings, within)
        return self._parts.user_tower.embed(request.user, pooled)


def known(rows: Rows) -> Rows:
    """The rows that are not -1."""
    return rows[rows >= 0]


def _sorted(*rows: Rows) -> Rows:
    """The distinct rows of all, sorted."""
    present = [part for part in rows if len(part)]
    if not present:
        return rows[0]
    merged = np.sort(present[0] if len(present) == 1 else np.concatenate(present))
    keep = np.empty(len(merged), np.bool_)
    keep[0] = True
    np.not_equal(merged[1:], merged[:-1], out=keep[1:])
    return merged[keep]


def _distinct(rows: Rows) -> Rows:
    """The rows in their order, each at the last of its places."""
    if len(rows) < 2:
        return rows
    distinct, place = np.unique(rows[::-1], return_index=True)
    if len(distinct) == len(rows):
        return rows
    return rows[len(rows) - 1 - np.sort(place)[::-1]]
