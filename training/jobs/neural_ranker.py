"""Trains the neural ranker on Ray Train."""

from collections.abc import Callable
from pathlib import Path

from training.config import NeuralRankerSettings
from training.jobs.ray_train import run_training
from training.models.neural_ranker import NeuralRanker, train_neural_ranker
from training.models.ranker import RankerRows


def fit_neural_ranker(
    data: Path,
    settings: NeuralRankerSettings,
    seed: int,
    storage: Path,
    workers: int = 1,
    progress: Callable[[str], None] = print,
) -> NeuralRanker:
    """Trains on the `RankerRows` saved in `data`; checkpoints live in `storage`.

    Resumes there after a kill, and returns at once what was already trained. See `run_training`.

    Raises:
        DataError: see `RankerRows.check`.
        DependencyError: training failed.
    """
    RankerRows.open(data).check()
    config = {"data": str(data.resolve()), "settings": settings.model_dump(mode="json"), "seed": seed}
    checkpoint = run_training(train_neural_ranker, config, "neural_ranker", storage, workers, progress)
    return NeuralRanker.load(checkpoint / "model")
