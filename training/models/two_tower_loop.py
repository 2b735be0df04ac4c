"""The two-tower's training loop: one function that runs in every worker, on Ray Train or without it."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.config import TwoTowerSettings
from training.models.reporter import Reporter
from training.models.tower_data import TowerData
from training.models.two_tower import TwoTower, new_model, sampled_softmax_loss
from training.models.weights import (
    load_arrays,
    load_module,
    load_optimizer,
    module_arrays,
    optimizer_arrays,
    save_arrays,
)

GRADE_WEIGHTS = (0.0, 1.0, 1.5, 2.0)
"""How much a positive counts in the loss by its grade: a completion twice as much as a short play."""


@dataclass(frozen=True)
class Batch:
    """Tensors of one step: B positives and the U distinct items among them."""

    user: Tensor
    history: Tensor
    weight: Tensor
    item: Tensor
    item_features: Tensor
    log_q: Tensor
    positive: Tensor
    excluded: Tensor


def train_two_tower(config: dict[str, Any], reporter: Reporter) -> None:
    """Trains from `config` {data, settings, seed, threads} and reports a checkpoint for each epoch.

    The checkpoint's `model` folder is what `TwoTower.load` reads. Every worker shuffles all rows in the same
    order and takes each world-th of them, so that all make equally many steps and negatives change by epoch.
    """
    torch.set_num_threads(config["threads"])
    settings = TwoTowerSettings.model_validate(config["settings"])
    data, seed = TowerData.open(Path(config["data"])), config["seed"]
    model = new_model(data, settings.dimension, settings.hidden, seed)
    optimizers = _optimizers(model, settings.learning_rate)
    done = _restore(reporter.resume(), model, optimizers)
    wrapped = reporter.wrap(model)
    for epoch in range(done, settings.epochs):
        started = time.monotonic()
        rows = epoch_rows(len(data.item), seed, epoch, reporter.rank, reporter.world)
        loss = _train_epoch(wrapped, optimizers, data, rows, settings, (seed, epoch, reporter.rank))
        seconds = time.monotonic() - started
        metrics = {"loss": loss, "seconds": seconds, "rows_per_s": len(rows) * reporter.world / seconds}
        reporter.report(epoch + 1, metrics, partial(_save, epoch=epoch + 1, model=model, optimizers=optimizers))


def epoch_rows(n_rows: int, seed: int, epoch: int, rank: int, world: int) -> NDArray[np.int64]:
    """One worker's rows of one epoch, shuffled; every worker gets `n_rows // world` of them, at least one."""
    order = np.random.default_rng((seed, epoch)).permutation(n_rows)
    return np.resize(order[rank % n_rows :: world], max(n_rows // world, 1))


def make_batch(data: TowerData, rows: NDArray[np.int64]) -> Batch:
    """Gathers the positives `rows`; `excluded` marks the items of each row's own history."""
    item, positive = np.unique(data.item[rows], return_inverse=True)
    history = np.asarray(data.history[rows], dtype=np.int64)
    column = np.full(len(data.item_features) + 1, -1)
    column[item] = np.arange(len(item))
    place = column[history]
    excluded = np.zeros((len(rows), len(item)), bool)
    row, slot = np.nonzero(place >= 0)
    excluded[row, place[row, slot]] = True
    return Batch(
        user=torch.from_numpy(data.user[rows]),
        history=torch.from_numpy(history),
        weight=torch.tensor(GRADE_WEIGHTS)[torch.from_numpy(data.grade[rows].astype(np.int64))],
        item=torch.from_numpy(item.astype(np.int64)),
        item_features=torch.from_numpy(data.item_features[item]),
        log_q=torch.from_numpy(data.log_q[item]),
        positive=torch.from_numpy(positive.astype(np.int64)),
        excluded=torch.from_numpy(excluded),
    )


def _train_epoch(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    data: TowerData,
    rows: NDArray[np.int64],
    settings: TwoTowerSettings,
    key: tuple[int, int, int],
) -> float:
    rng, epoch = np.random.default_rng(key), key[1]
    steps = math.ceil(len(rows) / settings.batch_size)
    total = 0.0
    for step, batch in enumerate(_batches(data, rows, settings.batch_size)):
        share_left = 1.0 - (epoch * steps + step) / (settings.epochs * steps)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = settings.learning_rate * share_left
            optimizer.zero_grad(set_to_none=True)
        hidden = torch.from_numpy(rng.random(len(batch.item)) < settings.id_dropout)
        users, items = model(batch.user, batch.history, batch.item_features, batch.item, hidden)
        scores = users @ items.T / settings.temperature
        loss = sampled_softmax_loss(scores, batch.positive, batch.log_q, len(batch.user), batch.excluded, batch.weight)
        torch.autograd.backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        total += loss.item()
    return total / steps


def _batches(data: TowerData, rows: NDArray[np.int64], size: int) -> Iterator[Batch]:
    for start in range(0, len(rows), size):
        yield make_batch(data, rows[start : start + size])


def _optimizers(model: TwoTower, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Adam, and a sparse one for the id table where its gradient is sparse."""
    table = model.ids.weight
    if not model.ids.sparse:
        return [torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)]
    rest = [parameter for parameter in model.parameters() if parameter is not table]
    return [
        torch.optim.Adam(rest, lr=learning_rate, fused=True),
        torch.optim.SparseAdam([table], lr=learning_rate),
    ]


def _save(folder: Path, epoch: int, model: TwoTower, optimizers: list[torch.optim.Optimizer]) -> None:
    model.save(folder / "model")
    for index, optimizer in enumerate(optimizers):
        save_arrays(folder / f"optimizer{index}.npz", optimizer_arrays(optimizer))
    (folder / "epoch").write_text(str(epoch), encoding="ascii")


def _restore(folder: Path | None, model: TwoTower, optimizers: list[torch.optim.Optimizer]) -> int:
    """Continues from a checkpoint; the number of epochs that are done."""
    if folder is None:
        return 0
    load_module(model, module_arrays(TwoTower.load(folder / "model")))
    for index, optimizer in enumerate(optimizers):
        load_optimizer(optimizer, load_arrays(folder / f"optimizer{index}.npz"))
    return int((folder / "epoch").read_text(encoding="ascii"))
