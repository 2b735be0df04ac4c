"""Bundles side by side: a newer one takes over without a failed request, and the older one is let go."""

import gc
import threading
import weakref
from datetime import UTC, datetime

import pytest
from serving_world import NOW_US, user_state, write_bundle

from serving.apps.recommend import Recommender
from serving.apps.service import RecommendService
from serving.apps.versions import Versions
from serving.bundles.bundle import Bundle
from serving.bundles.store import BundleStore
from serving.config import SieveConfig
from serving.core.query import Query
from serving.errors import BundleError


@pytest.fixture
def config(tmp_path):
    return SieveConfig.model_validate(
        {"root": tmp_path, "online_store": {"type": "sqlite", "path": tmp_path / "online.db"}}
    )


def newer(config, year):
    """Publishes a bundle that was made in this year."""
    return write_bundle(config.bundles, created_at=datetime(year, 1, 1, tzinfo=UTC)).name


def versions_of(config):
    store = BundleStore(config.bundles)
    return Versions(lambda version: Recommender(Bundle.load(store.path("recommend", version))))


def test_versions_are_held_beside_the_one_in_force(config):
    first, second = newer(config, 1990), newer(config, 1991)
    versions = versions_of(config)
    assert versions.in_force is None
    versions.hold(first)
    versions.put_in_force(first)
    held = versions.hold(second)
    assert versions.hold(second) is held
    assert set(versions.held) == {first, second}
    assert versions.in_force.model.name == f"recommend/{first}"


def test_what_is_not_held_cannot_be_put_in_force(config):
    with pytest.raises(KeyError):
        versions_of(config).put_in_force("20260101T000000Z-000000000000")


def test_the_version_in_force_cannot_be_let_go(config):
    versions = versions_of(config)
    only = newer(config, 1990)
    versions.hold(only)
    versions.put_in_force(only)
    with pytest.raises(ValueError, match="in force"):
        versions.drop(only)


def test_a_version_lives_until_its_last_request_is_done(config):
    first, second = newer(config, 1990), newer(config, 1991)
    versions = versions_of(config)
    for version in (first, second):
        versions.hold(version)
    versions.put_in_force(first)
    answering = versions.in_force
    versions.put_in_force(second)
    versions.drop(first)
    gone = weakref.ref(answering)
    assert answering.recommend(Query(user_id="u1"), user_state(("i00",)), NOW_US).bundle == f"recommend/{first}"
    del answering
    gc.collect()
    assert gone() is None


def test_a_newer_bundle_takes_over_and_no_request_fails_meanwhile(config):
    newer(config, 1990)
    service = RecommendService(config)
    service.step()
    answers, failures, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                answers.append(service.application.recommend(Query(user_id="u1"), user_state(("i00",)), NOW_US).bundle)
            except Exception as error:  # noqa: BLE001, whatever it is, it fails the test
                failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        second = newer(config, 1991)
        before = service.bundle
        service.step()
    finally:
        stop.set()
        asking.join()
    assert failures == []
    answers.append(service.application.recommend(Query(user_id="u1"), user_state(("i00",)), NOW_US).bundle)
    assert service.bundle == f"recommend/{second}" == answers[-1]
    assert set(answers) <= {before, service.bundle}
    assert service.versions.held == (second,)


def test_a_damaged_newer_bundle_leaves_the_one_in_force_and_is_read_once(config):
    newer(config, 1990)
    service = RecommendService(config)
    service.step()
    in_force = service.application
    damaged = newer(config, 1991)
    path = config.bundles / "recommend" / damaged / "lists" / "rows.npy"
    path.write_bytes(path.read_bytes()[:-1])
    service.step()
    assert service.application is in_force
    assert "lists/rows.npy" in service.reason
    reads = []
    service.versions._load = reads.append
    service.step()
    assert reads == []
    assert service.application is in_force


def test_a_version_that_is_named_stays_when_a_newer_one_appears(config):
    first = newer(config, 1990)
    pinned = config.model_copy(update={"recommend": config.recommend.model_copy(update={"bundle": first})})
    service = RecommendService(pinned)
    service.step()
    newer(config, 1991)
    service.step()
    assert service.bundle == f"recommend/{first}"


def test_a_version_that_cannot_be_opened_is_not_held(config):
    only = newer(config, 1990)
    versions = versions_of(config)
    (config.bundles / "recommend" / only / "models" / "ranker.onnx").unlink()
    with pytest.raises(BundleError):
        versions.hold(only)
    assert versions.held == ()
