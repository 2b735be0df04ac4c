"""Ray Train: one and two workers, resuming after a kill, and what makes a checkpoint fit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from serving.errors import DependencyError
from training.config import NeuralRankerSettings, TwoTowerSettings
from training.jobs.neural_ranker import fit_neural_ranker
from training.jobs.ray_train import ray_session, run_name
from training.jobs.two_tower import fit_two_towers
from training.models.ranker import RankerRows
from training.models.tower_data import tower_data

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SETTINGS = TwoTowerSettings(dimension=8, hidden=(16,), epochs=6, batch_size=64, learning_rate=1e-2)
N_ITEMS = 20
NAME = "t1"


@pytest.fixture(scope="module")
def ray_once():
    with ray_session():
        yield


@pytest.fixture
def data(tmp_path):
    """Even items go with even items, odd ones with odd ones."""
    rng = np.random.default_rng(0)
    parity = rng.integers(2, size=2000)
    history = rng.integers(N_ITEMS // 2, size=(2000, 4)) * 2 + parity[:, None]
    item = rng.integers(N_ITEMS // 2, size=2000) * 2 + parity
    features = rng.normal(size=(2000, 3)).astype(np.float32)
    folder = tmp_path / "data"
    items = rng.normal(size=(N_ITEMS, 2)).astype(np.float32)
    tower_data(features, history, item, np.ones(2000, int), items).save(folder / NAME)
    return folder


def fit(data: Path, settings: TwoTowerSettings, storage: Path, workers: int = 1, progress=lambda line: None):
    return fit_two_towers(data, [NAME], settings, 1, storage, workers, progress)[NAME]


def own_parity_share(model, data):
    history = np.arange(N_ITEMS)[:, None]
    users = model.embed_users(np.zeros((N_ITEMS, 3), np.float32), history)
    scores = users @ model.embed_items(np.load(data / NAME / "item_features.npy")).T
    best = np.argsort(-scores, axis=1)[:, : N_ITEMS // 2]
    return np.mean(best % 2 == np.arange(N_ITEMS)[:, None] % 2)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_learn_together_and_say_how_it_goes(ray_once, data, tmp_path, workers):
    lines = []
    model = fit(data, SETTINGS, tmp_path / "runs", workers, lines.append)
    assert own_parity_share(model, data) > 0.9
    assert [line.split(",")[0] for line in lines] == [f"two_towers: epoch {n}" for n in range(1, 7)]


def test_the_neural_ranker_trains_on_ray_too(ray_once, tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 3)).astype(np.float32)
    grade = np.digitize(features[:, 0], [0.5, 1.5]).astype(np.int8)
    RankerRows(features, grade, np.full(60, 10, np.int32)).save(tmp_path / "data")
    settings = NeuralRankerSettings(model="neural", hidden=(8,), epochs=5, batch_requests=8, learning_rate=0.02)
    model = fit_neural_ranker(tmp_path / "data", settings, 1, tmp_path / "runs", progress=lambda line: None)
    assert np.corrcoef(model.score(features), features[:, 0])[0, 1] > 0.9


def test_a_worker_that_fails_is_reported_with_its_own_words(ray_once, data, tmp_path):
    settings = SETTINGS.model_copy(update={"temperature": -1.0})
    with pytest.raises(DependencyError, match="temperature"):
        fit(data, settings, tmp_path / "runs")


DRIVER = """
import sys
from pathlib import Path
from training.config import TwoTowerSettings
from training.jobs.two_tower import fit_two_towers

data, storage, settings = sys.argv[1:]
settings = TwoTowerSettings.model_validate_json(settings)
fit_two_towers(Path(data), ["t1"], settings, 1, Path(storage), progress=lambda line: print(line, flush=True))
print("complete", flush=True)
"""


def driver(data: Path, storage: Path, settings: TwoTowerSettings) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, str(data), str(storage), settings.model_dump_json()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_killed_run_continues_at_its_last_checkpoint(data, tmp_path):
    """No worker of the killed run may go on beside the new one. (Ray's idle agents take a minute to notice.)"""
    settings, storage = SETTINGS.model_copy(update={"epochs": 30}), tmp_path / "runs"
    process = driver(data, storage, settings)
    lines = iter(process.stdout.readline, "")
    killed_at = next(line for line in lines if "epoch 3," in line)
    family = [p for p in psutil.Process(process.pid).children(recursive=True) if "Agent" not in p.name()]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert killed_at
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    (progress,) = storage.glob("two_towers-*/progress.jsonl")
    done_before = epochs(progress)

    again = driver(data, storage, settings)
    output, _ = again.communicate(timeout=500)
    assert again.returncode == 0
    assert output.splitlines()[-1] == "complete"
    done = epochs(progress)
    assert done[len(done_before)] >= max(done_before) - 1
    assert max(done_before) >= 3
    assert done[-1] == 30
    assert done[len(done_before)] > 1

    lines = []
    fit(data, settings, storage, progress=lines.append)
    assert lines == []


def epochs(progress: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in progress.read_text().splitlines()]


def test_other_settings_other_workers_or_rewritten_data_are_another_run(data):
    config = {"data": str(data), "settings": {"epochs": 3}, "seed": 1}
    name = run_name("two_tower", config, 1)
    assert run_name("two_tower", json.loads(json.dumps(config)), 1) == name
    others = {run_name("two_tower", {**config, "seed": 2}, 1), run_name("two_tower", config, 2)}
    os.utime(data / NAME / "item.npy", ns=(0, 0))
    others.add(run_name("two_tower", config, 1))
    assert len(others - {name}) == 3
