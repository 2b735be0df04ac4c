"""Several two-towers one after another in the same workers: starting workers costs more than a small training."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from training.models.reporter import Reporter
from training.models.two_tower_loop import train_two_tower


def train_series(config: dict[str, Any], reporter: Reporter) -> None:
    """Runs `train_two_tower` on each folder `config["data"]`/NAME of `config["names"]`.

    A checkpoint holds one folder per model begun so far, each with what `train_two_tower` saves.
    """
    with tempfile.TemporaryDirectory() as scratch:
        begun = Path(scratch) / "begun"
        last = reporter.resume()
        if last is not None:
            shutil.copytree(last, begun)
        begun.mkdir(exist_ok=True)
        for place, name in enumerate(config["names"]):
            part = _Part(reporter, begun, name, place * config["settings"]["epochs"])
            single = {key: value for key, value in config.items() if key != "names"}
            train_two_tower({**single, "data": str(Path(config["data"]) / name)}, part)


class _Part:
    """The reporter of one model of the series; epochs go on counting over all of them."""

    def __init__(self, reporter: Reporter, begun: Path, name: str, first_epoch: int) -> None:
        self.rank = reporter.rank
        self.world = reporter.world
        self._reporter = reporter
        self._begun = begun
        self._own = begun / name
        self._first_epoch = first_epoch

    def resume(self) -> Path | None:
        return self._own if self._own.is_dir() else None

    def wrap(self, model: nn.Module) -> nn.Module:
        return self._reporter.wrap(model)

    def report(self, epoch: int, metrics: dict[str, float], save: Callable[[Path], None]) -> None:
        def save_all(folder: Path) -> None:
            shutil.rmtree(self._own, ignore_errors=True)
            self._own.mkdir()
            save(self._own)
            shutil.copytree(self._begun, folder, dirs_exist_ok=True)

        self._reporter.report(self._first_epoch + epoch, metrics, save_all)
