"""Every link of the chain answers when the one before it cannot, and no link shows what must not be shown."""

from dataclasses import replace

import numpy as np
import pytest
from serving_world import IDS, NOW_US, N, catalogue, user_state, write_bundle

from serving.apps.recommend import Part, Recommender
from serving.bundles.bundle import Bundle
from serving.config import RecommendSettings
from serving.core.query import Query
from serving.errors import DependencyError
from serving.features.lists import SqliteLists, StoredList

HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.load(write_bundle(tmp_path_factory.mktemp("bundles")))


@pytest.fixture
def lists(tmp_path):
    store = SqliteLists(tmp_path / "online.db")
    stored = StoredList("u1", ("i04", "i09", "gone", "i02"), np.array([4, 3, 2, 1], np.float32), "recommend/x", NOW_US)
    assert store.write("recommend", [stored]) == 1
    return store


class Down:
    """Any stage, down."""

    def find(self, request):
        raise DependencyError("down")

    def score(self, request, candidates):
        raise DependencyError("down")


def without(recommender, *links):
    """The recommender with every source of these pipelines down."""
    for link in links:
        pipeline = recommender.pipelines[link]
        sources = tuple(replace(step, stage=Down()) for step in pipeline.sources)
        recommender.pipelines[link] = replace(pipeline, sources=sources)
    return recommender


def without_ranker(recommender):
    pipeline = recommender.pipelines[Part.RANKED]
    stages = tuple(replace(step, stage=Down()) if step.name == "ranker" else step for step in pipeline.stages)
    recommender.pipelines[Part.RANKED] = replace(pipeline, stages=stages)
    return recommender


def ask(recommender, state=None, now_us=NOW_US, **query):
    answer = recommender.recommend(Query(user_id="u1", **query), state or user_state(("i00",)), now_us)
    return [item.id for item in answer.items], answer.served_by, answer.degraded


def test_each_link_takes_over_from_the_one_before(bundle, lists):
    def fresh():
        return Recommender(bundle, lists=lists)

    assert ask(fresh(), k=2) == (["i11", "i10"], "ranker", [])
    assert ask(without_ranker(fresh()), k=2) == (["i02", "i01"], "retrieval", ["ranker"])
    down = ["two_tower", "item_to_item", "popular"]
    assert ask(without(fresh(), Part.RANKED), k=2) == (["i04", "i09"], "precomputed", down)
    items, served_by, degraded = ask(without(fresh(), Part.RANKED, Part.PRECOMPUTED), k=2)
    assert (items, served_by, degraded) == (["i01", "i02"], "popular", [*down, "precomputed"])
    broken = without(fresh(), Part.RANKED, Part.PRECOMPUTED, Part.POPULAR)
    assert ask(broken, k=2) == (["i11", "i10"], "bundled", [*down, "precomputed"])


def test_a_stored_list_keeps_its_order_and_leaves_out_what_the_catalogue_does_not_know(bundle, lists):
    recommender = Recommender(bundle, lists=lists)
    answer = recommender.recommend(Query(user_id="u1"), user_state(("i00",)), NOW_US, Part.PRECOMPUTED)
    assert [item.id for item in answer.items] == ["i04", "i09", "i02"]
    assert [item.sources for item in answer.items] == [["precomputed"]] * 3


def test_a_stored_list_that_is_too_old_is_not_served(bundle, lists):
    settings = RecommendSettings(mode="batch", lists_max_age_s=3600)
    recommender = Recommender(bundle, settings=settings, lists=lists)
    assert ask(recommender, now_us=NOW_US + HOUR_US)[1] == "precomputed"
    assert ask(recommender, now_us=NOW_US + HOUR_US + 1)[1] == "popular"


@pytest.mark.parametrize(
    ("mode", "served_by", "without_ranking"),
    [("hybrid", "ranker", "precomputed"), ("realtime", "ranker", "popular"), ("batch", "precomputed", "precomputed")],
)
def test_the_mode_says_where_lists_come_from(bundle, lists, mode, served_by, without_ranking):
    recommender = Recommender(bundle, settings=RecommendSettings(mode=mode), lists=lists)
    assert ask(recommender)[1] == served_by
    assert ask(without(recommender, Part.RANKED))[1] == without_ranking


