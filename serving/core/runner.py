"""Runs a pipeline's stages in order, times each, and applies its policy when it fails.

`run` is a coroutine that suspends only where a stage gives an awaitable. A pipeline whose stages are all inline
therefore runs from start to end without an event loop, which is what `complete` does.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

import numpy as np
from typing_extensions import TypeIs

from serving.core.candidates import Candidates, no_candidates
from serving.core.deadline import NO_DEADLINE, STAGE_DEADLINE_S, Deadline
from serving.core.stages import Fallback, OnFailure, Pipeline, Rule, Ruled, Scored, Scorer, Source, Step
from serving.core.trace import Kind, Trace
from serving.errors import DeadlineExceeded, DependencyError, OverloadError

R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

EXPECTED = (DependencyError, OverloadError)
log = logging.getLogger(__name__)


def complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never has to wait.

    Raises:
        RuntimeError: it had to: a stage runs elsewhere, and only an event loop can wait for it.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return cast(T, stop.value)
    coroutine.close()
    raise RuntimeError("a stage of this pipeline runs elsewhere: await it in an event loop")


async def run(pipeline: Pipeline[R], request: R, trace: Trace, deadline: Deadline = NO_DEADLINE) -> Candidates:
    """Runs every stage and returns what is left, best first; after a scorer, its order holds.

    Only dependency and overload errors, a passed deadline among them, are subject to a stage's policy.

    Raises:
        DependencyError, OverloadError: a stage whose policy is `fail`, or every source, failed.
        ClientError, SetupError and anything that is not Sieve's: always passed on.
    """
    candidates = await _gather(pipeline, request, trace, deadline)
    for step in pipeline.stages:
        candidates = await _run_stage(step, request, candidates, trace, deadline)
    return candidates


async def _gather(pipeline: Pipeline[R], request: R, trace: Trace, deadline: Deadline) -> Candidates:
    failures: list[Exception] = []
    pools: dict[int, Candidates | None] = {}
    asked: dict[int, asyncio.Task[Candidates | None]] = {}
    find = _Find(request, trace, deadline)
    try:
        for i, step in enumerate(pipeline.sources):
            if step.is_remote:
                asked[i] = asyncio.ensure_future(_attempt(step, find, Kind.SOURCE, trace, 0, failures))
        if asked:
            await asyncio.sleep(0)  # the remote calls go out, then the inline sources run beside them
        for i, step in enumerate(pipeline.sources):
            if not step.is_remote:
                pools[i] = await _attempt(step, find, Kind.SOURCE, trace, 0, failures)
        for i, task in asked.items():
            pools[i] = await task
    finally:
        for task in asked.values():  # where one fails for good, or the caller goes away, none goes on alone
            task.cancel()
    found = [pool.from_source(i) for i, pool in sorted(pools.items()) if pool is not None]
    if failures and not found:
        raise failures[-1]
    started = time.perf_counter()
    merged = pipeline.merge.merge(request, found) if found else no_candidates()
    trace.add("merge", Kind.MERGE, time.perf_counter() - started, (sum(map(len, found)), len(merged)))
    return merged


async def _run_stage(
    step: Step[Scorer[R] | Rule[R]], request: R, candidates: Candidates, trace: Trace, deadline: Deadline
) -> Candidates:
    if _scores(step):
        one, kind = _Score(request, trace, deadline, candidates), Kind.SCORER
    else:
        one, kind = _Apply(request, trace, deadline, candidates), Kind.RULE
    result = await _attempt(step, cast(Any, one), kind, trace, len(candidates), [])
    return candidates if result is None else result


async def _attempt(
    step: Step[S],
    one: Callable[[Step[S], S], Awaitable[T]],
    kind: Kind,
    trace: Trace,
    count: int,
    failures: list[Exception],
) -> T | None:
    """The stage's result, its fallback's, or None where its policy is to skip it."""
    started = time.perf_counter()
    try:
        return await one(step, step.stage)
    except EXPECTED as error:
        policy = step.on_failure
        left = 0 if policy is OnFailure.FAIL else count
        trace.add(step.name, kind, time.perf_counter() - started, (count, left), failure=type(error).__name__)
        log.warning("stage %s failed, policy %s: %s", step.name, getattr(policy, "value", "fallback"), error)
        if isinstance(policy, Fallback):
            return await one(step, policy.stage)
        if policy is OnFailure.FAIL:
            raise
        failures.append(error)
        return None


class _Find:
    """Asks one source."""

    def __init__(self, request: Any, trace: Trace, deadline: Deadline) -> None:
        self._request, self._trace, self._deadline = request, trace, deadline

    async def __call__(self, step: Step[Source[R]], source: Source[R]) -> Candidates:
        self._deadline.check(step.name)
        limit = self._deadline.within(step.budget_ms)
        started = time.perf_counter()
        STAGE_DEADLINE_S.set(limit.at_s)
        found = source.find(self._request)
        if not isinstance(found, Candidates):
            found = await _in_time(found, step.name, limit)
        self._trace.add(step.name, Kind.SOURCE, time.perf_counter() - started, (0, len(found)))
        return found


class _Score(_Find):
    """Scores as many of the candidates as there is time for; the others stay behind them in their order."""

    def __init__(self, request: Any, trace: Trace, deadline: Deadline, candidates: Candidates) -> None:
        super().__init__(request, trace, deadline)
        self._candidates = candidates

    async def __call__(self, step: Step[Scorer[R]], scorer: Scorer[R]) -> Candidates:  # type: ignore[override]
        candidates, count = self._candidates, len(self._candidates)
        if not count:
            return candidates
        self._deadline.check(step.name)
        limit = self._deadline.within(step.budget_ms)
        admitted = count if step.pressure is None else step.pressure.admit(count, self._deadline)
        if admitted < 1:
            raise DeadlineExceeded(f"{step.name} would take longer than the {limit.remaining_ms():.1f} ms left")
        started = time.perf_counter()
        STAGE_DEADLINE_S.set(limit.at_s)
        ahead = candidates if admitted >= count else candidates.take(slice(admitted))
        scored = scorer.score(self._request, ahead)
        if not isinstance(scored, Scored):
            scored = await _in_time(scored, step.name, limit)
        _check_scores(step.name, scored, len(ahead))
        self._trace.missing += scored.missing
        if admitted >= count:
            ordered = candidates.scored(scored.score, scored.features).best_first()
        else:
            ordered = _ahead_of_the_rest(candidates, admitted, scored)
            self._trace.unscored += count - admitted
        seconds = time.perf_counter() - started
        if step.pressure is not None:
            step.pressure.observe(admitted, seconds * 1000)
        self._trace.add(step.name, Kind.SCORER, seconds, (count, count))
        return ordered


class _Apply(_Score):
    """Applies one rule.

    No deadline: a rule is cheap, and one that decides who may see what is never given up for time.
    """

    async def __call__(self, step: Step[Rule[R]], rule: Rule[R]) -> Candidates:  # type: ignore[override]
        started = time.perf_counter()
        before = len(self._candidates)
        ruled = rule.apply(self._request, self._candidates)
        _check_accounted(step.name, ruled, before)
        seconds = time.perf_counter() - started
        self._trace.add(step.name, Kind.RULE, seconds, (before, len(ruled.kept)), ruled.removed)
        self._trace.marked.extend(ruled.marked)
        return ruled.kept


async def _in_time(awaited: Awaitable[T], name: str, deadline: Deadline) -> T:
    limit_s = None if deadline.at_s == float("inf") else max(deadline.remaining_ms() / 1000, 0)
    try:
        return await asyncio.wait_for(awaited, limit_s)
    except TimeoutError:
        raise DeadlineExceeded(f"{name} did not answer in time") from None


def _ahead_of_the_rest(candidates: Candidates, admitted: int, scored: Scored) -> Candidates:
    count = len(candidates)
    score = np.empty(count, np.float32)
    score[:admitted] = scored.score
    # below the worst scored one, in the order they came
    score[admitted:] = scored.score.min() - np.arange(1, count - admitted + 1, dtype=np.float32)
    features = None
    if scored.features is not None:
        features = np.full((count, scored.features.shape[1]), np.nan, np.float32)
        features[:admitted] = scored.features
    return candidates.scored(score, features).best_first()


def _scores(step: Step[Scorer[R] | Rule[R]]) -> TypeIs[Step[Scorer[R]]]:
    # isinstance() of a runtime protocol costs ten times as much, on every stage of every request.
    return hasattr(step.stage, "score")


def _check_scores(name: str, scored: Scored, count: int) -> None:
    if scored.score.shape != (count,):
        raise DependencyError(f"scorer {name} gave scores of shape {scored.score.shape} for {count} candidates")
    if not np.isfinite(scored.score).all():
        raise DependencyError(f"scorer {name} gave scores that are not finite")


def _check_accounted(name: str, ruled: Ruled, before: int) -> None:
    kept, gone = len(ruled.kept), sum(len(removed.rows) for removed in ruled.removed)
    if kept + gone != before:
        raise TypeError(f"rule {name} was given {before} candidates, kept {kept} and accounted for {gone} more")
