"""Small worlds whose right answer is known, and a reporter that needs no Ray."""

import shutil
from pathlib import Path

import numpy as np

from training.config import TwoTowerSettings
from training.models.tower_data import tower_data
from training.models.two_tower import TwoTower
from training.models.two_tower_loop import train_two_tower

BLOCKS, PER_BLOCK = 4, 12


class FolderReporter:
    """Keeps the newest checkpoint in a folder, and raises after `stop_after` epochs to play a kill."""

    rank, world = 0, 1

    def __init__(self, folder: Path, stop_after: int | None = None):
        self.folder, self.stop_after, self.epochs, self.losses = folder, stop_after, [], []

    def resume(self):
        return self.folder if self.folder.exists() else None

    def wrap(self, model):
        return model

    def report(self, epoch, metrics, save):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        save(self.folder)
        self.epochs.append(epoch)
        self.losses.append(metrics["loss"])
        if epoch == self.stop_after:
            raise KeyboardInterrupt


def block_world(seed=0, users=400, taken=8, hidden_items=()):
    """Users take items of their own block only; an item's content says its block, but for noise.

    Item row i belongs to block i // PER_BLOCK. `hidden_items` are never taken. Returns the data and each user's
    block; a row's history is what the user took before.
    """
    rng = np.random.default_rng(seed)
    n_items = BLOCKS * PER_BLOCK
    content = np.repeat(np.eye(BLOCKS), PER_BLOCK, axis=0) * 50 + rng.normal(size=(n_items, BLOCKS))
    block = rng.integers(BLOCKS, size=users)
    user, history, item = [], [], []
    for own in block:
        allowed = [i for i in range(own * PER_BLOCK, (own + 1) * PER_BLOCK) if i not in hidden_items]
        took = rng.permutation(allowed)[:taken]
        for place in range(1, len(took)):
            user.append([place, 3.0, rng.normal()])
            history.append(np.concatenate([np.full(taken - place, -1), took[:place]]))
            item.append(took[place])
    data = tower_data(
        np.array(user, np.float32),
        np.array(history, np.int32),
        np.array(item, np.int32),
        rng.integers(1, 4, len(item)),
        np.column_stack([content, np.full(n_items, 7.0)]).astype(np.float32),
    )
    return data, block


def train(data, folder: Path, reporter=None, seed=5, **settings) -> TwoTower:
    """Trains without Ray and loads what the last checkpoint holds."""
    data.save(folder / "data")
    reporter = reporter or FolderReporter(folder / "checkpoint")
    chosen = TwoTowerSettings(**{"dimension": 16, "hidden": (32,), "epochs": 8, "batch_size": 128, **settings})
    config = {"data": str(folder / "data"), "settings": chosen.model_dump(), "seed": seed, "threads": 1}
    train_two_tower(config, reporter)
    return TwoTower.load(folder / "checkpoint" / "model")
