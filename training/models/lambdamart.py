"""Gradient boosted trees with a LambdaMART objective (Burges 2010), by xgboost."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from serving.errors import DataError
from training.config import LambdaMartSettings
from training.models.ranker import RankerRows, hold_out_groups, informative_groups

FILE = "lambdamart.ubj"
VALIDATION_SHARE = 0.1
PATIENCE = 50
"""Trees without a better validation NDCG@20 after which training stops."""
BLOCK_ROWS = 50_000
PREDICT_ROWS = 200_000


class LambdaMart:
    """A trained forest, cut at its best iteration."""

    def __init__(self, booster: xgboost.Booster) -> None:
        self.booster = booster

    def score(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores float32[R] of raw rows float32[R, F]; a row's score does not depend on the other rows."""
        blocks = [features[start : start + PREDICT_ROWS] for start in range(0, len(features), PREDICT_ROWS)]
        scores = [self.booster.inplace_predict(np.ascontiguousarray(block)) for block in blocks]
        return np.concatenate([np.zeros(0, np.float32), *scores]).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Writes the trees as UBJSON."""
        folder.mkdir(parents=True, exist_ok=True)
        self.booster.save_model(folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "LambdaMart":
        """Reads what `save` wrote.

        Raises:
            DataError: no model that xgboost can read.
        """
        booster = xgboost.Booster({"nthread": 2})
        try:
            booster.load_model(folder / FILE)
        except (xgboost.core.XGBoostError, FileNotFoundError) as error:
            raise DataError(f"{folder / FILE} is no xgboost model", [str(error).splitlines()[0]]) from error
        return cls(booster)


def fit_lambdamart(
    rows: RankerRows,
    settings: LambdaMartSettings,
    seed: int,
    validation: RankerRows | None = None,
    threads: int = 2,
    progress: Callable[[str], None] = lambda line: None,
) -> LambdaMart:
    """Trains until `settings.trees`, or until validation NDCG@20 stops getting better.

    Without `validation` a tenth of the requests, drawn by `seed`, is held out for that. Requests whose rows all
    have one grade teach no order and are left out. Memory: one byte for each value beyond `rows` itself. The
    same rows, seed and machine give the same trees.

    Raises:
        DataError: see `RankerRows.check`.
    """
    rows.check()
    kept = informative_groups(rows)
    held = hold_out_groups(int(kept.sum()), VALIDATION_SHARE, seed) if validation is None else np.zeros(1, bool)
    learned, checked = kept.copy(), np.zeros_like(kept)
    if validation is None:
        learned[kept], checked[kept] = ~held, held
    train = _matrix(rows, learned, None, threads)
    sets = [(train, "train")] if validation is None and not checked.any() else []
    if validation is not None:
        sets.append((_matrix(validation, informative_groups(validation), train, threads), "validation"))
    elif checked.any():
        sets.append((_matrix(rows, checked, train, threads), "validation"))
    booster = xgboost.train(
        _parameters(settings, seed, threads),
        train,
        settings.trees,
        evals=sets,
        early_stopping_rounds=PATIENCE,
        verbose_eval=False,
        callbacks=[_Progress(progress)],
    )
    return LambdaMart(booster[: booster.best_iteration + 1])


def _parameters(settings: LambdaMartSettings, seed: int, threads: int) -> dict[str, object]:
    return {
        "objective": "rank:ndcg",
        "eval_metric": "ndcg@20",
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": 20,
        "tree_method": "hist",
        "max_depth": settings.depth,
        "eta": settings.learning_rate,
        "min_child_weight": settings.min_child_weight,
        "colsample_bytree": settings.column_share,
        "subsample": settings.row_share,
        "nthread": threads,
        "seed": seed,
    }


def _matrix(
    rows: RankerRows, groups: NDArray[np.bool_], like: xgboost.DMatrix | None, threads: int
) -> xgboost.QuantileDMatrix:
    return xgboost.QuantileDMatrix(_Blocks(rows, groups), ref=like, nthread=threads)


class _Blocks(xgboost.DataIter):
    """Feeds whole groups, some `BLOCK_ROWS` rows at a time, so that no copy of all rows is made."""

    def __init__(self, rows: RankerRows, groups: NDArray[np.bool_]) -> None:
        super().__init__()
        self._rows = rows
        self._group_ids = np.flatnonzero(groups)
        self._parts = self._new_parts()

    def reset(self) -> None:
        self._parts = self._new_parts()

    def next(self, input_data: Callable[..., None]) -> bool:
        groups = next(self._parts, None)
        if groups is None:
            return False
        starts, sizes = self._rows.group_starts[groups], self._rows.group_sizes[groups]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        index = np.repeat(starts, sizes) + within
        input_data(data=self._rows.features[index], label=self._rows.grade[index], qid=np.repeat(groups, sizes))
        return True

    def _new_parts(self) -> Iterator[NDArray[np.int64]]:
        filled = np.cumsum(self._rows.group_sizes[self._group_ids], dtype=np.int64) // BLOCK_ROWS
        return iter(np.split(self._group_ids, np.flatnonzero(np.diff(filled)) + 1))


class _Progress(xgboost.callback.TrainingCallback):
    """Says the metric every 25 trees."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress

    def after_iteration(self, model: xgboost.Booster, epoch: int, evals_log: dict[str, Any]) -> bool:
        if (epoch + 1) % 25 == 0:
            scores = [f"{name} ndcg@20 {values['ndcg@20'][-1]:.4f}" for name, values in evals_log.items()]
            self._progress(f"lambdamart: tree {epoch + 1}, {', '.join(scores)}")
        return False
