"""Data classes of arrays kept as a folder of `.npy` files that workers map into memory."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np


@dataclass(frozen=True)
class ArrayFolder:
    """Base of data classes whose fields are all arrays."""

    def save(self, folder: Path) -> None:
        """Writes one `.npy` for each array."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name), allow_pickle=False)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Maps what `save` wrote into memory, read-only."""
        names = [field.name for field in fields(cls)]
        return cls(**{n: np.load(folder / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in names})