def test_a_precomputed_list_is_not_what_someone_anonymous_or_looking_for_more_like_this_wants(bundle, lists):
    recommender = Recommender(bundle, settings=RecommendSettings(mode="batch"), lists=lists)
    assert recommender.recommend(Query(session_id="s"), None, NOW_US).served_by == "popular"
    assert ask(recommender, seed_items=["i03"])[1] == "popular"


def test_eligibility_holds_on_every_link(bundle, lists):
    adults_only = replace(catalogue(), maturity=np.array([18 if row % 2 else 0 for row in range(N)], np.int16))
    broken: tuple[Part, ...] = ()
    for link in (Part.RANKED, Part.PRECOMPUTED, Part.POPULAR, Part.BUNDLED):
        recommender = without(Recommender(bundle, item_table=adults_only, lists=lists), *broken)
        items, _, _ = ask(recommender, user_state(("i00",), age=12.0, seen=("i04",)), exclude=["i02"], k=12)
        assert items, link
        assert all(int(item[1:]) % 2 == 0 for item in items), link
        assert not {"i00", "i02", "i04"} & set(items), link
        broken = (*broken, link)


def test_the_last_link_has_an_answer_even_when_the_store_of_lists_is_no_database(bundle, tmp_path):
    (tmp_path / "lists.db").write_text("this is not a database, and long enough to be read as one" * 20)
    recommender = Recommender(bundle, lists=SqliteLists(tmp_path / "lists.db"))
    items, served_by, degraded = ask(without(recommender, Part.RANKED), k=1)
    assert (items, served_by) == (["i01"], "popular")
    assert "precomputed" in degraded


def pages(recommender, state, k, **query):
    cursor, seen = None, []
    while True:
        answer = recommender.recommend(Query(user_id="u1", k=k, cursor=cursor, **query), state, NOW_US)
        seen.append(answer)
        cursor = answer.cursor
        if cursor is None:
            return seen


def test_pages_go_through_one_list_without_a_repetition(bundle):
    recommender = Recommender(bundle)
    answers = pages(recommender, user_state(("i00",)), 4)
    items = [item.id for answer in answers for item in answer.items]
    assert items == IDS[:0:-1]
    assert [item.position for answer in answers for item in answer.items] == list(range(11))
    assert len({answer.prediction_id for answer in answers}) == 1
    assert [len(answer.items) for answer in answers] == [4, 4, 3]


def test_pages_end_at_the_depth_that_is_configured(bundle):
    recommender = Recommender(bundle, settings=RecommendSettings(max_depth=6))
    assert [len(answer.items) for answer in pages(recommender, user_state(("i00",)), 3)] == [3, 3]


def test_a_page_of_another_bundle_goes_on_and_says_that_items_may_repeat(bundle, tmp_path):
    other = Recommender(Bundle.load(write_bundle(tmp_path, catalogue(year=np.full(N, 1999, np.int16)))))
    first = Recommender(bundle).recommend(Query(user_id="u1", k=2), user_state(("i00",)), NOW_US)
    second = other.recommend(Query(user_id="u1", k=2, cursor=first.cursor), user_state(("i00",)), NOW_US)
    assert second.degraded == ["cursor"]
    assert second.prediction_id == first.prediction_id
    assert [item.position for item in second.items] == [2, 3]


def test_what_was_shown_often_and_never_taken_up_is_ignored_where_the_pipeline_says_so(bundle):
    state = user_state(("i00",))
    state.shown_items, state.shown_counts = ["i11", "i10"], np.array([7, 4], np.float32)
    settings = RecommendSettings(before=[{"use": "ignored"}], ignored_after=5)
    assert ask(Recommender(bundle, settings=settings), state, k=2)[0] == ["i10", "i09"]
    assert ask(Recommender(bundle), state, k=2)[0] == ["i11", "i10"]


def test_what_was_seen_long_ago_may_come_back_where_the_settings_say_so(bundle):
    state = user_state(("i11", "i10"), seen=("i09",))
    state.history_times_us = np.array([NOW_US - 400 * 24 * HOUR_US, NOW_US - HOUR_US])
    assert ask(Recommender(bundle), state, k=1)[0] == ["i08"]
    settings = RecommendSettings(seen_again_after_days=365)
    assert ask(Recommender(bundle, settings=settings), state, k=2)[0] == ["i11", "i08"]
