"""A bundle in use: its manifest and its arrays, memory-mapped so that replicas on a node share them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.bundles.files import open_array
from serving.bundles.layout import (
    ANN,
    CATALOGUE,
    HISTORY_EMBEDDINGS,
    ITEM_EMBEDDINGS,
    LIST_ROWS,
    NEIGHBOUR_ROWS,
    NEIGHBOUR_SCORES,
    POPULAR_ROWS,
    POPULAR_SCORES,
)
from serving.bundles.manifest import Manifest, read_manifest
from serving.bundles.verify import verify_bundle
from serving.errors import BundleError
from serving.features.item_table import ItemTable


@dataclass(frozen=True)
class Bundle:
    """One version of an application, ready to serve.

    N items, d embedding length, S segments (0 is everyone, then one per country of the vocabulary), P popular
    items, K neighbours. Rows are int32 positions in the catalogue, -1 pads the end.
    """

    directory: Path
    manifest: Manifest
    catalogue: ItemTable
    item_embeddings: np.ndarray
    """float32[N, d], each of length 1."""
    history_embeddings: np.ndarray
    """float32[N, d], pooled over a user's history as an input of the user tower."""
    popular_rows: np.ndarray
    """int32[S, P], most popular first."""
    popular_scores: np.ndarray
    """float32[S, P]."""
    neighbour_rows: np.ndarray
    """int32[N, K], the items most like each item, best first."""
    neighbour_scores: np.ndarray
    """float32[N, K]."""
    list_rows: np.ndarray
    """int32[S, 100], the last link of the fallback chain."""

    @classmethod
    def load(cls, directory: Path, verify: bool = True) -> "Bundle":
        """Opens a published bundle; its arrays stay on disk until they are read.

        Args:
            directory: a bundle's folder, named by its version.
            verify: False only where this very bundle has been verified before.

        Raises:
            BundleError: verification finds problems, all of which are listed, or the bundle cannot be read.
        """
        problems = verify_bundle(directory) if verify else []
        if problems:
            raise BundleError(f"the bundle {directory} must not serve", problems)
        manifest = read_manifest(directory)
        try:
            return cls(
                directory=directory,
                manifest=manifest,
                catalogue=ItemTable.load(directory / CATALOGUE),
                item_embeddings=open_array(directory / ITEM_EMBEDDINGS),
                history_embeddings=open_array(directory / HISTORY_EMBEDDINGS),
                popular_rows=open_array(directory / POPULAR_ROWS),
                popular_scores=open_array(directory / POPULAR_SCORES),
                neighbour_rows=open_array(directory / NEIGHBOUR_ROWS),
                neighbour_scores=open_array(directory / NEIGHBOUR_SCORES),
                list_rows=open_array(directory / LIST_ROWS),
            )
        except (OSError, ValueError) as error:
            raise BundleError(f"the bundle {directory} cannot be read", [str(error)]) from None

    @property
    def app(self) -> str:
        """The application that it is made for."""
        return self.manifest.app

    @property
    def version(self) -> str:
        """UTC time of creation and the first 12 hex digits of the manifest's sha256."""
        return self.manifest.version

    @property
    def ann_directory(self) -> Path | None:
        """Folder of the approximate index; None where the catalogue is searched exactly."""
        folder = self.directory / ANN
        return folder if folder.is_dir() else None

    def model_path(self, name: str) -> Path:
        """The ONNX file of a model: `user_tower`, `item_tower` or `ranker`.

        Raises:
            BundleError: the bundle has no such model.
        """
        if name not in self.manifest.models:
            raise BundleError(f"{self.version} has no model {name}", [f"it has {m}" for m in self.manifest.models])
        return self.directory / self.manifest.models[name].file

    def segment(self, country: str | None) -> int:
        """The segment of a country, 0 (everyone) for an unknown one."""
        countries = self.manifest.vocabulary.countries
        return countries.index(country) + 1 if country in countries else 0
