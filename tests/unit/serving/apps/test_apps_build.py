"""The pipeline is what the configuration says, and every mistake in it is reported at once."""

import importlib

import numpy as np
import pytest
from serving_world import NOW_US, user_state, write_bundle

from serving.apps.build import BUILT_IN, RULE, SCORER, SOURCE, make_plan
from serving.apps.recommend import Part, Recommender
from serving.bundles.bundle import Bundle
from serving.config import RecommendSettings
from serving.core.candidates import found
from serving.core.query import Query
from serving.core.stages import Ruled, Scored, StageSettings
from serving.errors import ConfigError, DependencyError


class Constant:
    """A source of one row."""

    class Settings(StageSettings):
        row: int = 3

    def __init__(self, parts, settings):
        self._row = settings.row

    def find(self, request):
        return found(np.array([self._row], np.int32), np.ones(1, np.float32))


class Backwards:
    """A rule that turns the list round."""

    def __init__(self, parts):
        pass

    def apply(self, request, candidates):
        return Ruled(candidates.take(slice(None, None, -1)))


class Down:
    """A ranker that is down."""

    def __init__(self, parts):
        pass

    def score(self, request, candidates):
        raise DependencyError("down")


class ByRow:
    """A ranker that likes low rows."""

    def __init__(self, parts):
        pass

    def score(self, request, candidates):
        return Scored(-candidates.row.astype(np.float32))


HERE = __name__


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.load(write_bundle(tmp_path_factory.mktemp("bundles")))


def ask(bundle, k=3, **settings):
    recommender = Recommender(bundle, settings=RecommendSettings.model_validate(settings))
    return recommender.recommend(Query(user_id="u1", k=k), user_state(("i00",)), NOW_US)


def ids(answer):
    return [item.id for item in answer.items]


def test_a_source_of_ones_own_is_named_by_its_class(bundle):
    sources = [{"use": f"{HERE}:Constant", "share": 1, "settings": {"row": 5}}]
    answer = ask(bundle, sources=sources)
    assert ids(answer) == ["i05"]
    assert answer.items[0].sources == ["constant"]
    assert answer.items[0].reasons == ["constant"]


def test_two_stages_of_one_class_need_names(bundle):
    one = {"use": f"{HERE}:Constant", "share": 0.5}
    with pytest.raises(ValueError, match="constant"):
        RecommendSettings.model_validate({"sources": [one, one]})
    answer = ask(bundle, sources=[one, {**one, "name": "five", "settings": {"row": 5}}])
    assert {item.id: item.sources for item in answer.items} == {"i03": ["constant"], "i05": ["five"]}


def test_rules_run_in_the_order_of_the_configuration(bundle):
    assert ids(ask(bundle)) == ["i11", "i10", "i09"]
    turned = {"use": f"{HERE}:Backwards"}
    assert ids(ask(bundle, after=[turned])) == ["i01", "i02", "i03"]
    assert ids(ask(bundle, after=[turned, {**turned, "name": "again"}])) == ["i11", "i10", "i09"]


def test_a_ranker_of_ones_own_or_none(bundle):
    assert ids(ask(bundle, ranker={"use": f"{HERE}:ByRow"})) == ["i01", "i02", "i03"]
    answer = ask(bundle, ranker=None)
    assert (ids(answer), answer.served_by) == (["i02", "i01", "i04"], "retrieval")


def test_a_failed_stage_is_stood_in_for_by_the_named_one(bundle):
    ranker = {"use": f"{HERE}:Down", "on_failure": {"use": f"{HERE}:ByRow"}}
    answer = ask(bundle, ranker=ranker)
    assert (ids(answer), answer.served_by, answer.degraded) == (["i01", "i02", "i03"], "ranker", ["ranker"])


def test_a_stage_that_must_not_fail_hands_over_to_the_next_link(bundle):
    answer = ask(bundle, ranker={"use": f"{HERE}:Down", "on_failure": "fail"})
    assert (answer.served_by, answer.degraded) == ("popular", ["ranker"])


def test_all_mistakes_of_a_pipeline_are_reported_at_once():
    settings = RecommendSettings.model_validate(
        {
            "sources": [
                {"use": "two_towers", "share": 1},
                {"use": f"{HERE}:Missing", "share": 1},
                {"use": f"{HERE}:Constant", "share": 1, "settings": {"row": "x", "colour": 1}},
            ],
            "before": [{"use": "no.such.module:Rule"}, {"use": f"{HERE}:Backwards", "settings": {"n": 1}}],
            "ranker": {"use": f"{HERE}:Constant"},
            "after": [{"use": "diversity", "settings": {"strength": 7}}],
        }
    )
    with pytest.raises(ConfigError) as caught:
        make_plan(settings)
    problems = "\n".join(caught.value.problems)
    for expected in (
        "recommend.sources.0.use: no stage is called two_towers",
        "recommend.sources.1.use: " + HERE + " has no class Missing",
        "recommend.sources.2.settings.row",
        "recommend.sources.2.settings.colour",
        "recommend.before.0.use: no.such.module:Rule cannot be imported",
        "recommend.before.1.settings.n",
        "recommend.ranker.use: " + HERE + ":Constant has no method score",
        "recommend.after.0.settings.strength",
    ):
        assert expected in problems
    assert len(caught.value.problems) == 8


@pytest.mark.parametrize("use", sorted(BUILT_IN))
def test_every_built_in_stage_is_a_stage_of_one_kind(use):
    module, _, name = BUILT_IN[use].partition(":")
    stage = getattr(importlib.import_module(module), name)
    assert sum(callable(getattr(stage, kind, None)) for kind in (SOURCE, RULE, SCORER)) == 1
    assert issubclass(getattr(stage, "Settings", StageSettings), StageSettings)


def test_the_parts_alone_do_not_depend_on_the_configured_sources(bundle):
    settings = RecommendSettings.model_validate({"sources": [{"use": f"{HERE}:Constant", "share": 1}]})
    recommender = Recommender(bundle, settings=settings)
    answer = recommender.recommend(Query(user_id="u1"), user_state(("i00",)), NOW_US, Part.POPULAR)
    assert [item.sources for item in answer.items] == [["popular"]] * 5
