"""`sieve precompute`: every known user gets a list, a second run leaves them alone, and they are served."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundle_fixture import build_tiny_bundle

from serving.apps.recommend import Recommender
from serving.bundles.bundle import Bundle
from serving.config import load_config
from serving.core.query import Query
from serving.features.lists import open_lists
from serving.features.online import open_reader
from serving.features.online_users import user_ids
from training.features.materialize import materialize
from training.features.repository import apply_definitions

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from feature_world import WorldSize, make_world

SIEVE = Path(sys.executable).with_name("sieve")
APP = "recommend"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A configuration file with a bundle and a filled online store."""
    folder = tmp_path_factory.mktemp("house")
    file = folder / "sieve.yaml"
    file.write_text(json.dumps({"root": "data", "online_store": {"type": "sqlite", "path": "online.db"}}))
    config = load_config(file)
    build_tiny_bundle(config.bundles)
    apply_definitions(config)
    materialize(config, make_world(WorldSize(users=40, items=50, days=6)))
    shutil.rmtree(config.item_tables)  # of another catalogue than the bundle's
    return file


def precompute(file, *options, typed=None):
    command = [str(SIEVE), "-c", str(file), "precompute", APP, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, input=typed, check=False)


def test_every_known_user_gets_a_list_and_a_resumed_run_leaves_it_alone(house):
    done = precompute(house)
    assert done.returncode == 0, done.stderr
    config = load_config(house)
    lists, users = open_lists(config.online_store), list(user_ids(config.online_store))
    stored = {user: found for user in users if (found := lists.read(APP, user))}
    assert len(stored) > 20
    assert done.stdout.startswith(f"{len(stored)} lists written")
    assert f"{len(users) - len(stored)} users have none" in done.stdout
    assert all(len(each.items) == 100 for each in stored.values())
    again = precompute(house, "--resume")
    assert again.stdout.startswith("0 lists written in ")
    assert f"{len(stored)} were there" in again.stdout
    assert {user: lists.read(APP, user).computed_at_us for user in stored} == {
        user: each.computed_at_us for user, each in stored.items()
    }


def test_a_stored_list_is_what_the_ranker_says_and_what_batch_mode_serves(house):
    assert precompute(house).returncode == 0
    config = load_config(house)
    lists = open_lists(config.online_store)
    user = next(iter(user_ids(config.online_store)))
    bundle = Bundle.load(next((config.bundles / APP).glob("2*")))
    batch = config.recommend.model_copy(update={"mode": "batch"})
    live = Recommender(bundle, open_reader(config.online_store)).recommend(Query(user_id=user, k=20))
    stored = Recommender(bundle, open_reader(config.online_store), settings=batch, lists=lists)
    served = stored.recommend(Query(user_id=user, k=20))
    assert (live.served_by, served.served_by) == ("ranker", "precomputed")
    assert [item.id for item in served.items] == [item.id for item in live.items]


def test_a_file_of_users_is_enough_and_one_that_nobody_knows_gets_none(house, tmp_path):
    user = next(iter(user_ids(load_config(house).online_store)))
    done = precompute(house, "--users", "-", typed=f"{user}\nnobody\n")
    assert done.stdout.startswith("1 lists written")
    assert "1 users have none" in done.stdout
    missing = precompute(house, "--users", str(tmp_path / "none.txt"))
    assert missing.returncode == 2
    assert "none.txt" in missing.stderr


def test_a_store_that_is_down_ends_the_command_and_says_so(house, tmp_path):
    config = tmp_path / "sieve.yaml"
    store = {"type": "sqlite", "path": str(tmp_path / "missing.db")}
    config.write_text(json.dumps({"root": str(house.parent / "data"), "online_store": store}))
    done = precompute(config)
    assert done.returncode == 1
    assert "missing.db" in done.stderr
    assert "Traceback" not in done.stderr
