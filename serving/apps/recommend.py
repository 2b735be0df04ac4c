"""Film recommendations: retrieve, drop what must not be shown, rank, arrange, and never answer with less than it can.

The chain: the ranked pipeline (retrieval order where the ranker fails), then the list that was made for the user
beforehand, then what is popular, then the lists frozen into the bundle. Eligibility is part of every link.
"""

import time
import uuid
from enum import StrEnum
from typing import Any

from serving.apps.build import Plan, Planned, make_plan
from serving.apps.cursor import Pages
from serving.apps.film_model import film_parts, open_film_model
from serving.apps.presenter import Presenter
from serving.apps.reasons import Causes
from serving.apps.remote import RemoteStages
from serving.apps.resolver import Resolver
from serving.bundles.bundle import Bundle
from serving.bundles.parts import FilmModel
from serving.config import FallibleChoice, Mode, Placement, RecommendSettings, SourceChoice
from serving.core.answer import Answer, ServedBy
from serving.core.candidates import Candidates, FloatMatrix, Rows, no_candidates
from serving.core.deadline import NO_DEADLINE, Deadline
from serving.core.prediction import Prediction
from serving.core.pressure import Pressure
from serving.core.query import Query
from serving.core.request import Request
from serving.core.runner import EXPECTED, complete, run
from serving.core.stages import Fallback, OnFailure, Pipeline, Rule, Scorer, Source, Step
from serving.core.trace import Kind, Trace
from serving.features.item_table import ItemTable
from serving.features.lists import ListReader
from serving.features.live_items import LiveItems
from serving.features.online import UserReader
from serving.features.user_state import UserState
from serving.retrieval.merge import AsFound, ShareMerge
from serving.retrieval.precomputed import PrecomputedSource
from serving.retrieval.sources import BundledSource, ItemToItemSource, PopularSource, TwoTowerSource
from serving.rules.eligibility import EligibleRule, ExcludedRule, SeenRule
from serving.rules.filters import FilterRule, ShortlistRule

APP = "recommend"
ARM = "stable"
Steps = tuple[Step[Scorer[Request] | Rule[Request]], ...]


class Part(StrEnum):
    """A pipeline that can also answer alone, without the chain, so that each part can be measured."""

    RANKED = "ranked"
    RETRIEVAL = "retrieval"
    TWO_TOWER = "two_tower"
    ITEM_TO_ITEM = "item_to_item"
    PRECOMPUTED = "precomputed"
    POPULAR = "popular"
    BUNDLED = "bundled"


LINKS: dict[Mode, tuple[Part, ...]] = {
    Mode.REALTIME: (Part.RANKED, Part.POPULAR, Part.BUNDLED),
    Mode.HYBRID: (Part.RANKED, Part.PRECOMPUTED, Part.POPULAR, Part.BUNDLED),
    Mode.BATCH: (Part.PRECOMPUTED, Part.POPULAR, Part.BUNDLED),
}
SERVED_BY = {
    Part.PRECOMPUTED: ServedBy.PRECOMPUTED,
    Part.POPULAR: ServedBy.POPULAR,
    Part.BUNDLED: ServedBy.BUNDLED,
}


