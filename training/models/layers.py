"""Torch building blocks that the two-tower and the neural ranker share."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from serving.errors import DataError

CLIP = 10.0
"""Standardised values beyond this many standard deviations are cut, so that one outlier cannot rule."""
CHUNK = 65_536


class Standardise(nn.Module):
    """sign(x) log(1 + |x|), then (x - mean) / std, cut at `CLIP`: raw features in, tame ones out.

    Inside the module, so that an exported model takes raw values. A constant column comes out as 0.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def fit(self, rows: NDArray[np.float32]) -> None:
        """Learns mean and std from float32[R, width], which may be a memory map."""
        total = np.zeros(rows.shape[1])
        squares = np.zeros(rows.shape[1])
        for start in range(0, len(rows), CHUNK):
            block = _squash(torch.from_numpy(np.array(rows[start : start + CHUNK]))).double()
            total += block.sum(0).numpy()
            squares += block.square().sum(0).numpy()
        count = max(len(rows), 1)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        self.mean.copy_(torch.from_numpy(mean))
        self.scale.copy_(torch.from_numpy(np.where(std > 1e-6, 1.0 / np.maximum(std, 1e-6), 0.0)))

    def forward(self, rows: Tensor) -> Tensor:
        return torch.clamp((_squash(rows) - self.mean) * self.scale, -CLIP, CLIP)


def mlp(width_in: int, hidden: tuple[int, ...], width_out: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with ReLU between them, and dropout after each ReLU where it is above 0."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(width_in, width), nn.ReLU()]
        if dropout > 0:
            layers.append(nn.Dropout(dropout))
        width_in = width
    return nn.Sequential(*layers, nn.Linear(width_in, width_out))


def require_finite(what: str, rows: NDArray[np.float32]) -> None:
    """Raises:
    DataError: naming the columns of `rows` [R, F] that hold NaN or infinity: defaults were not filled in.
    """
    bad = np.zeros(rows.shape[1], bool)
    for start in range(0, len(rows), CHUNK):
        bad |= ~np.isfinite(rows[start : start + CHUNK]).all(axis=0)
    if bad.any():
        problems = [f"column {column} holds NaN or infinity" for column in np.flatnonzero(bad)]
        raise DataError(f"{what} must have its defaults filled in", problems)


def _squash(rows: Tensor) -> Tensor:
    return torch.sign(rows) * torch.log(1.0 + torch.abs(rows))
