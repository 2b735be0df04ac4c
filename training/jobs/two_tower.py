"""Trains two-towers on Ray Train."""

from collections.abc import Callable, Sequence
from pathlib import Path

from training.config import TwoTowerSettings
from training.jobs.ray_train import run_training
from training.models.two_tower import TwoTower
from training.models.two_tower_loop import train_two_tower
from training.models.two_tower_series import train_series


def fit_two_tower(
    data: Path,
    settings: TwoTowerSettings,
    seed: int,
    storage: Path,
    workers: int = 1,
    progress: Callable[[str], None] = print,
) -> TwoTower:
    """Trains on the `TowerData` saved in `data`; checkpoints live in `storage`.

    Resumes there after a kill, and returns at once what was already trained. See `run_training`.

    Raises:
        DependencyError: training failed.
    """
    config = {"data": str(data.resolve()), "settings": settings.model_dump(mode="json"), "seed": seed}
    checkpoint = run_training(train_two_tower, config, "two_tower", storage, workers, progress)
    return TwoTower.load(checkpoint / "model")


def fit_two_towers(
    data: Path,
    names: Sequence[str],
    settings: TwoTowerSettings,
    seed: int,
    storage: Path,
    workers: int = 1,
    progress: Callable[[str], None] = print,
) -> dict[str, TwoTower]:
    """Trains one model on each `TowerData` saved in `data`/NAME, all in one Ray Train job; see `fit_two_tower`.

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
