"""The two-tower retrieval model: users and items in one space where a dot product says how well they fit.

Legend: B rows of a batch, U distinct items of a batch, L history, N items, d dimension.
"""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from training.models.layers import CHUNK, Standardise, mlp
from training.models.tower_data import TowerData
from training.models.weights import load_arrays, load_module, module_arrays, save_arrays

SPARSE_ABOVE = 50_000
"""Items from which on the gradient of the id table is sparse: a dense one would touch every row each step."""


class UserTower(nn.Module):
    """Raw user features and the mean of the history's id embeddings to a unit vector."""

    def __init__(self, width: int, dimension: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.standardise = Standardise(width)
        self.layers = mlp(width + dimension, hidden, dimension)

    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        return _unit(self.layers(torch.cat([self.standardise(user), history], dim=1)))


class ItemTower(nn.Module):
    """Raw item features and the item's id embedding (zeros for a new item) to a unit vector."""

    def __init__(self, width: int, dimension: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.standardise = Standardise(width)
        self.layers = mlp(width + dimension, hidden, dimension)

    def forward(self, item: Tensor, id_embedding: Tensor) -> Tensor:
        return _unit(self.layers(torch.cat([self.standardise(item), id_embedding], dim=1)))


class TwoTower(nn.Module):
    """Both towers over one table of id embeddings.

    The table starts at zero, so that an item without positives embeds exactly as a new item does: by content.
    """

    def __init__(self, user_width: int, item_width: int, n_items: int, dimension: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = (user_width, item_width, n_items, dimension, tuple(hidden))
        self.user_tower = UserTower(user_width, dimension, hidden)
        self.item_tower = ItemTower(item_width, dimension, hidden)
        self.no_id = n_items
        self.ids = nn.Embedding(n_items + 1, dimension, padding_idx=n_items, sparse=n_items > SPARSE_ABOVE)
        nn.init.zeros_(self.ids.weight)

    def forward(
        self, user: Tensor, history: Tensor, item_features: Tensor, item: Tensor, hidden_id: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeds users float32[B, d] and items float32[U, d].

        `history` int64[B, L] holds item rows, -1 where there is none; `item` int64[U] item rows, whose id
        embedding is left out where `hidden_id` bool[U] says so.
        """
        known = torch.where(hidden_id, self.no_id, item)
        return self.user_tower(user, self.pool(history)), self.item_tower(item_features, self.ids(known))

    def pool(self, history: Tensor) -> Tensor:
        """Mean of the id embeddings float32[B, d] of a history int64[B, L]; zeros where it is all -1."""
        return functional.embedding_bag(
            torch.where(history < 0, self.no_id, history),
            self.ids.weight,
            mode="mean",
            padding_idx=self.no_id,
            sparse=self.ids.sparse,
        )

    def history_table(self) -> NDArray[np.float32]:
        """The id embeddings float32[N, d] that the user tower pools."""
        return self.ids.weight.detach()[:-1].numpy().copy()

    @torch.no_grad()
    def embed_items(self, features: NDArray[np.float32], known: bool = True) -> NDArray[np.float32]:
        """Unit vectors float32[n, d] of items with raw features float32[n, Di].

        With `known` the rows are the model's own N items in order; without, they are new items.
        """
        parts = [np.zeros((0, self.ids.embedding_dim), np.float32)]
        for start in range(0, len(features), CHUNK):
            block = torch.from_numpy(np.array(features[start : start + CHUNK]))
            ids = torch.zeros(len(block), self.ids.embedding_dim)
            if known:
                ids = self.ids.weight[start : start + len(block)]
            parts.append(self.item_tower(block, ids).numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def embed_users(self, features: NDArray[np.float32], history: NDArray[np.integer]) -> NDArray[np.float32]:
        """Unit vectors float32[n, d] from raw features float32[n, Du] and history rows [n, L], -1 padded.

        Pass the newest `tower_data.POOLED_HISTORY` rows of each history, as in training.
        """
        parts = [np.zeros((0, self.ids.embedding_dim), np.float32)]
        for start in range(0, len(features), CHUNK):
            block = torch.from_numpy(np.array(features[start : start + CHUNK]))
            rows = torch.from_numpy(np.asarray(history[start : start + CHUNK], dtype=np.int64))
            parts.append(self.user_tower(block, self.pool(rows)).numpy())
        return np.concatenate(parts)

    def save(self, folder: Path) -> None:
        """Writes `two_tower.json` and `two_tower.npz`; no pickle."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "two_tower.json").write_text(json.dumps(self.shape), encoding="utf-8")
        save_arrays(folder / "two_tower.npz", module_arrays(self))

    @classmethod
    def load(cls, folder: Path) -> "TwoTower":
        """Reads what `save` wrote."""
        shape = json.loads((folder / "two_tower.json").read_text(encoding="utf-8"))
        user_width, item_width, n_items, dimension, hidden = shape
        model = cls(user_width, item_width, n_items, dimension, tuple(hidden))
        load_module(model, load_arrays(folder / "two_tower.npz"))
        return model.eval()


def sampled_softmax_loss(
    scores: Tensor, positive: Tensor, log_q: Tensor, batch_rows: int, excluded: Tensor, weight: Tensor
) -> Tensor:
    """Cross-entropy of each row's own item against the distinct items of its batch.

    `scores` float32[B, U] are similarities over temperature, `positive` int64[B] each row's own column,
    `log_q` float32[U] the log of each item's share of all positives, `excluded` bool[B, U] items that must not
    count as negatives for a row, `weight` float32[B]. The correction of Yi et al. 2019 ("Sampling-bias-corrected
    neural modeling") is taken per distinct item: it subtracts the log of 1 - (1 - q)^B, the probability that a
    batch of `batch_rows` holds the item at all. So an item twice in a batch is no false negative of itself.
    """
    log_present = torch.log(-torch.expm1(batch_rows * torch.log1p(-torch.exp(log_q).clamp(max=1 - 1e-6))))
    excluded = excluded.scatter(1, positive.unsqueeze(1), False)
    logits = (scores - log_present).masked_fill(excluded, float("-inf"))
    loss = functional.cross_entropy(logits, positive, reduction="none")
    return (loss * weight).sum() / weight.sum()


def new_model(data: TowerData, dimension: int, hidden: tuple[int, ...], seed: int) -> TwoTower:
    """A model with random weights, and standardisation learnt from the training rows."""
    torch.manual_seed(seed)
    model = TwoTower(data.user.shape[1], data.item_features.shape[1], len(data.item_features), dimension, hidden)
    model.user_tower.standardise.fit(data.user)
    model.item_tower.standardise.fit(data.item_features)
    return model


def _unit(rows: Tensor) -> Tensor:
    return rows / torch.sqrt(torch.sum(rows * rows, dim=1, keepdim=True) + 1e-12)
