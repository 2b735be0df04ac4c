"""The neural ranker over Ray Data: every request of an epoch once, and in the same order the same losses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.config import NeuralRankerSettings
from training.jobs.neural_ranker import fit_neural_ranker
from training.jobs.ray_train import ray_session, run_training
from training.models import ranker_shards
from training.models.neural_ranker import NeuralRanker, train_neural_ranker, train_streamed_neural_ranker
from training.models.ranker import RankerRows, informative_groups
from training.models.ranker_shards import shard_files, write_shards

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SEED = 5
SETTINGS = NeuralRankerSettings(
    model="neural", hidden=(16,), epochs=3, batch_requests=16, learning_rate=0.02, streaming=True
)


@pytest.fixture(scope="module")
def ray_once():
    with ray_session():
        yield


def world(requests: int = 301) -> RankerRows:
    """The grade follows the first feature; every tenth request has one grade only and teaches nothing."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 9, requests).astype(np.int32)
    features = rng.normal(size=(int(sizes.sum()), 6)).astype(np.float32)
    grade = np.digitize(features[:, 0], [0.3, 1.2]).astype(np.int8)
    grade[np.repeat(np.arange(requests) % 10 == 0, sizes)] = 1
    return RankerRows(features, grade, sizes)


def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranker_shards, "SHARD_BYTES", 4000)


def record_epochs(shards: Path, folder: Path, workers: int) -> list[list[list[list[int]]]]:
    """The requests by epoch, worker and batch, as a loop on Ray Train reads them."""

    def loop(config: dict[str, Any], reporter: Any) -> None:
        for epoch in range(2):
            seen = [t["request"].to_pylist() for t in reporter.batches(16, SEED + epoch)]
            Path(config["out"], f"{epoch}-{reporter.rank}.json").write_text(json.dumps(seen))
            reporter.report(epoch + 1, {"loss": 0.0}, lambda folder: (folder / "done").touch())

    folder.mkdir()
    config = {"data": str(shards), "out": str(folder)}
    run_training(loop, config, "record", folder / "runs", workers, lambda line: None, shard_files(shards))
    return [[json.loads((folder / f"{e}-{w}.json").read_text()) for w in range(workers)] for e in range(2)]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_epoch_holds_every_teaching_request_once(ray_once, tmp_path, monkeypatch, workers):
    small_shards(monkeypatch)
    rows = world()
    write_shards(rows, tmp_path / "shards", SEED, workers)
    taught = np.flatnonzero(informative_groups(rows)).tolist()
    assert len(shard_files(tmp_path / "shards")) > 5

    epochs = record_epochs(tmp_path / "shards", tmp_path / "seen", workers)

    for by_worker in epochs:
        seen = [request for batches in by_worker for batch in batches for request in batch]
        assert set(seen) == set(taught)
        assert len(seen) == -(-len(taught) // workers) * workers
        assert len({tuple(map(len, batches)) for batches in by_worker}) == 1
    assert epochs[0] != epochs[1]


def test_shards_hold_the_rows_that_they_were_made_of(tmp_path, monkeypatch):
    small_shards(monkeypatch)
    rows = world()
    write_shards(rows, tmp_path / "shards", SEED, workers=1)
    for file in shard_files(tmp_path / "shards"):
        for row in pq.read_table(file).to_pylist():
            part = slice(*rows.group_starts[row["request"] : row["request"] + 2])
            assert row["grade"] == rows.grade[part].tolist()
            assert np.array(row["features"], np.float32).tobytes() == rows.features[part].tobytes()


class OrderedReporter:
    """Streams shards in a given order without Ray."""

    rank, world = 0, 1

    def __init__(self, shards: Path, orders: dict[int, list[list[int]]], folder: Path) -> None:
        table = pa.concat_tables([pq.read_table(file) for file in shard_files(shards)])
        self._table, self._orders, self._folder = table, orders, folder
        self._place = {request: row for row, request in enumerate(table["request"].to_pylist())}
        self.losses: list[float] = []

    def resume(self) -> None:
        return None

    def wrap(self, model: Any) -> Any:
        return model

    def batches(self, size: int, seed: int) -> Any:
        for batch in self._orders[seed]:
            yield self._table.take(pa.array([self._place[request] for request in batch]))

    def report(self, epoch: int, metrics: dict[str, float], save: Any) -> None:
        self.losses.append(metrics["loss"])
        (self._folder / str(epoch)).mkdir(parents=True)
        save(self._folder / str(epoch))


def test_the_same_order_gives_the_same_losses_streamed_and_in_memory(ray_once, tmp_path, monkeypatch):
    small_shards(monkeypatch)
    settings = SETTINGS.model_copy(update={"epochs": 2})
    world().save(tmp_path / "data")
    fit_neural_ranker(tmp_path / "data", settings, SEED, tmp_path / "runs", progress=lambda line: None)
    [progress] = (tmp_path / "runs").glob("neural_ranker-*/progress.jsonl")
    streamed = [json.loads(line)["loss"] for line in progress.read_text().splitlines()]

    [shards] = (tmp_path / "runs").glob("ranker_shards-*")
    epochs = record_epochs(shards, tmp_path / "seen", 1)
    orders = {SEED + epoch: by_worker[0] for epoch, by_worker in enumerate(epochs)}
    reporter = OrderedReporter(shards, orders, tmp_path / "memory")
    config = {"data": str(shards), "settings": settings.model_dump(mode="json"), "seed": SEED, "threads": 1}
    train_streamed_neural_ranker(config, reporter)

    assert reporter.losses == pytest.approx(streamed, rel=1e-6)

    again: list[str] = []
    fit_neural_ranker(tmp_path / "data", settings, SEED, tmp_path / "runs", progress=again.append)
    assert again == []


def test_another_order_of_the_same_requests_ends_at_nearly_the_same_loss(tmp_path, monkeypatch):
    small_shards(monkeypatch)
    rows, settings = world(), SETTINGS.model_copy(update={"epochs": 6})
    rows.save(tmp_path / "data")
    write_shards(rows, tmp_path / "shards", SEED, workers=1)
    shuffled = np.random.default_rng(0)
    taught = np.flatnonzero(informative_groups(rows))
    orders = {
        SEED + epoch: [part.tolist() for part in np.array_split(shuffled.permutation(taught), len(taught) // 16)]
        for epoch in range(6)
    }
    streamed = OrderedReporter(tmp_path / "shards", orders, tmp_path / "streamed")
    mapped = OrderedReporter(tmp_path / "shards", orders, tmp_path / "mapped")
    config = {"settings": settings.model_dump(mode="json"), "seed": SEED, "threads": 1}

    train_streamed_neural_ranker({**config, "data": str(tmp_path / "shards")}, streamed)
    train_neural_ranker({**config, "data": str(tmp_path / "data")}, mapped)

    assert streamed.losses[-1] == pytest.approx(mapped.losses[-1], rel=0.02)
    model = NeuralRanker.load(tmp_path / "streamed" / "6" / "model")
    assert np.corrcoef(model.score(rows.features), rows.features[:, 0])[0, 1] > 0.8
