"""Memory that a thread keeps from one request to the next, so that a request allocates little."""

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt


class Scratch(threading.local):
    """Arrays by name, each thread its own; what was taken is valid until the same name is taken again."""

    def __init__(self) -> None:
        self._flat: dict[str, npt.NDArray[Any]] = {}
        self._shaped: dict[str, npt.NDArray[Any]] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
        """A contiguous array of this shape, its contents left over from before; a name keeps its dtype."""
        shaped = self._shaped.get(name)
        if shaped is not None and shaped.shape == shape:
            return shaped
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.size < size:
            flat = self._flat[name] = np.empty(size, dtype)
        shaped = self._shaped[name] = flat[:size].reshape(shape)
        return shaped

    def table(self, name: str, length: int, fill: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A dense table full of `fill`, to be left as it was found: it need not be cleared for each request."""
        table = self._flat.get(name)
        if table is None or len(table) < length:
            table = self._flat[name] = np.full(length, fill, dtype)
        return table
