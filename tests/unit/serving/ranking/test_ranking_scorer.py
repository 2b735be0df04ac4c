import numpy as np
import pytest
from serving_world import NOW_US, D, N, user_state, write_bundle

from serving.apps.recommend import Recommender
from serving.bundles.bundle import Bundle
from serving.core.query import Query
from serving.errors import BundleError, DependencyError
from serving.ranking.onnx import run_model
from serving.ranking.scorer import OnnxScorer, feature_problems


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return Bundle.load(write_bundle(tmp_path_factory.mktemp("bundles")))


@pytest.fixture(scope="module")
def recommender(bundle):
    return Recommender(bundle)


QUERY = Query(user_id="u1", context={"device": "tv", "country": "DE"})


def test_the_matrix_has_a_row_per_candidate_and_a_column_per_feature_in_order(recommender):
    rows = np.array([4, 0, 11], np.int32)
    matrix = recommender.features(QUERY, rows, user_state(("i00",)), NOW_US)
    names = recommender.request_features.names
    assert matrix.shape == (3, len(names))
    assert matrix.dtype == np.float32
    assert np.isfinite(matrix).all()
    assert matrix[:, names.index("item_year")].tolist() == [2004, 2000, 2011]
    assert matrix[:, names.index("context_device_tv")].tolist() == [1, 1, 1]
    assert matrix[:, names.index("user_age")].tolist() == [40, 40, 40]
    # the user's history is i00 and the tower returns it, pushed along the first axis
    assert matrix[1, names.index("affinity_two_tower")] == pytest.approx(1.0)


def test_each_row_is_what_it_would_be_alone(recommender):
    rows = np.arange(N, dtype=np.int32)
    state = user_state(("i00", "i03"))
    together = recommender.features(QUERY, rows, state, NOW_US)
    for row in rows:
        alone = recommender.features(QUERY, rows[row : row + 1], state, NOW_US)
        np.testing.assert_array_equal(alone[0], together[row])


def test_a_ranker_that_gives_what_is_not_finite_is_a_failed_dependency(tmp_path):
    recommender = Recommender(Bundle.load(write_bundle(tmp_path, broken_ranker=True)))
    state = user_state(("i00",))
    candidates = recommender.retrieve(QUERY, state, NOW_US)
    assert recommender.rank(QUERY, candidates, state, NOW_US).row[0] == 11
    elsewhere = Query(user_id="u1", context={"country": "US"})
    with pytest.raises(DependencyError, match="scores are not finite"):
        recommender.rank(elsewhere, candidates, state, NOW_US)


def test_a_model_for_other_features_is_refused_and_they_are_named(bundle, recommender):
    pair = bundle.manifest.features.pair
    lost = bundle.manifest.features.model_copy(update={"pair": pair[1:]})
    manifest = bundle.manifest.model_copy(update={"features": lost})
    with pytest.raises(BundleError, match="does not know the feature pair_genre_match_1d"):
        OnnxScorer(bundle.model_path("ranker"), manifest, recommender.request_features)


def test_every_difference_between_features_is_named():
    assert feature_problems(("a", "b"), ("a", "b")) == []
    assert feature_problems(("a", "b"), ("b", "a")) == ["wants a as feature 0, here it is b"]
    assert feature_problems(("a", "b"), ("a", "c")) == [
        "needs the feature b, which is not computed here",
        "does not know the feature c, which is computed here",
    ]


def test_a_wrong_input_is_a_bug_and_not_a_failed_dependency(bundle):
    from serving.bundles.onnx_models import open_session

    session = open_session(bundle.model_path("user_tower"))
    with pytest.raises(Exception, match="INVALID_ARGUMENT") as caught:
        run_model(session, {"user": np.zeros((1, 3), np.float32), "history": np.zeros((1, D + 1), np.float32)})
    assert not isinstance(caught.value, DependencyError)
