"""Film recommendations: retrieve, drop what must not be shown, rank, and never answer with less than it can.

The chain: the ranked pipeline (retrieval order where the ranker fails), then what is popular, then the lists
frozen into the bundle. Eligibility is part of every link.
"""

import time
import uuid
from enum import StrEnum

from serving.apps.film_model import FilmModel, TableInForce, open_film_model
from serving.apps.presenter import Presenter
from serving.apps.resolver import Resolver
from serving.bundles.bundle import Bundle
from serving.config import RecommendSettings
from serving.core.answer import Answer, ServedBy
from serving.core.candidates import Candidates, FloatMatrix, Rows, no_candidates
from serving.core.deadline import NO_DEADLINE, Deadline
from serving.core.query import Query
from serving.core.request import Request
from serving.core.runner import EXPECTED, run
from serving.core.stages import OnFailure, Pipeline, Rule, Scorer, Source, Step
from serving.core.trace import Trace
from serving.features.item_table import ItemTable
from serving.features.online import UserReader
from serving.features.user_state import UserState
from serving.retrieval.merge import AsFound, ShareMerge
from serving.retrieval.sources import BundledSource, ItemToItemSource, PopularSource, SourceBit, TwoTowerSource
from serving.rules.eligibility import EligibleRule, ExcludedRule, SeenRule
from serving.rules.filters import FilterRule, ShortlistRule

SHARES: dict[int, float] = {SourceBit.TWO_TOWER: 0.6, SourceBit.ITEM_TO_ITEM: 0.3, SourceBit.POPULAR: 0.1}


class Part(StrEnum):
    """A pipeline that can also answer alone, without the chain, so that each part can be measured."""

    RANKED = "ranked"
    RETRIEVAL = "retrieval"
    TWO_TOWER = "two_tower"
    ITEM_TO_ITEM = "item_to_item"
    POPULAR = "popular"
    BUNDLED = "bundled"


