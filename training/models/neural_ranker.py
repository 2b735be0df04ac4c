"""A multilayer perceptron that ranks a request's candidates, trained with a listwise softmax loss."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.config import NeuralRankerSettings
from training.models.layers import CHUNK, Standardise, mlp
from training.models.ranker import RankerRows, RequestBatch, gather_requests, informative_groups
from training.models.ranker_shards import read_standardise, request_batch
from training.models.reporter import Reporter, StreamReporter
from training.models.weights import (
    load_arrays,
    load_module,
    load_optimizer,
    module_arrays,
    optimizer_arrays,
    save_arrays,
)


class NeuralRanker(nn.Module):
    """Raw features to a score, standardisation inside."""

    def __init__(self, width: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.shape = (width, tuple(hidden), dropout)
        self.standardise = Standardise(width)
        self.layers = mlp(width, hidden, 1, dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Scores float32[R] of raw rows float32[R, F]."""
        scores: Tensor = self.layers(self.standardise(features))
        return scores[:, 0]

    @torch.no_grad()
    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores float32[R] of raw rows float32[R, F], without dropout."""
        self.eval()
        blocks = [features[start : start + CHUNK] for start in range(0, len(features), CHUNK)]
        scores = [self(torch.from_numpy(np.array(block))).numpy() for block in blocks]
        return np.concatenate([np.zeros(0, np.float32), *scores])

    def save(self, folder: Path) -> None:
        """Writes `neural_ranker.json` and `neural_ranker.npz`; no pickle."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "neural_ranker.json").write_text(json.dumps(self.shape), encoding="utf-8")
        save_arrays(folder / "neural_ranker.npz", module_arrays(self))

    @classmethod
    def load(cls, folder: Path) -> "NeuralRanker":
        """Reads what `save` wrote."""
        width, hidden, dropout = json.loads((folder / "neural_ranker.json").read_text(encoding="utf-8"))
        model = cls(width, tuple(hidden), dropout)
        load_module(model, load_arrays(folder / "neural_ranker.npz"))
        return model.eval()


def listwise_loss(scores: Tensor, grade: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Mean over groups of the cross-entropy between a group's gains and the softmax of its scores.

    `scores` float32[R], `grade` int64[R], `group` int64[R] from 0 to `n_groups` - 1. A row's gain is
    2^grade - 1; gains sum to 1 within a group, and a group without gain counts as 0. ListNet with graded
    targets: Cao et al. 2007; Bruch et al. 2019 for the gains.
    """
    best = torch.full((n_groups,), -torch.inf).scatter_reduce(0, group, scores.detach(), "amax")
    shifted = scores - best[group]
    log_total = torch.zeros(n_groups).index_add(0, group, shifted.exp()).log()
    gain = torch.exp2(grade.float()) - 1.0
    total_gain = torch.zeros(n_groups).index_add(0, group, gain).clamp(min=1e-9)
    return -((gain / total_gain[group]) * (shifted - log_total[group])).sum() / n_groups


def train_neural_ranker(config: dict[str, Any], reporter: Reporter) -> None:
    """Trains from `config` {data, settings, seed, threads} and reports a checkpoint for each epoch.

    The checkpoint's `model` folder is what `NeuralRanker.load` reads. Requests are shuffled alike in every
    worker and dealt out in turn; those whose rows all have one grade are left out.
    """
    settings = NeuralRankerSettings.model_validate(config["settings"])
    rows, seed = RankerRows.open(Path(config["data"])), config["seed"]
    taught, starts = np.flatnonzero(informative_groups(rows)), rows.group_starts

    def epoch_batches(epoch: int) -> Iterator[RequestBatch]:
        order = np.random.default_rng((seed, epoch)).permutation(taught)
        mine = np.resize(order[reporter.rank % len(order) :: reporter.world], -(-len(order) // reporter.world))
        for first in range(0, len(mine), settings.batch_requests):
            yield gather_requests(rows, starts, mine[first : first + settings.batch_requests])

    standardise = Standardise(rows.features.shape[1])
    standardise.fit(rows.features)
    _train(config, settings, standardise, epoch_batches, reporter)


def train_streamed_neural_ranker(config: dict[str, Any], reporter: StreamReporter) -> None:
    """The same where `config["data"]` is a folder of `write_shards` and the reporter streams it."""
    settings = NeuralRankerSettings.model_validate(config["settings"])

    def epoch_batches(epoch: int) -> Iterator[RequestBatch]:
        return map(request_batch, reporter.batches(settings.batch_requests, config["seed"] + epoch))

    _train(config, settings, read_standardise(Path(config["data"])), epoch_batches, reporter)


def _train(
    config: dict[str, Any],
    settings: NeuralRankerSettings,
    standardise: Standardise,
    epoch_batches: Callable[[int], Iterator[RequestBatch]],
    reporter: Reporter,
) -> None:
    torch.set_num_threads(config["threads"])
    torch.manual_seed(config["seed"])
    model = NeuralRanker(len(standardise.mean), settings.hidden, settings.dropout)
    model.standardise.load_state_dict(standardise.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=1e-4, fused=True)
    done = _restore(reporter.resume(), model, optimizer)
    wrapped = reporter.wrap(model)
    for epoch in range(done, settings.epochs):
        started = time.monotonic()
        torch.manual_seed(config["seed"] + 1000 * epoch + reporter.rank)
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - epoch / settings.epochs)
        loss = _train_epoch(wrapped.train(), optimizer, epoch_batches(epoch))
        metrics = {"loss": loss, "seconds": time.monotonic() - started}
        reporter.report(epoch + 1, metrics, partial(_save, epoch=epoch + 1, model=model, optimizer=optimizer))


def _train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[RequestBatch]) -> float:
    losses = []
    for batch in batches:
        group = torch.from_numpy(np.repeat(np.arange(len(batch.sizes)), batch.sizes))
        optimizer.zero_grad(set_to_none=True)
        scores = model(torch.from_numpy(batch.features))
        loss = listwise_loss(scores, torch.from_numpy(batch.grade), group, len(batch.sizes))
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def _save(folder: Path, epoch: int, model: NeuralRanker, optimizer: torch.optim.Optimizer) -> None:
    model.save(folder / "model")
    save_arrays(folder / "optimizer.npz", optimizer_arrays(optimizer))
    (folder / "epoch").write_text(str(epoch), encoding="ascii")


def _restore(folder: Path | None, model: NeuralRanker, optimizer: torch.optim.Optimizer) -> int:
    """Continues from a checkpoint; the number of epochs that are done."""
    if folder is None:
        return 0
    load_module(model, load_arrays(folder / "model" / "neural_ranker.npz"))
    load_optimizer(optimizer, load_arrays(folder / "optimizer.npz"))
    return int((folder / "epoch").read_text(encoding="ascii"))