class Recommender:
    """Answers queries from one bundle; safe to share between threads."""

    def __init__(
        self,
        bundle: Bundle | FilmModel,
        reader: UserReader | None = None,
        item_table: ItemTable | None = None,
        settings: RecommendSettings | None = None,
        lists: ListReader | None = None,
        remote: RemoteStages | None = None,
    ) -> None:
        """Composes the pipelines.

        Args:
            bundle: what to serve; a FilmModel without a bundle has no ranker, and retrieval order stands.
            reader: the online store; without one every user is new unless a state is given.
            item_table: the live item table, in any order; without one the bundle's catalogue.
            lists: the users' precomputed lists; without them that link is left out.
            remote: gives the stages whose placement is a deployment of their own; without it all run inline.

        Raises:
            BundleError: bundle, item table and this code do not fit each other.
            ConfigError: the pipeline names stages or settings that there are not; every problem is listed.
        """
        self.settings = settings or RecommendSettings.model_validate({})
        self.model = bundle if isinstance(bundle, FilmModel) else open_film_model(bundle)
        self.table = LiveItems(self.model, item_table)
        self.parts = film_parts(self.model, self.table)
        self.request_features = self.parts.features
        self._remote = remote
        self._lists = lists
        self._resolver = Resolver(self.parts, reader, self.settings)
        self._presenter = Presenter(self.parts, Causes(self.model.neighbour_rows, self.model.neighbour_scores))
        self._ranker = None if self.settings.ranker is None else self.settings.ranker.label
        self._pages = Pages(self.model.name, self.settings.max_depth)
        self.pipelines = self._compose(make_plan(self.settings))

    def _compose(self, plan: Plan) -> dict[Part, Pipeline[Request]]:
        parts = self.parts
        eligible: Steps = (
            Step("seen", SeenRule(parts)),
            Step("excluded", ExcludedRule(parts)),
            Step("eligible", EligibleRule(parts)),
            Step("filters", FilterRule(parts)),
        )
        shortlist: Steps = (Step("shortlist", ShortlistRule(self.settings.candidates)),)
        before, after = self._rules(plan.before), self._rules(plan.after)
        choices = self.settings.sources
        sources = tuple(self._source_step(*each, plan) for each in zip(choices, plan.sources, strict=True))
        merge = ShareMerge([choice.share for choice in choices])
        ranker = self._ranker_step(plan)
        retrieval = (*eligible, *before, *shortlist)

        def alone(part: Part, source: Source[Request], rules: Steps = ()) -> Pipeline[Request]:
            return Pipeline(part, (Step(part, source),), AsFound(), (*eligible, *rules, *shortlist))

        return {
            Part.RANKED: Pipeline(Part.RANKED, sources, merge, (*retrieval, *ranker, *after)),
            Part.RETRIEVAL: Pipeline(Part.RETRIEVAL, sources, merge, retrieval),
            Part.TWO_TOWER: alone(Part.TWO_TOWER, TwoTowerSource(parts)),
            Part.ITEM_TO_ITEM: alone(Part.ITEM_TO_ITEM, ItemToItemSource(parts)),
            Part.PRECOMPUTED: alone(Part.PRECOMPUTED, self._precomputed(), after),
            Part.POPULAR: alone(Part.POPULAR, PopularSource(parts)),
            Part.BUNDLED: alone(Part.BUNDLED, BundledSource(parts)),
        }

    def _precomputed(self) -> PrecomputedSource:
        return PrecomputedSource(self.parts, APP, self._lists, self.settings.lists_max_age_s)

    def _rules(self, planned: tuple[Planned, ...]) -> Steps:
        return tuple(Step(each.choice.label, each.build(self.parts)) for each in planned)

    def _source_step(self, choice: SourceChoice, planned: Planned, plan: Plan) -> Step[Source[Request]]:
        is_remote = self._remote is not None and choice.placement is Placement.DEPLOYMENT
        stage = self._remote.source(choice.label) if self._remote and is_remote else planned.build(self.parts)
        return Step(choice.label, stage, self._policy(choice, plan), choice.budget_ms, is_remote=is_remote)

    def _ranker_step(self, plan: Plan) -> Steps:
        choice = self.settings.ranker
        if choice is None or plan.ranker is None or self.model.bundle is None:
            return ()
        is_remote = self._remote is not None and choice.placement is Placement.DEPLOYMENT
        stage = self._remote.scorer(choice.label) if self._remote and is_remote else plan.ranker.build(self.parts)
        pressure = Pressure(choice.budget_ms)
        return (Step(choice.label, stage, self._policy(choice, plan), choice.budget_ms, pressure, is_remote),)

    def _policy(self, choice: FallibleChoice, plan: Plan) -> OnFailure | Fallback[Any]:
        stand_in = plan.stand_ins.get(choice.label)
        return OnFailure(str(choice.on_failure)) if stand_in is None else Fallback(stand_in.build(self.parts))

    @property
    def ranker(self) -> Step[Any] | None:
        """The ranker in its place; None where retrieval order stands."""
        return next((step for step in self.pipelines[Part.RANKED].stages if step.name == self._ranker), None)

    def recommend(
        self,
        query: Query,
        state: UserState | None = None,
        now_us: int | None = None,
        part: Part | None = None,
        deadline: Deadline = NO_DEADLINE,
    ) -> Answer:
        """The answer of `respond`, without an event loop, where no stage runs elsewhere."""
        return complete(self.respond(query, state, now_us, part, deadline)).answer

    async def respond(
        self,
        query: Query,
        state: UserState | None = None,
        now_us: int | None = None,
        part: Part | None = None,
        deadline: Deadline = NO_DEADLINE,
    ) -> Prediction:
        """At most k eligible items, best first; fewer, or none, only where no link has more.

        Args:
            state: replays a user as of `now_us`; None reads the online store.
            now_us: the server's clock, microseconds since the epoch; None is now.
            part: answers with this part alone; None is the whole chain.

        Raises:
            InvalidRequest: naming the field.
        """
        started = time.perf_counter()
        trace, degraded = Trace(), list[str]()
        page = self._pages.read(query.cursor, uuid.uuid4().hex, degraded)
        request = self._resolver.request(query, state, now_us, page, degraded)
        trace.add("resolve", Kind.RESOLVE, time.perf_counter() - started, (0, 0))
        links = self._links(request) if part is None else (part,)
        for link in links:
            found = await self._try(link, request, trace, deadline)
            if len(found):
                break
        started = time.perf_counter()
        best = found.take(slice(query.k))
        items = self._presenter.items(request, best, self.pipelines[link].source_names, trace, page.offset)
        trace.add("present", Kind.PRESENT, time.perf_counter() - started, (len(found), len(best)))
        if trace.unscored:
            degraded.append("candidates")
        answer = Answer(
            prediction_id=request.prediction_id,
            request_id=query.request_id,
            items=items,
            served_by=self._served_by(link, trace),
            arm=ARM,
            bundle=self.model.name,
            degraded=[*degraded, *trace.failed],
            cursor=self._pages.next(page, best.row) if len(found) > len(best) else None,
            trace=self._explain(request, best, link, trace) if query.explain else None,
        )
        fell_back = link is not links[0] or self._ranker in trace.failed
        return Prediction(answer, request, best, trace, fell_back)

    def warm(self, query: Query) -> None:
        """Runs what runs in this process once, so that the first real request finds it ready."""
        pipeline = self.pipelines[Part.RANKED]
        is_remote = any(step.is_remote for step in (*pipeline.sources, *pipeline.stages))
        self.recommend(query, part=Part.POPULAR if is_remote else None)

    def stage(self, label: str) -> Any:
        """The configured stage with this label, for whoever runs it for others.

        Raises:
            KeyError: there is none.
        """
        pipeline = self.pipelines[Part.RANKED]
        return {step.name: step.stage for step in (*pipeline.sources, *pipeline.stages)}[label]

    def bound(self, request: Request) -> Request:
        """A request that came from another process, able to compute its embedding here."""
        return request.bound(self._resolver.embed)

    def resolve(self, query: Query, state: UserState | None = None, now_us: int | None = None) -> Request:
        """Everything that stages read about a query, so that several parts can be run on it.

        Raises:
            InvalidRequest: naming the field.
        """
        return self._resolver.request(query, state, now_us, self._pages.first(""), [])

    def run_part(self, part: Part, request: Request) -> Candidates:
        """The eligible candidates of one part, best first, at most as many as the ranker takes.

        Raises:
            DependencyError: none of its sources answered.
        """
        return complete(run(self.pipelines[part], request, Trace()))

    def retrieve(
        self,
        query: Query,
        state: UserState | None = None,
        now_us: int | None = None,
        part: Part = Part.RETRIEVAL,
    ) -> Candidates:
        """The eligible candidates as the ranker would be given them; of an explained query with the sources' scores."""
        return self.run_part(part, self.resolve(query, state, now_us))

    def rank(
        self, query: Query, candidates: Candidates, state: UserState | None = None, now_us: int | None = None
    ) -> Candidates:
        """The candidates with the ranker's scores, best first; as they are where there is no ranker.

        Raises:
            DependencyError: the ranker failed.
        """
        ranker = self.ranker
        if ranker is None or not len(candidates):
            return candidates
        scored = ranker.stage.score(self.resolve(query, state, now_us), candidates)
        return candidates.scored(scored.score, scored.features).best_first()

    def features(
        self, query: Query, rows: Rows, state: UserState | None = None, now_us: int | None = None
    ) -> FloatMatrix:
        """float32[C, F]: what the ranker reads for the candidates int32[C], names in `request_features.names`."""
        return self.request_features.matrix(self.resolve(query, state, now_us), rows)

    def _links(self, request: Request) -> tuple[Part, ...]:
        links = LINKS[self.settings.mode]
        return tuple(link for link in links if self._applies(link, request))

    def _applies(self, link: Part, request: Request) -> bool:
        if link is Part.RANKED:
            return request.is_known
        if link is Part.PRECOMPUTED:
            return self._lists is not None and request.query.user_id is not None and not request.query.seed_items
        return True

    async def _try(self, link: Part, request: Request, trace: Trace, deadline: Deadline) -> Candidates:
        # The links after the ranked one are what a late answer falls back to: they cost next to nothing.
        limit = deadline if link is Part.RANKED else NO_DEADLINE
        try:
            return await run(self.pipelines[link], request, trace, limit)
        except EXPECTED:
            return no_candidates()

    def _served_by(self, link: Part, trace: Trace) -> ServedBy:
        if link is Part.RANKED and trace.is_scored:
            return ServedBy.RANKER
        return SERVED_BY.get(link, ServedBy.RETRIEVAL)

    def _explain(self, request: Request, best: Candidates, link: Part, trace: Trace) -> dict[str, Any]:
        names = self.pipelines[link].source_names
        return self._presenter.trace(request, best, names, trace, self.request_features.names)
