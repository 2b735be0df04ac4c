"""Lists as served, in the run's rows, whatever rows the bundle that answers has."""

import sys
from pathlib import Path

import numpy as np
import pytest
from serving_world import IDS, VOCABULARY, write_bundle

sys.path.insert(0, str(Path(__file__).parents[1] / "features"))

from film_log import FilmLog, at, time_us

from serving.apps.recommend import Part, Recommender
from serving.bundles.bundle import Bundle
from serving.config import SieveConfig
from serving.features.spec import film_features
from training.config import EvaluationSettings
from training.evaluate.as_served import LIST_LENGTH, SERVED, Holdout, answer_all, measure, summarise
from training.features.replay import Replay
from training.features.snapshots import build_snapshots
from training.jobs.ranker_rows import Request

# The bundle's films are i00 to i11, ranked newest first by its ranker. The run knows x98 and x99 besides and lacks
# all but five of them.
RUN_ITEMS = ["i11", "x99", "i02", "i05", "i03", "x98", "i08"]
RUN_USERS = ["ana", "bo"]


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender(Bundle.load(write_bundle(tmp_path_factory.mktemp("bundles"))))


def film_log(unavailable: str = "") -> FilmLog:
    log = FilmLog()
    log.user("ana", country="US", birth_year=1980)
    log.user("bo", country="US", birth_year=1980)
    for item in RUN_ITEMS:
        number = int(item[1:])
        known = at(2) if item == unavailable else at(-20)
        log.item(item, known, year=2000 + number, maturity=0, genres=["Action" if number % 2 == 0 else "Comedy"])
    log.event("ana", "i08", "play", at(-1), 900)
    log.event("bo", "i02", "play", at(-1), 900)
    log.event("bo", "i02", "list_add", at(3))
    return log


def replay_of(log: FilmLog, folder: Path) -> Replay:
    config, connection = SieveConfig(root=folder, vocabulary=VOCABULARY), log.connect()
    build_snapshots(connection, config.feature_store, film_features(VOCABULARY), config.features, time_us(at(4)))
    return Replay(connection, config, np.array(RUN_USERS, "S"), np.array(RUN_ITEMS, "S"))


def holdout(*requests: tuple[int, float, list[str]]) -> Holdout:
    """One request for each (user, day, films taken with grade 1)."""
    made = []
    for user, day, wanted in requests:
        rows = np.array([RUN_ITEMS.index(item) for item in wanted], np.int32)
        made.append(Request(user, time_us(at(day)), "tv", "US", rows, np.ones(len(rows), np.int8)))
    users = np.array([user for user, _, _ in requests])
    prior = np.bincount([RUN_ITEMS.index("i08"), RUN_ITEMS.index("i02")], minlength=len(RUN_ITEMS))
    return Holdout(made, prior, np.ones(len(users), np.int64), np.zeros(len(users), np.int16))


def listed(rows: np.ndarray) -> list[str]:
    return [RUN_ITEMS[row] for row in rows[rows >= 0]]


def test_lists_name_the_runs_rows_whatever_the_bundles_order_is(recommender: Recommender, tmp_path: Path) -> None:
    lists = answer_all(
        recommender,
        replay_of(film_log(), tmp_path),
        holdout((0, 1, ["i05"]), (1, 1.5, ["i11", "x99"])),
        {SERVED: None, "popular": Part.POPULAR},
    )
    assert lists[SERVED].shape == (2, LIST_LENGTH)
    assert listed(lists[SERVED][0]) == ["x99", "x98", "i11", "i05", "i03", "i02"]
    assert listed(lists[SERVED][1]) == ["x99", "x98", "i11", "i08", "i05", "i03"]
    assert listed(lists["popular"][0]) == ["i02", "i03", "i05"]
    assert (lists[SERVED][:, 6:] == -1).all()


def test_each_request_is_answered_with_the_films_of_its_own_time(recommender: Recommender, tmp_path: Path) -> None:
    asked = holdout((0, 1, ["i05"]), (0, 3.5, ["i05"]))
    lists = answer_all(recommender, replay_of(film_log(unavailable="i11"), tmp_path), asked, {SERVED: None})
    newer = ["x99", "x98"]
    assert [listed(row) for row in lists[SERVED]] == [
        [*newer, "i05", "i03", "i02"],
        [*newer, "i11", "i05", "i03", "i02"],
    ]


def test_films_newer_than_the_bundle_count_where_it_finds_them_and_where_it_misses_them(
    recommender: Recommender, tmp_path: Path
) -> None:
    asked = holdout((0, 1, ["x98"]), (1, 1.5, ["x99", "i02"]))  # bo has seen i02
    lists = answer_all(recommender, replay_of(film_log(), tmp_path), asked, {SERVED: None})
    found = measure(lists[SERVED], asked, asked.relevant)
    assert found["recall@50"].tolist() == [1.0, 0.5]
    assert found["hit_rate@10"].tolist() == [1.0, 1.0]
    best = 1 + 1 / np.log2(3)
    assert found["ndcg@20"].tolist() == pytest.approx([1 / np.log2(3), 1 / best])


def test_the_summary_has_every_part_and_the_slices_that_have_users(recommender: Recommender, tmp_path: Path) -> None:
    asked = holdout((0, 1, ["i11"]), (1, 1.5, ["i02", "x99"]))
    parts = {SERVED: None, "popular": Part.POPULAR}
    lists = answer_all(recommender, replay_of(film_log(), tmp_path), asked, parts)
    measured = {part: measure(found, asked, asked.relevant) for part, found in lists.items()}
    settings = EvaluationSettings(max_users=10, bootstrap_samples=100)
    summary = summarise(measured, lists, asked, VOCABULARY.countries, settings, seed=1)
    assert summary["users"] == 2
    assert set(summary["parts"]) == set(parts)
    served = summary["parts"][SERVED]
    assert served["recall@50"]["mean"] == 0.75
    assert served["coverage@20"]["mean"] == 1  # together the two lists hold every film of the run
    assert summary["slices"]["country US"]["users"] == 2
    assert "country DE" not in summary["slices"]
    assert len(IDS) > len(RUN_ITEMS)
