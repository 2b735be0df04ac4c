"""Trains the neural ranker on Ray Train."""

from collections.abc import Callable
from pathlib import Path

from training.config import NeuralRankerSettings
from training.jobs.ray_train import run_name, run_training
from training.models.neural_ranker import NeuralRanker, train_neural_ranker, train_streamed_neural_ranker
from training.models.ranker import RankerRows
from training.models.ranker_shards import shard_files, write_shards


def fit_neural_ranker(
    data: Path,
    settings: NeuralRankerSettings,
    seed: int,
    storage: Path,
    workers: int = 1,
    progress: Callable[[str], None] = print,
) -> NeuralRanker:
    """Trains on the `RankerRows` saved in `data`; checkpoints live in `storage`.

    Resumes there after a kill, and returns at once what was already trained. See `run_training`. With
    `settings.streaming` the rows are written once more, as shards in `storage`, and streamed from there.

    Raises:
        DataError: see `RankerRows.check`.
        DependencyError: training failed.
    """
    rows = RankerRows.open(data)
    rows.check()
    config = {"data": str(data.resolve()), "settings": settings.model_dump(mode="json"), "seed": seed}
    if not settings.streaming:
        checkpoint = run_training(train_neural_ranker, config, "neural_ranker", storage, workers, progress)
        return NeuralRanker.load(checkpoint / "model")
    shards = storage.resolve() / run_name("ranker_shards", {"data": config["data"], "seed": seed}, workers)
    if not shards.exists():
        write_shards(rows, shards, seed, workers)
        progress(f"{len(shard_files(shards))} shards in {shards.name}")
    config["data"] = str(shards)
    checkpoint = run_training(
        train_streamed_neural_ranker, config, "neural_ranker", storage, workers, progress, shard_files(shards)
    )
    return NeuralRanker.load(checkpoint / "model")
