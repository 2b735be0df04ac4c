"""The ONNX ranker over a real bundle, with both kinds of model."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_fixture import DIMENSION, ITEMS, RANKER_WEIGHTS, build_tiny_bundle

from serving.apps.film_model import film_parts, open_film_model
from serving.bundles import onnx_models
from serving.bundles.bundle import Bundle
from serving.bundles.manifest import TensorEntry
from serving.bundles.onnx_models import open_session
from serving.bundles.parts import FilmParts
from serving.core.candidates import found
from serving.core.query import Query
from serving.core.request import Request
from serving.errors import BundleError, DependencyError
from serving.features.item_table import NO_INDEX, ItemTable
from serving.ranking.onnx import run_model
from serving.ranking.scorer import OnnxScorer, feature_problems

NEWER = 5
ROWS = np.array([4, 0, 11, 149, 87, ITEMS + 2], np.int32)


def is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)


class Items:
    """The bundle's items and a few newer ones, each the copy of one of the first."""

    def __init__(self, bundle: Bundle) -> None:
        rows = np.concatenate([np.arange(ITEMS), np.arange(NEWER)])
        ids = np.array([f"i{i:07}".encode() for i in range(len(rows))])
        columns = {name: column[rows] for name, column in vars(bundle.catalogue).items() if is_array(column)}
        self.table = replace(bundle.catalogue, **{**columns, "ids": ids, "index": NO_INDEX})
        self._vectors = np.asarray(bundle.item_embeddings)[rows]

    def __call__(self) -> ItemTable:
        return self.table

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        return self._vectors[rows]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, FilmParts]:
    """By whether the ranker takes what candidates share apart."""
    made = {}
    for split in (False, True):
        bundle = Bundle.load(build_tiny_bundle(tmp_path_factory.mktemp("store"), split_ranker=split))
        made[split] = film_parts(open_film_model(bundle), Items(bundle))
    return made


def request_of(parts: FilmParts, explain: bool = False, seed: int = 1) -> Request:
    rng = np.random.default_rng(seed)
    features = parts.feature_set()
    embedding = rng.standard_normal(DIMENSION).astype(np.float32)
    return Request(
        query=Query(user_id="u1", explain=explain),
        now_us=0,
        user=rng.random(len(features.user), dtype=np.float32),
        has_statistics=True,
        context=rng.random(len(features.context), dtype=np.float32),
        history=np.array([7, 140, 3], np.int32),
        seen=np.empty(0, np.int32),
        excluded=np.empty(0, np.int32),
        age_years=None,
        segment=0,
        fetch=10,
        embed=lambda _: embedding,
    )


def scorer(parts: FilmParts, **settings: object) -> OnnxScorer:
    return OnnxScorer(parts, OnnxScorer.Settings.model_validate(settings))


@pytest.mark.parametrize("split", [False, True])
def test_scores_are_the_models_of_each_candidates_features(parts: dict[bool, FilmParts], split: bool) -> None:
    request = request_of(parts[split], explain=True)
    scored = scorer(parts[split]).score(request, found(ROWS, np.zeros(len(ROWS), np.float32)))

    assert scored.features is not None
    assert scored.features.tobytes() == parts[split].features.matrix(request, ROWS).tobytes()
    names = parts[split].features.names
    by_hand = sum(weight * scored.features[:, names.index(name)] for name, weight in RANKER_WEIGHTS.items())
    np.testing.assert_allclose(scored.score, by_hand, rtol=1e-5)
    assert len(set(scored.score.tolist())) == len(ROWS)


def test_both_kinds_of_ranker_give_the_same_scores(parts: dict[bool, FilmParts]) -> None:
    candidates = found(ROWS, np.zeros(len(ROWS), np.float32))
    whole, split = (scorer(parts[kind]).score(request_of(parts[kind]), candidates) for kind in (False, True))

    np.testing.assert_allclose(split.score, whole.score, rtol=1e-5)
    assert whole.features is None
    assert split.features is None


def test_an_explanation_outlives_the_next_request(parts: dict[bool, FilmParts]) -> None:
    ranker, candidates = scorer(parts[True]), found(ROWS, np.zeros(len(ROWS), np.float32))
    first = ranker.score(request_of(parts[True], explain=True), candidates).features
    assert first is not None
    before = first.copy()

    ranker.score(request_of(parts[True], explain=True, seed=2), candidates)

    assert first.tobytes() == before.tobytes()


