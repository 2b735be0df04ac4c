"""Users and items of a run in a fixed order, and their interactions in that order's row numbers."""

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serving.errors import DataError
from training.data.labels import positives
from training.models.interactions import Interactions, sort_interactions


@dataclass(frozen=True)
class Entities:
    """The run's users, sorted by id, and items, first seen first; a user's or item's row is its place here.

    Of items that were seen first at one time the lower id comes first: an item table of a later day begins with
    these rows, so that a bundle made of them can use it as it lies.
    `user_ids` 'S'[U] and `item_ids` 'S'[N] are unique UTF-8; `country` int16[U] counts the vocabulary's
    countries, -1 for any other.
    """

    user_ids: NDArray[np.bytes_]
    item_ids: NDArray[np.bytes_]
    country: NDArray[np.int16]

    def save(self, folder: Path) -> None:
        """Writes one `.npy` for each array."""
        for name in ("user_ids", "item_ids", "country"):
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "Entities":
        """Reads what `save` wrote."""
        return cls(*(np.load(folder / f"{n}.npy", allow_pickle=False) for n in ("user_ids", "item_ids", "country")))

    def users(self, ids: pa.ChunkedArray | pa.Array) -> NDArray[np.int32]:
        """int32[n]: the row of each user id, -1 where it is unknown or null."""
        return _rows(self.user_ids, ids)

    def items(self, ids: pa.ChunkedArray | pa.Array) -> NDArray[np.int32]:
        """int32[n]: the row of each item id, -1 where it is unknown or null."""
        return _rows(self.item_ids, ids)


def read_entities(connection: duckdb.DuckDBPyConnection, countries: tuple[str, ...]) -> Entities:
    """All users and items of the pinned tables.

    Raises:
        DataError: there are no users or no items.
    """
    users = connection.sql("SELECT user_id, country FROM users ORDER BY user_id").to_arrow_table()
    items = connection.sql(
        "SELECT item_id FROM items_log GROUP BY item_id ORDER BY min(ingested_at), item_id"
    ).to_arrow_table()
    empty = [name for name, table in (("users", users), ("items", items)) if not table.num_rows]
    if empty:
        raise DataError("there is nothing to learn from", [f"table {name} has no rows" for name in empty])
    codes = pc.index_in(users["country"], pa.array(countries, pa.string())).fill_null(-1)
    return Entities(_bytes(users["user_id"]), _bytes(items["item_id"]), codes.to_numpy().astype(np.int16))


def read_positives(
    connection: duckdb.DuckDBPyConnection, entities: Entities, known_before_us: int | None = None
) -> Interactions:
    """Interactions whose events were known before an instant, one row per user and item.

    Events of users or items that their tables do not hold are left out.
    """
    table = positives(connection, known_before_us)
    user, item = entities.users(table["user_id"]), entities.items(table["item_id"])
    known = (user >= 0) & (item >= 0)
    time_us, grade = table["time_us"].to_numpy()[known], table["grade"].to_numpy()[known]
    sizes = len(entities.user_ids), len(entities.item_ids)
    return sort_interactions(user[known], item[known], time_us, grade, *sizes)


def _bytes(ids: pa.ChunkedArray) -> NDArray[np.bytes_]:
    # DuckDB sorts text by its UTF-8 bytes, as numpy does
    return np.array([text.encode() for text in ids.to_pylist()], dtype="S")


def _rows(known: NDArray[np.bytes_], ids: pa.ChunkedArray | pa.Array) -> NDArray[np.int32]:
    encoded = (ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids).dictionary_encode()
    names = np.array([text.encode() for text in encoded.dictionary.to_pylist()], dtype="S")
    if not len(names):
        return np.full(len(ids), -1, np.int32)
    order = np.argsort(known)
    place = order[np.minimum(np.searchsorted(known, names, sorter=order), len(known) - 1)]
    row = np.where(known[place] == names, place, -1).astype(np.int32)
    codes = encoded.indices.fill_null(-1).to_numpy()
    return np.where(codes >= 0, row[codes], -1).astype(np.int32)
