"""Arrays by name in one file without pickle: weights of models and states of optimisers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays to an uncompressed `.npz`; equal arrays give equal bytes."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_arrays(path: Path) -> Arrays:
    """Reads what `save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def module_arrays(module: torch.nn.Module) -> Arrays:
    """A module's parameters and buffers by their dotted names."""
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def load_module(module: torch.nn.Module, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Puts arrays named as in `module_arrays` back; names and shapes must match exactly."""
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})


def optimizer_arrays(optimizer: torch.optim.Optimizer) -> Arrays:
    """The state of every parameter of an optimiser as `INDEX.NAME`; hyperparameters are not kept."""
    return {
        f"{index}.{name}": torch.as_tensor(value).cpu().numpy()
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Puts arrays named as in `optimizer_arrays` back."""
    document = optimizer.state_dict()
    document["state"] = {}
    for key, value in arrays.items():
        index, name = key.split(".", 1)
        document["state"].setdefault(int(index), {})[name] = torch.from_numpy(np.array(value))
    optimizer.load_state_dict(document)
