"""Fits the retrieval models on what was known before a cut and lays them out as a bundle does.

The result is a bundle's folder without ranker, golden examples and manifest; `open_retrieval` gives it to serving's
own pipeline, so that the ranker learns from the candidates that serving would have found.

Legend: N items, R positives, L history entries, S segments.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from serving.bundles import layout
from serving.bundles.files import open_array
from serving.bundles.manifest import FeatureManifest
from serving.bundles.parts import FilmModel
from serving.bundles.writer import BundleWriter
from serving.config import SieveConfig
from serving.features.item_table import ItemTable, write_item_table
from serving.retrieval.index import ExactIndex
from serving.retrieval.scann_index import open_index
from serving.retrieval.user_tower import POOLED_HISTORY, UserTower
from training.ann import build_ann
from training.config import TrainingConfig
from training.export.parity import check_parity
from training.export.towers import export_item_tower, export_user_tower
from training.features.replay import Replay
from training.jobs.entities import Entities
from training.models.interactions import DAY_US, Interactions
from training.models.item_to_item import fit_item_to_item
from training.models.popular import fit_popular
from training.models.tower_data import TowerData, tower_data
from training.models.two_tower import TwoTower

PARITY_ROWS = 256
WEAK_RECALL = 0.9
LIST_MATURITY = 0
"""Bundled lists hold only what the youngest may see: nobody's age is known when everything else is down."""


@dataclass(frozen=True)
class Fit:
    """One fit of the retrieval models: on what, as of when."""

    entities: Entities
    interactions: Interactions
    now_us: int
    replay: Replay
    config: SieveConfig
    training: TrainingConfig
    report: Callable[[str], None]


def write_tower_data(fit: Fit, folder: Path) -> None:
    """Writes what the two-tower of this fit learns from."""
    chosen = _recent_positives(fit)
    user, time_us = fit.interactions.user[chosen], fit.interactions.time_us[chosen]
    fit.report(f"two-tower data: {len(chosen):,} positives")
    data = tower_data(
        fit.replay.user_rows(user, time_us),
        fit.replay.history_rows(user, time_us, POOLED_HISTORY),
        fit.interactions.item[chosen],
        fit.interactions.grade[chosen],
        fit.replay.filled_items(fit.replay.item_table(fit.now_us)),
    )
    data.save(folder)


def fit_retrieval(fit: Fit, two_tower: TwoTower, data: TowerData, target: Path) -> None:
    """Fits popular and item-to-item, and writes them with the trained two-tower under `target`."""
    writer = BundleWriter(target)
    catalogue = fit.replay.item_table(fit.now_us)
    write_item_table(target / layout.CATALOGUE, catalogue)
    popular_rows = _write_popular(fit, writer)
    _write_lists(fit, catalogue, popular_rows, writer)
    rows, scores = fit_item_to_item(fit.interactions, fit.training.item_to_item, fit.now_us)
    writer.write_array(layout.NEIGHBOUR_ROWS, rows)
    writer.write_array(layout.NEIGHBOUR_SCORES, scores)
    _write_two_tower(fit, two_tower, data, writer)


def open_retrieval(directory: Path, config: SieveConfig, name: str) -> FilmModel:
    """What `fit_retrieval` wrote, ready for serving's pipeline; there is no ranker."""
    embeddings = open_array(directory / layout.ITEM_EMBEDDINGS)
    ann = directory / layout.ANN
    return FilmModel(
        name=name,
        vocabulary=config.vocabulary,
        feature_settings=config.features,
        catalogue=ItemTable.load(directory / layout.CATALOGUE),
        item_embeddings=embeddings,
        history_embeddings=open_array(directory / layout.HISTORY_EMBEDDINGS),
        popular_rows=open_array(directory / layout.POPULAR_ROWS),
        popular_scores=open_array(directory / layout.POPULAR_SCORES),
        neighbour_rows=open_array(directory / layout.NEIGHBOUR_ROWS),
        neighbour_scores=open_array(directory / layout.NEIGHBOUR_SCORES),
        list_rows=open_array(directory / layout.LIST_ROWS),
        index=open_index(ann, embeddings) if ann.is_dir() else ExactIndex(embeddings),
        user_tower=UserTower(directory / layout.MODEL_FILES[layout.USER_TOWER]),
    )