def test_items_that_are_newer_than_the_bundle_have_features_too(parts: dict[bool, FilmParts]) -> None:
    request = request_of(parts[True])
    names = parts[True].features.names
    old, new = parts[True].features.matrix(request, np.array([2, ITEMS + 2], np.int32))

    differing = {names[i] for i in np.flatnonzero(old != new)}
    # a copy of film 2 in all but what other films' neighbour lists say of it
    assert all(name.startswith("affinity_cowatch") for name in differing)
    assert new[names.index("affinity_cast_known")] == old[names.index("affinity_cast_known")]


def test_a_request_whose_embedding_failed_is_ranked_without_it(parts: dict[bool, FilmParts]) -> None:
    def fail(_: Request) -> np.ndarray:
        raise DependencyError("the user tower failed")

    request = replace(request_of(parts[True]), embed=fail)
    features = parts[True].features.matrix(request, ROWS)

    assert not features[:, parts[True].features.names.index("affinity_two_tower")].any()


def test_missing_item_values_are_counted(parts: dict[bool, FilmParts]) -> None:
    split = parts[True].features.split(request_of(parts[True]), ROWS)

    assert split.missing == np.isnan(parts[True].table().features[ROWS]).sum() > 0
    assert np.isfinite(split.candidate).all()


@pytest.mark.parametrize("split", [False, True])
def test_a_model_for_other_features_is_refused_and_they_are_named(parts: dict[bool, FilmParts], split: bool) -> None:
    bundle = parts[split].bundle
    assert bundle is not None
    lost = bundle.manifest.features.model_copy(update={"pair": bundle.manifest.features.pair[1:]})
    other = replace(bundle, manifest=bundle.manifest.model_copy(update={"features": lost}))

    with pytest.raises(BundleError, match="does not know the feature pair_genre_match_1d") as caught:
        scorer(replace(parts[split], bundle=other))
    assert len(caught.value.problems) > 1


def test_inputs_of_neither_kind_are_refused(parts: dict[bool, FilmParts]) -> None:
    bundle = parts[False].bundle
    assert bundle is not None
    entry = bundle.manifest.models["ranker"]
    odd = entry.model_copy(update={"inputs": (*entry.inputs, TensorEntry(name="weather", shape=(None, 1)))})
    manifest = bundle.manifest.model_copy(update={"models": {**bundle.manifest.models, "ranker": odd}})

    with pytest.raises(BundleError, match="takes features, weather: a ranker takes features, or request and cand"):
        scorer(replace(parts[False], bundle=replace(bundle, manifest=manifest)))


def test_a_model_that_is_not_there_and_parts_without_a_bundle_are_refused(parts: dict[bool, FilmParts]) -> None:
    with pytest.raises(BundleError, match="has no model better"):
        scorer(parts[False], model="better")
    with pytest.raises(BundleError, match="has no models"):
        scorer(replace(parts[False], bundle=None))


def test_a_gpu_that_is_not_there_is_warned_of_once_and_the_cpu_ranks(
    parts: dict[bool, FilmParts], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    onnx_models._warn_of_cpu.cache_clear()
    candidates = found(ROWS, np.zeros(len(ROWS), np.float32))
    with caplog.at_level(logging.WARNING):
        on_cuda = [scorer(parts[True], device="cuda") for _ in range(2)]

    assert [record.message for record in caplog.records] == [
        "models run on the CPU instead of the GPU: this onnxruntime has no CUDA provider"
    ]
    request = request_of(parts[True])
    expected = scorer(parts[True]).score(request, candidates).score
    assert on_cuda[0].score(request, candidates).score.tobytes() == expected.tobytes()


def test_every_difference_between_features_is_named() -> None:
    assert feature_problems(("a", "b"), ("a", "b")) == []
    assert feature_problems(("a", "b"), ("b", "a")) == ["wants a as feature 0, here it is b"]
    assert feature_problems(("a", "b"), ("a", "c")) == [
        "needs the feature b, which is not computed here",
        "does not know the feature c, which is computed here",
    ]


def test_a_wrong_input_is_a_bug_and_not_a_failed_dependency(parts: dict[bool, FilmParts]) -> None:
    bundle = parts[False].bundle
    assert bundle is not None
    session = open_session(Path(bundle.model_path("user_tower")))
    wrong = {"user": np.zeros((1, 3), np.float32), "history": np.zeros((1, DIMENSION + 1), np.float32)}
    with pytest.raises(Exception, match="INVALID_ARGUMENT") as caught:
        run_model(session, wrong)
    assert not isinstance(caught.value, DependencyError)
