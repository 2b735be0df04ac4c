"""Trains two-towers on Ray Train."""

from collections.abc import Callable, Sequence
from pathlib import Path

from training.config import TwoTowerSettings
from training.jobs.ray_train import run_training
from training.models.two_tower import TwoTower
from training.models.two_tower_series import train_series


def fit_two_towers(
    data: Path,
    names: Sequence[str],
    settings: TwoTowerSettings,
    seed: int,
    storage: Path,
    workers: int = 1,
    progress: Callable[[str], None] = print,
) -> dict[str, TwoTower]:
    """Trains one model on each `TowerData` saved in `data`/NAME, all in one Ray Train job.

    Checkpoints live in `storage`: it resumes there after a kill, and returns at once what was already trained. See
    `run_training`.

    Raises:
        DependencyError: training failed.
    """
    config = {
        "data": str(data.resolve()),
        "names": list(names),
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
    }
    checkpoint = run_training(train_series, config, "two_towers", storage, workers, progress)
    return {name: TwoTower.load(checkpoint / name / "model") for name in names}