def _write_popular(fit: Fit, writer: BundleWriter) -> NDArray[np.int32]:
    rows, scores = fit_popular(
        fit.interactions,
        fit.entities.country,
        len(fit.config.vocabulary.countries),
        fit.now_us,
        fit.training.popular,
    )
    writer.write_array(layout.POPULAR_ROWS, rows)
    writer.write_array(layout.POPULAR_SCORES, scores)
    return rows


def _write_lists(fit: Fit, catalogue: ItemTable, popular: NDArray[np.int32], writer: BundleWriter) -> None:
    """The last link of the fallback chain: popular first, then by all-time takers, for everybody's eyes."""
    takers = np.bincount(fit.interactions.item, minlength=len(catalogue))
    by_takers = np.argsort(-takers, kind="stable").astype(np.int32)
    open_now = (
        (catalogue.available_at_us <= fit.now_us)
        & (catalogue.licence_start_us <= fit.now_us)
        & (catalogue.licence_end_us > fit.now_us)
        & (catalogue.maturity <= LIST_MATURITY)
    )
    lists = np.full((len(popular), layout.LIST_LENGTH), -1, np.int32)
    for segment, rows in enumerate(popular):
        licensed = open_now if segment == 0 else open_now & _licensed(catalogue, segment - 1)
        ordered = np.concatenate([rows[rows >= 0], by_takers])
        _, first = np.unique(ordered, return_index=True)
        ordered = ordered[np.sort(first)]
        chosen = ordered[licensed[ordered]][: layout.LIST_LENGTH]
        lists[segment, : len(chosen)] = chosen
    writer.write_array(layout.LIST_ROWS, lists)


def _licensed(catalogue: ItemTable, country: int) -> NDArray[np.bool_]:
    return (catalogue.country_mask >> np.uint64(country) & np.uint64(1)).astype(np.bool_)


def _write_two_tower(fit: Fit, model: TwoTower, data: TowerData, writer: BundleWriter) -> None:
    embeddings = model.embed_items(np.array(data.item_features))
    writer.write_array(layout.ITEM_EMBEDDINGS, embeddings)
    writer.write_array(layout.HISTORY_EMBEDDINGS, model.history_table())
    _write_towers(model, data, FeatureManifest.of(fit.replay.features), writer)
    ann = build_ann(embeddings, writer.directory / layout.ANN)
    if ann is not None:
        weak = " (weak: below 0.9)" if min(ann.recall.values()) < WEAK_RECALL else ""
        fit.report(f"index recall {', '.join(f'@{n} {r:.3f}' for n, r in ann.recall.items())}{weak}")


def _write_towers(model: TwoTower, data: TowerData, features: FeatureManifest, writer: BundleWriter) -> None:
    """Exports both towers once onnxruntime agrees with torch on examples of the training data."""
    sample = slice(PARITY_ROWS)
    user, item = np.array(data.user[sample]), np.array(data.item_features[sample])
    with torch.no_grad():
        history = model.pool(torch.from_numpy(data.history[sample].astype(np.int64)))
        users = model.user_tower(torch.from_numpy(user), history).numpy()
        items = model.item_tower(torch.from_numpy(item), model.ids.weight[: len(item)]).numpy()
        ids = model.ids.weight[: len(item)].numpy()
    exported = {
        layout.USER_TOWER: (users, export_user_tower(model, features.user), {"user": user, "history": history.numpy()}),
        layout.ITEM_TOWER: (items, export_item_tower(model, features.item), {"item": item, "id_embedding": ids}),
    }
    for name, (native, content, inputs) in exported.items():
        check_parity(name, native, content, inputs)
        writer.write_bytes(layout.MODEL_FILES[name], content)


def _recent_positives(fit: Fit) -> NDArray[np.int64]:
    """Positions of the positives inside the two-tower's window, a seeded sample where there are too many."""
    settings, times = fit.training.two_tower, fit.interactions.time_us
    first_us = np.iinfo(np.int64).min if settings.window_days is None else fit.now_us - settings.window_days * DAY_US
    recent = np.flatnonzero(times >= first_us)
    if len(recent) <= settings.max_positives:
        return recent
    rng = np.random.default_rng(fit.training.seed)
    return np.sort(rng.choice(recent, settings.max_positives, replace=False))
