"""A series of two-towers gives each model what it would get alone, also after a stop in the middle."""

import numpy as np
import pytest
from tower_worlds import FolderReporter, block_world, train

from training.config import TwoTowerSettings
from training.models.two_tower import TwoTower
from training.models.two_tower_series import train_series

NAMES = ("early", "late")


@pytest.fixture
def worlds(tmp_path):
    found = {name: block_world(seed=place, users=40)[0] for place, name in enumerate(NAMES)}
    for name, data in found.items():
        data.save(tmp_path / "series" / name)
    return found


def run(tmp_path, reporter):
    settings = TwoTowerSettings(dimension=16, hidden=(32,), epochs=3, batch_size=128).model_dump()
    data = str(tmp_path / "series")
    train_series({"data": data, "names": list(NAMES), "settings": settings, "seed": 5, "threads": 1}, reporter)


def same_as_alone(tmp_path, worlds):
    for name, data in worlds.items():
        alone = train(data, tmp_path / f"alone-{name}", epochs=3).embed_items(data.item_features)
        found = TwoTower.load(tmp_path / "checkpoint" / name / "model").embed_items(data.item_features)
        np.testing.assert_allclose(found, alone, rtol=1e-3, atol=1e-4)


def test_each_model_of_a_series_is_what_it_would_be_alone(worlds, tmp_path):
    reporter = FolderReporter(tmp_path / "checkpoint")
    run(tmp_path, reporter)
    assert reporter.epochs == [1, 2, 3, 4, 5, 6]
    same_as_alone(tmp_path, worlds)


@pytest.mark.parametrize("stop_after", [2, 3, 5])
def test_a_series_continues_in_whichever_model_it_was_stopped(worlds, tmp_path, stop_after):
    stopped = FolderReporter(tmp_path / "checkpoint", stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stopped)
    resumed = FolderReporter(tmp_path / "checkpoint")
    run(tmp_path, resumed)
    assert resumed.epochs == list(range(stop_after + 1, 7))
    same_as_alone(tmp_path, worlds)
