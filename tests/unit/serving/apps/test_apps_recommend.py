"""Lists that follow by hand from the world of `serving_world`, and what is left when its parts break."""

from dataclasses import replace

import numpy as np
import pytest
from serving_world import DAY_US, IDS, MIDNIGHT_US, NOW_US, N, catalogue, user_state, write_bundle

from serving.apps.film_model import open_film_model
from serving.apps.recommend import Part, Recommender
from serving.bundles.bundle import Bundle
from serving.config import RecommendSettings
from serving.core.deadline import Deadline
from serving.core.query import Query
from serving.errors import BundleError, DependencyError, InvalidRequest, StoreUnavailable

GERMANY = {"country": "DE"}
NEWEST_FIRST = IDS[::-1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.load(write_bundle(tmp_path_factory.mktemp("bundles")))


@pytest.fixture(scope="module")
def recommender(bundle):
    return Recommender(bundle)


class Store:
    """An online store of one user, or one that is down."""

    def __init__(self, state=None, down=False):
        self.state, self.down = state, down

    def read(self, user_id):
        if self.down:
            raise StoreUnavailable("connection refused")
        return self.state if self.state and user_id == self.state.user_id else None


class Broken:
    """Stands in for any part that is down."""

    def search(self, query, n):
        raise DependencyError("down")

    def embed(self, user, history):
        raise DependencyError("down")

    def score(self, request, candidates):
        raise DependencyError("down")

    def find(self, request):
        raise DependencyError("down")


def ids(answer):
    return [item.id for item in answer.items]


def ask(recommender, state=None, **query):
    return recommender.recommend(Query(user_id="u1", **query), state, NOW_US)


def test_the_ranker_orders_what_the_user_has_not_seen(recommender):
    answer = ask(recommender, user_state(("i00", "i02"), seen=("i11",)), context=GERMANY)
    assert ids(answer) == [i for i in NEWEST_FIRST if i not in ("i00", "i02", "i11")]
    assert answer.served_by == "ranker"
    assert answer.degraded == []
    assert [item.position for item in answer.items] == list(range(9))
    assert [item.score for item in answer.items][:2] == [2010, 2009]
    assert answer.bundle.startswith("recommend/")
    assert answer.arm == "stable"


def test_at_most_k_items_are_answered(recommender):
    assert ids(ask(recommender, user_state(("i00",)), k=3)) == ["i11", "i10", "i09"]


def test_items_say_where_they_come_from_and_why(recommender):
    answer = ask(recommender, user_state(("i00",)), context=GERMANY)
    by_id = {item.id: item for item in answer.items}
    assert by_id["i11"].sources == ["two_tower", "popular"]
    assert by_id["i11"].reasons == ["your_taste", "popular:DE"]
    assert by_id["i03"].sources == ["two_tower", "item_to_item", "popular"]
    assert by_id["i03"].reasons == ["your_taste", "similar_to:i00", "popular:DE"]


def test_retrieval_alone_interleaves_its_sources_by_their_shares(recommender):
    # For the history i00, unseen: two-tower 2, 4, 6, 8, 10 along the first axis; item-to-item 1, 2, 3;
    # popular 1, 2, 3, 4, 5. Places: two-tower's nth item n / 0.6 (i00 itself takes the first), item-to-item's
    # n / 0.3, popular's n / 0.1; of i02 and i01, both at 3.3, the larger share comes first.
    answer = recommender.recommend(Query(k=4), user_state(("i00",)), NOW_US, part=Part.RETRIEVAL)
    assert ids(answer) == ["i02", "i01", "i04", "i06"]
    assert answer.served_by == "retrieval"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part.TWO_TOWER, ["i02", "i04", "i06", "i08", "i10"]),
        (Part.ITEM_TO_ITEM, ["i01", "i02", "i03"]),
        (Part.POPULAR, ["i01", "i02", "i03", "i04", "i05"]),
        (Part.BUNDLED, ["i11", "i10", "i09", "i08", "i07"]),
    ],
)
def test_each_part_can_answer_alone(recommender, part, expected):
    answer = recommender.recommend(Query(k=5), user_state(("i00",)), NOW_US, part=part)
    assert ids(answer) == expected


def test_a_user_that_nobody_knows_gets_what_is_popular(recommender):
    answer = ask(recommender, k=3)
    assert (ids(answer), answer.served_by, answer.degraded) == (["i00", "i01", "i02"], "popular", [])


def test_popular_is_the_countrys_where_there_is_one(recommender):
    assert ids(ask(recommender, k=4, context=GERMANY)) == ["i11", "i10", "i00", "i01"]


def test_someone_anonymous_is_known_by_what_they_like(recommender):
    query = Query(session_id="s1", k=3, context={"likes": ["i11", "unheard-of"]})
    answer = recommender.recommend(query, now_us=NOW_US)
    assert answer.served_by == "ranker"
    assert ids(answer) == ["i10", "i09", "i08"]