class Recommender:
    """Answers queries from one bundle; safe to share between threads."""

    def __init__(
        self,
        bundle: Bundle | FilmModel,
        reader: UserReader | None = None,
        item_table: ItemTable | None = None,
        settings: RecommendSettings | None = None,
    ) -> None:
        """Composes the pipelines.

        Args:
            bundle: what to serve; a FilmModel without a bundle has no ranker, and retrieval order stands.
            reader: the online store; without one every user is new unless a state is given.
            item_table: the live item table, in any order; without one the bundle's catalogue.

        Raises:
            BundleError: bundle, item table and this code do not fit each other.
        """
        settings = settings or RecommendSettings.model_validate({})
        self.model = bundle if isinstance(bundle, FilmModel) else open_film_model(bundle)
        self.table = TableInForce(self.model.catalogue, item_table)
        self.request_features = self.model.request_features(self.table)
        self._resolver = Resolver(self.model, reader, settings.candidates, settings.max_k)
        self._item_to_item = ItemToItemSource(self.model.neighbour_rows, self.model.neighbour_scores)
        self._presenter = Presenter(self.model, self._item_to_item)
        self._ranker = self.model.ranker(self.request_features)
        self.pipelines = self._compose(settings.candidates)

    def _compose(self, candidates: int) -> dict[Part, Pipeline[Request]]:
        model, vocabulary = self.model, self.model.vocabulary
        two_tower, item_to_item = TwoTowerSource(model.index), self._item_to_item
        popular = PopularSource(model.popular_rows, model.popular_scores)
        bundled = BundledSource(model.list_rows)
        rules: tuple[Step[Scorer[Request] | Rule[Request]], ...] = (
            Step(SeenRule()),
            Step(ExcludedRule()),
            Step(EligibleRule(self.table, vocabulary.countries)),
            Step(FilterRule(self.table, vocabulary.genres)),
            Step(ShortlistRule(candidates)),
        )
        sources: tuple[Source[Request], ...] = (two_tower, item_to_item, popular)
        every = tuple(Step(source, OnFailure.SKIP) for source in sources)
        rank = () if self._ranker is None else (Step(self._ranker, OnFailure.SKIP),)
        merge = ShareMerge(SHARES)

        def alone(part: Part, source: Source[Request]) -> Pipeline[Request]:
            return Pipeline(part, (Step(source),), AsFound(), rules)

        return {
            Part.RANKED: Pipeline(Part.RANKED, every, merge, (*rules, *rank)),
            Part.RETRIEVAL: Pipeline(Part.RETRIEVAL, every, merge, rules),
            Part.TWO_TOWER: alone(Part.TWO_TOWER, two_tower),
            Part.ITEM_TO_ITEM: alone(Part.ITEM_TO_ITEM, item_to_item),
            Part.POPULAR: alone(Part.POPULAR, popular),
            Part.BUNDLED: alone(Part.BUNDLED, bundled),
        }

    def recommend(
        self,
        query: Query,
        state: UserState | None = None,
        now_us: int | None = None,
        part: Part | None = None,
        deadline: Deadline = NO_DEADLINE,
    ) -> Answer:
        """At most k eligible items, best first; fewer, or none, only where no link has more.

        Args:
            state: replays a user as of `now_us`; None reads the online store.
            now_us: the server's clock, microseconds since the epoch; None is now.
            part: answers with this part alone; None is the whole chain.

        Raises:
            InvalidRequest: naming the field.
        """
        trace, degraded = Trace(), list[str]()
        request = self._request(query, state, now_us, degraded)
        links = self._links(request) if part is None else (part,)
        for link in links:
            found = self._try(link, request, trace, deadline)
            if len(found):
                break
        best = found.take(slice(query.k))
        names = self.request_features.names
        return Answer(
            prediction_id=uuid.uuid4().hex,
            request_id=query.request_id,
            items=self._presenter.items(request, best),
            served_by=self._served_by(link, trace),
            arm="stable",
            bundle=self.model.name,
            degraded=[*degraded, *trace.failed],
            trace=self._presenter.trace(request, best, trace, names) if query.explain else None,
        )

    def resolve(self, query: Query, state: UserState | None = None, now_us: int | None = None) -> Request:
        """Everything that stages read about a query, so that several parts can be run on it.

        Raises:
            InvalidRequest: naming the field.
        """
        return self._request(query, state, now_us, [])

    def run_part(self, part: Part, request: Request) -> Candidates:
        """The eligible candidates of one part, best first, at most as many as the ranker takes.

        Raises:
            DependencyError: none of its sources answered.
        """
        return run(self.pipelines[part], request, Trace())

    def retrieve(
        self,
        query: Query,
        state: UserState | None = None,
        now_us: int | None = None,
        part: Part = Part.RETRIEVAL,
    ) -> Candidates:
        """The eligible candidates as the ranker would be given them, with each source's own scores."""
        return self.run_part(part, self.resolve(query, state, now_us))

    def rank(
        self, query: Query, candidates: Candidates, state: UserState | None = None, now_us: int | None = None
    ) -> Candidates:
        """The candidates with the ranker's scores, best first; as they are where there is no ranker.

        Raises:
            DependencyError: the ranker failed.
        """
        if self._ranker is None or not len(candidates):
            return candidates
        scored = self._ranker.score(self.resolve(query, state, now_us), candidates)
        return candidates.scored(scored.score, scored.features).best_first()

    def features(
        self, query: Query, rows: Rows, state: UserState | None = None, now_us: int | None = None
    ) -> FloatMatrix:
        """float32[C, F]: what the ranker reads for the candidates int32[C], names in `request_features.names`."""
        return self.request_features.matrix(self.resolve(query, state, now_us), rows)

    def _request(self, query: Query, state: UserState | None, now_us: int | None, degraded: list[str]) -> Request:
        self._resolver.check(query)
        if state is None:
            state = self._resolver.read_user(query, degraded)
        now_us = time.time_ns() // 1000 if now_us is None else now_us
        return self._resolver.resolve(query, state, now_us, degraded)

    def _links(self, request: Request) -> tuple[Part, ...]:
        personal = (Part.RANKED,) if request.is_known else ()
        return (*personal, Part.POPULAR, Part.BUNDLED)

    def _try(self, link: Part, request: Request, trace: Trace, deadline: Deadline) -> Candidates:
        # The links after the ranked one are what a late answer falls back to: they cost next to nothing.
        limit = deadline if link is Part.RANKED else NO_DEADLINE
        try:
            return run(self.pipelines[link], request, trace, limit)
        except EXPECTED:
            return no_candidates()

    def _served_by(self, link: Part, trace: Trace) -> ServedBy:
        if link is Part.RANKED and self._ranker is not None and self._ranker.name not in trace.failed:
            return ServedBy.RANKER
        if link in (Part.POPULAR, Part.BUNDLED):
            return ServedBy(link)
        return ServedBy.RETRIEVAL
