"""Runs a pipeline's stages in order, times each, and applies its policy when it fails."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from typing_extensions import TypeIs

from serving.core.candidates import Candidates, no_candidates
from serving.core.deadline import NO_DEADLINE, Deadline
from serving.core.stages import Fallback, OnFailure, Pipeline, Removed, Rule, Scored, Scorer, Source, Step
from serving.core.trace import Trace
from serving.errors import DependencyError, OverloadError

R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

EXPECTED = (DependencyError, OverloadError)
log = logging.getLogger(__name__)


def run(pipeline: Pipeline[R], request: R, trace: Trace, deadline: Deadline = NO_DEADLINE) -> Candidates:
    """Runs every stage and returns what is left, best first; after a scorer, its order holds.

    Only dependency and overload errors, a passed deadline among them, are subject to a stage's policy.

    Raises:
        DependencyError, OverloadError: a stage whose policy is `fail`, or every source, failed.
        ClientError, SetupError and anything that is not Sieve's: always passed on.
    """
    candidates = _gather(pipeline, request, trace, deadline)
    for step in pipeline.stages:
        candidates = _run_stage(step, request, candidates, trace, deadline)
    return candidates


def _gather(pipeline: Pipeline[R], request: R, trace: Trace, deadline: Deadline) -> Candidates:
    pools: list[Candidates] = []
    failures: list[Exception] = []
    for step in pipeline.sources:
        pool = _attempt(step, lambda s: _find(s, request, trace, deadline), trace, 0, failures)
        if pool is not None:
            pools.append(pool)
    if failures and not pools:
        raise failures[-1]
    started = time.perf_counter()
    merged = pipeline.merge.merge(request, pools) if pools else no_candidates()
    found = sum(len(pool) for pool in pools)
    trace.add(pipeline.merge.name, time.perf_counter() - started, (found, len(merged)))
    return merged


def _run_stage(
    step: Step[Scorer[R] | Rule[R]], request: R, candidates: Candidates, trace: Trace, deadline: Deadline
) -> Candidates:
    def one(stage: Scorer[R] | Rule[R]) -> Candidates:
        if _is_scorer(stage):
            return _score(stage, request, candidates, trace, deadline)
        return _apply(stage, request, candidates, trace)

    result = _attempt(step, one, trace, len(candidates), [])
    return candidates if result is None else result


def _attempt(step: Step[S], one: Callable[[S], T], trace: Trace, count: int, failures: list[Exception]) -> T | None:
    """The stage's result, its fallback's, or None where its policy is to skip it."""
    name = getattr(step.stage, "name", "")
    started = time.perf_counter()
    try:
        return one(step.stage)
    except EXPECTED as error:
        policy = step.on_failure
        left = 0 if policy is OnFailure.FAIL else count
        trace.add(name, time.perf_counter() - started, (count, left), failure=type(error).__name__)
        log.warning("stage %s failed, policy %s: %s", name, getattr(policy, "value", "fallback"), error)
        if isinstance(policy, Fallback):
            return one(policy.stage)
        if policy is OnFailure.FAIL:
            raise
        failures.append(error)
        return None


def _find(source: Source[R], request: R, trace: Trace, deadline: Deadline) -> Candidates:
    deadline.check(source.name)
    started = time.perf_counter()
    found = source.find(request)
    trace.add(source.name, time.perf_counter() - started, (0, len(found)))
    return found


def _score(scorer: Scorer[R], request: R, candidates: Candidates, trace: Trace, deadline: Deadline) -> Candidates:
    if not len(candidates):
        return candidates
    deadline.check(scorer.name)
    started = time.perf_counter()
    scored = scorer.score(request, candidates)
    _check_length(scorer.name, scored, len(candidates))
    ordered = candidates.scored(scored.score, scored.features).best_first()
    trace.add(scorer.name, time.perf_counter() - started, (len(candidates), len(ordered)))
    return ordered


def _apply(rule: Rule[R], request: R, candidates: Candidates, trace: Trace) -> Candidates:
    # No deadline: a rule is cheap, and one that decides who may see what is never given up for time.
    started = time.perf_counter()
    ruled = rule.apply(request, candidates)
    _check_accounted(rule.name, ruled.removed, len(candidates), len(ruled.kept))
    trace.add(rule.name, time.perf_counter() - started, (len(candidates), len(ruled.kept)), ruled.removed)
    return ruled.kept


def _is_scorer(stage: Scorer[R] | Rule[R]) -> TypeIs[Scorer[R]]:
    # isinstance() of a runtime protocol costs ten times as much, on every stage of every request.
    return hasattr(stage, "score")


def _check_length(name: str, scored: Scored, count: int) -> None:
    if scored.score.shape != (count,):
        raise TypeError(f"scorer {name} gave scores of shape {scored.score.shape} for {count} candidates")
    if np.isnan(scored.score).any():
        raise DependencyError(f"scorer {name} gave NaN")


def _check_accounted(name: str, removed: Sequence[Removed], before: int, after: int) -> None:
    gone = sum(len(r.rows) for r in removed)
    if after + gone != before:
        raise TypeError(f"rule {name} was given {before} candidates, kept {after} and accounted for {gone} more")
