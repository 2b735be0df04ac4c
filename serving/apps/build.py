"""From the configuration's stage choices to stages: names resolved, settings checked, every problem at once."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from serving.config import FallibleChoice, RecommendSettings, StageChoice
from serving.core.stages import StageSettings
from serving.errors import ConfigError

BUILT_IN: dict[str, str] = {
    "two_tower": "serving.retrieval.sources:TwoTowerSource",
    "item_to_item": "serving.retrieval.sources:ItemToItemSource",
    "popular": "serving.retrieval.sources:PopularSource",
    "trending": "serving.retrieval.fresh_sources:TrendingSource",
    "new_items": "serving.retrieval.fresh_sources:NewItemsSource",
    "editorial_picks": "serving.rules.editorial:EditorialSource",
    "onnx": "serving.ranking.scorer:OnnxScorer",
    "ignored": "serving.rules.ignored:IgnoredRule",
    "near_duplicates": "serving.rules.near_duplicates:NearDuplicatesRule",
    "freshness": "serving.rules.freshness:FreshnessRule",
    "provider_cap": "serving.rules.caps:ProviderCapRule",
    "diversity": "serving.rules.diversity:DiversityRule",
    "editorial": "serving.rules.editorial:EditorialRule",
    "exploration": "serving.rules.exploration:ExplorationRule",
}
SOURCE, RULE, SCORER = "find", "apply", "score"
"""The method that makes a class a stage of each kind."""


@dataclass(frozen=True)
class Planned:
    """A choice with its class found and its settings checked."""

    choice: StageChoice
    stage: type[Any]
    settings: StageSettings | None

    def build(self, parts: Any) -> Any:
        """The stage itself."""
        return self.stage(parts) if self.settings is None else self.stage(parts, self.settings)


@dataclass(frozen=True)
class Plan:
    """Every stage that a pipeline's settings name, in their order, and the stages that take a failed one's place."""

    sources: tuple[Planned, ...]
    before: tuple[Planned, ...]
    ranker: Planned | None
    after: tuple[Planned, ...]
    stand_ins: dict[str, Planned] = field(default_factory=dict)
    """By the label of the stage that they stand in for."""

    def __iter__(self) -> Iterator[Planned]:
        yield from (*self.sources, *self.before, *([self.ranker] if self.ranker else []), *self.after)


def make_plan(settings: RecommendSettings) -> Plan:
    """Finds every class and checks every setting, without opening a bundle.

    Raises:
        ConfigError: with one line for each problem: an unknown name, a class that cannot be imported or is not a
            stage of its kind, a setting that the stage does not have.
    """
    problems: list[str] = []
    stand_ins: dict[str, Planned] = {}

    def planned(choice: StageChoice, kind: str, where: str) -> Planned | None:
        found = _plan(choice, kind, f"recommend.{where}", problems)
        if isinstance(choice, FallibleChoice) and isinstance(choice.on_failure, StageChoice):
            stand_in = _plan(choice.on_failure, kind, f"recommend.{where}.on_failure", problems)
            if stand_in is not None:
                stand_ins[choice.label] = stand_in
        return found

    def all_of(choices: Sequence[StageChoice], kind: str, where: str) -> tuple[Planned, ...]:
        found = [planned(choice, kind, f"{where}.{i}") for i, choice in enumerate(choices)]
        return tuple(each for each in found if each is not None)

    plan = Plan(
        sources=all_of(settings.sources, SOURCE, "sources"),
        before=all_of(settings.before, RULE, "before"),
        ranker=None if settings.ranker is None else planned(settings.ranker, SCORER, "ranker"),
        after=all_of(settings.after, RULE, "after"),
        stand_ins=stand_ins,
    )
    if problems:
        raise ConfigError(f"the recommend pipeline has {len(problems)} problem(s)", problems)
    return plan


def build_stage(use: str, settings: dict[str, Any], parts: Any, kind: str = RULE) -> Any:
    """One stage by its built-in name or `package.module:Class`.

    Raises:
        ConfigError: with every problem.
    """
    problems: list[str] = []
    planned = _plan(StageChoice(use=use, settings=settings), kind, use, problems)
    if planned is None or problems:
        raise ConfigError(f"the stage {use} cannot be built", problems)
    return planned.build(parts)


def _plan(choice: StageChoice, kind: str, where: str, problems: list[str]) -> Planned | None:
    stage = _import(choice.use, where, problems)
    if stage is None:
        return None
    if not callable(getattr(stage, kind, None)):
        problems.append(f"{where}.use: {choice.use} has no method {kind}")
        return None
    model: type[StageSettings] | None = getattr(stage, "Settings", None)
    if model is None:
        problems += [f"{where}.settings.{key}: {choice.use} has no settings" for key in choice.settings]
        return Planned(choice, stage, None)
    try:
        return Planned(choice, stage, model.model_validate(choice.settings))
    except ValidationError as error:
        for each in error.errors():
            path = ".".join(["settings", *map(str, each["loc"])])
            problems.append(f"{where}.{path}: {each['msg']}")
        return None


def _import(use: str, where: str, problems: list[str]) -> type[Any] | None:
    target = BUILT_IN.get(use, use)
    module, _, name = target.partition(":")
    if not name:
        known = ", ".join(BUILT_IN)
        problems.append(f"{where}.use: no stage is called {use}; there are {known}, or package.module:Class")
        return None
    try:
        stage = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        problems.append(f"{where}.use: {use} cannot be imported: {error}")
        return None
    if not isinstance(stage, type):
        problems.append(f"{where}.use: {module} has no class {name}")
        return None
    return stage
