"""What a training loop needs from whoever runs it: its place among the workers, and a place for checkpoints."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from torch import nn


class Reporter(Protocol):
    """Runs beside a training loop; `training.jobs.ray_train` has the one on Ray Train."""

    rank: int
    world: int

    def resume(self) -> Path | None:
        """Folder of the newest checkpoint of this run, None at its start."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in training: with several workers, one that averages gradients."""

    def report(self, epoch: int, metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        """Ends an epoch, counted from 1: `save` writes the checkpoint into an empty folder.

        Every worker calls it equally often; only rank 0's `save` and `metrics` are used.
        """


class StreamReporter(Reporter, Protocol):
    """The same where the rows to learn from come as a stream rather than from files that the loop opens."""

    def batches(self, size: int, seed: int) -> Iterator[pa.Table]:
        """This worker's share of all rows once, `size` at a time, the order depending on the seed.

        Every worker gets equally many batches.
        """