def test_seed_items_stand_in_for_the_history_and_are_not_answered(recommender):
    query = Query(user_id="u1", seed_items=["i05"], k=3)
    answer = recommender.recommend(query, user_state(("i00",)), NOW_US, part=Part.ITEM_TO_ITEM)
    assert ids(answer) == ["i06", "i07", "i08"]
    everything = recommender.recommend(query.model_copy(update={"k": 20}), user_state(("i00",)), NOW_US)
    assert not {"i05", "i00"} & set(ids(everything))


def test_excluded_items_and_filters_hold(recommender):
    answer = ask(recommender, user_state(("i00",)), exclude=["i11", "i09"], filters={"genres": ["Comedy"]})
    assert ids(answer) == ["i07", "i05", "i03", "i01"]


def test_the_state_is_read_from_the_online_store(bundle):
    state = user_state(("i00",), seen=("i11",))
    answer = ask(Recommender(bundle, Store(state)), k=2)
    assert (ids(answer), answer.served_by) == (["i10", "i09"], "ranker")


def test_with_the_online_store_down_the_answer_is_popular_and_says_so(bundle):
    answer = ask(Recommender(bundle, Store(down=True)), k=2)
    assert (ids(answer), answer.served_by, answer.degraded) == (["i00", "i01"], "popular", ["user_state"])


def test_with_the_ranker_down_retrieval_order_stands(bundle, tmp_path):
    recommender = Recommender(Bundle.load(write_bundle(tmp_path, broken_ranker=True)))
    state = user_state(("i00",))
    assert ask(recommender, state, context=GERMANY).served_by == "ranker"
    answer = ask(recommender, state, k=4)
    assert (ids(answer), answer.served_by, answer.degraded) == (
        ["i02", "i01", "i04", "i06"], "retrieval", ["ranker"],
    )  # fmt: skip


def test_with_the_two_tower_down_the_other_sources_are_ranked(bundle):
    model = replace(open_film_model(bundle), user_tower=Broken())
    answer = ask(Recommender(model), user_state(("i00",)), k=3)
    assert (ids(answer), answer.served_by, answer.degraded) == (["i05", "i04", "i03"], "ranker", ["two_tower"])


def broken(recommender, *parts):
    """The recommender with every source of the named pipelines down."""
    for part in parts:
        pipeline = recommender.pipelines[part]
        sources = tuple(replace(step, stage=Broken()) for step in pipeline.sources)
        recommender.pipelines[part] = replace(pipeline, sources=sources)
    return recommender


def test_with_retrieval_down_the_answer_is_popular(bundle):
    answer = ask(broken(Recommender(bundle), Part.RANKED), user_state(("i00",)), k=2)
    assert (ids(answer), answer.served_by) == (["i01", "i02"], "popular")
    assert answer.degraded


def test_with_popular_down_too_the_bundled_list_answers(bundle):
    answer = ask(broken(Recommender(bundle), Part.RANKED, Part.POPULAR), user_state(("i11",)), k=2)
    assert (ids(answer), answer.served_by) == (["i10", "i09"], "bundled")


def test_when_popular_has_nothing_that_may_be_shown_the_bundled_list_answers(recommender):
    answer = ask(recommender, exclude=IDS[:6], k=3)
    assert (ids(answer), answer.served_by) == (["i11", "i10", "i09"], "bundled")


def test_a_bug_in_a_stage_is_not_covered_up(bundle):
    class Buggy(Broken):
        def embed(self, user, history):
            raise TypeError("bug")

    model = replace(open_film_model(bundle), user_tower=Buggy())
    with pytest.raises(TypeError, match="bug"):
        ask(Recommender(model), user_state(("i00",)))


def test_a_late_request_is_answered_with_what_is_popular(recommender):
    query = Query(user_id="u1", k=1)
    answer = recommender.recommend(query, user_state(("i00",)), NOW_US, deadline=Deadline(at_s=0.0))
    assert (ids(answer), answer.served_by) == (["i01"], "popular")
    assert answer.degraded == ["two_tower", "item_to_item", "popular"]


def restricted(**columns):
    table = catalogue()
    return replace(table, **{name: np.full(N, value, getattr(table, name).dtype) for name, value in columns.items()})


@pytest.mark.parametrize(
    "columns",
    [
        {"maturity": 18},
        {"licence_end_us": NOW_US},
        {"licence_start_us": NOW_US + 1},
        {"available_at_us": NOW_US + DAY_US},
        {"country_mask": 0b10},
    ],
)
@pytest.mark.parametrize("down", [(), (Part.RANKED,), (Part.RANKED, Part.POPULAR)])
def test_no_link_answers_what_may_not_be_shown(bundle, columns, down):
    recommender = broken(Recommender(bundle, item_table=restricted(**columns)), *down)
    answer = ask(recommender, user_state(("i00",), age=12.0), context={"country": "US"})
    assert answer.items == []
    assert answer.served_by == "bundled"


def test_an_unknown_age_sees_only_what_everyone_may_see(bundle):
    maturity = np.array([0, 6, 12, 16, 18, 0, 6, 12, 16, 18, 0, 18], np.int16)
    recommender = Recommender(bundle, item_table=replace(catalogue(), maturity=maturity))
    assert ids(ask(recommender, user_state(("i02",), age=None))) == ["i10", "i05", "i00"]
    assert ids(ask(recommender)) == ["i00", "i05"]
    assert ids(ask(recommender, user_state(("i02",), age=13.0))) == ["i10", "i07", "i06", "i05", "i01", "i00"]


def test_the_age_of_statistics_that_are_too_old_counts_as_unknown(bundle):
    recommender = Recommender(bundle, item_table=replace(catalogue(), maturity=np.full(N, 6, np.int16)))
    state = user_state(("i02",))
    assert ids(ask(recommender, state))
    state.stats_time_us = MIDNIGHT_US - 3 * DAY_US
    assert ids(ask(recommender, state)) == []


def test_a_live_item_table_in_another_order_is_put_into_the_bundles_rows(bundle):
    live = catalogue().take(np.arange(N)[::-1])
    years = live.features.copy()
    year = live.feature_names.index("item_year")
    years[:, year] = 3000 + np.arange(N)
    recommender = Recommender(bundle, item_table=replace(live, features=years))
    assert ids(ask(recommender, user_state(("i05",)), k=3)) == ["i00", "i01", "i02"]


def test_an_item_that_left_the_live_table_is_served_no_more(bundle):
    recommender = Recommender(bundle)
    recommender.table.replace(catalogue().take(np.arange(11)))
    assert "i11" not in ids(ask(recommender, user_state(("i00",))))


def test_an_item_table_with_other_features_is_refused_and_the_old_one_stays(bundle):
    recommender = Recommender(bundle)
    before = recommender.table()
    names = (*before.feature_names[:-1], "item_mood")
    with pytest.raises(BundleError, match="item_mood"):
        recommender.table.replace(replace(catalogue(), feature_names=names))
    assert recommender.table() is before


def test_statistics_of_another_feature_set_are_left_out_and_said(recommender):
    state = user_state(("i00",), seen=("i11",))
    state.stats = state.stats[:-1]
    answer = ask(recommender, state, k=2)
    assert answer.degraded == ["user_features"]
    assert "i11" not in ids(answer)


def test_explaining_tells_stages_removals_and_features(recommender):
    state = user_state(("i00",), seen=("i11",))
    answer = ask(recommender, state, k=2, explain=True, exclude=["i10"], context=GERMANY)
    trace = answer.trace
    assert [s["stage"] for s in trace["stages"]] == [
        "resolve", "two_tower", "item_to_item", "popular", "merge", "seen", "excluded", "eligible", "filters",
        "shortlist", "ranker", "present",
    ]  # fmt: skip
    assert trace["removed"] == {"seen": ["i11", "i00"], "excluded": ["i10"]} or trace["removed"] == {
        "seen": ["i00", "i11"], "excluded": ["i10"],
    }  # fmt: skip
    assert trace["features"]["i09"]["item_year"] == 2009
    assert len(trace["features"]["i09"]) == len(recommender.request_features.names)
    assert trace["source_scores"]["i09"].keys() == {"two_tower"}
    assert ask(recommender, state).trace is None


@pytest.mark.parametrize(
    ("query", "field"),
    [({"k": 101}, "k"), ({"cursor": "x"}, "cursor"), ({"filters": {"genres": ["Jazz"]}}, "filters.genres.0")],
)
def test_what_cannot_be_answered_names_its_field(recommender, query, field):
    with pytest.raises(InvalidRequest) as caught:
        ask(recommender, **query)
    assert caught.value.field == field


def test_the_ranker_is_given_no_more_candidates_than_configured(bundle):
    settings = RecommendSettings(bundle="latest", candidates=20, max_k=5)
    with pytest.raises(InvalidRequest, match="at most 5"):
        ask(Recommender(bundle, settings=settings), k=6)


def test_retrieved_candidates_ranked_apart_are_the_answer(recommender):
    query, state = Query(user_id="u1", context=GERMANY, explain=True), user_state(("i00",))
    candidates = recommender.retrieve(query, state, NOW_US)
    assert candidates.source_scores.shape == (len(candidates), 3)
    ranked = recommender.rank(query, candidates, state, NOW_US)
    assert [IDS[row] for row in ranked.row[:20]] == ids(recommender.recommend(query, state, NOW_US))


def test_a_model_without_a_ranker_answers_in_retrieval_order(bundle):
    recommender = Recommender(replace(open_film_model(bundle), bundle=None))
    answer = ask(recommender, user_state(("i00",)), k=4)
    assert (ids(answer), answer.served_by, answer.degraded) == (
        ["i02", "i01", "i04", "i06"], "retrieval", [],
    )  # fmt: skip
