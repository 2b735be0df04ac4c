"""What was known of users and items at a midnight, from the versions in their logs."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.config import Vocabulary
from serving.features.item_table import ADULT, ALWAYS_US, CAST_WIDTH, EVERYWHERE, NEVER_US, OTHER_COUNTRY

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Versions:
    """v versions of entities, oldest first: `entity` int32[v] codes, `since_us` int64[v], and columns of values."""

    entity: npt.NDArray[np.int32]
    since_us: npt.NDArray[np.int64]
    columns: dict[str, npt.NDArray[Any]]


class Attributes:
    """The newest known version of each of E entities at a midnight that only moves forward."""

    def __init__(self, versions: Versions, entities: int) -> None:
        self._versions = versions
        self._next = 0
        self.version = np.full(entities, -1, np.int64)
        """int64[E]: the row of the version in force, -1 where the entity is not known yet."""

    def move_to(self, time_us: int) -> None:
        """Takes in the versions ingested before `time_us`."""
        end = int(np.searchsorted(self._versions.since_us, time_us, side="left"))
        if end > self._next:
            # with repeated entities the last, newest one stays
            self.version[self._versions.entity[self._next : end]] = np.arange(self._next, end)
            self._next = end

    def column(self, name: str, rows: npt.NDArray[np.integer], missing: float = np.nan) -> npt.NDArray[Any]:
        """One column for these entities; `missing` where an entity is not known yet."""
        values = self._versions.columns[name]
        version = self.version[rows]
        known = values[np.maximum(version, 0)] if len(values) else np.full((len(rows), *values.shape[1:]), missing)
        shape = (len(rows),) + (1,) * (known.ndim - 1)
        return np.where((version >= 0).reshape(shape), known, missing)


def read_users(connection: duckdb.DuckDBPyConnection, ids: dict[str, int], where: str = "true") -> Versions:
    """Versions of users by `ids`, which is extended with users that have no events: birth year and creation."""
    rows: pa.Table = connection.sql(
        f"""SELECT user_id, epoch_us(ingested_at) AS since_us, birth_year::DOUBLE AS birth_year,
                   epoch_us(created_at) AS created_us
            FROM users_log WHERE {where} ORDER BY since_us, user_id"""
    ).to_arrow_table()
    entity = [ids.setdefault(user, len(ids)) for user in rows["user_id"].to_pylist()]
    columns: dict[str, npt.NDArray[Any]] = {
        "birth_year": rows["birth_year"].to_numpy(),
        "created_us": rows["created_us"].to_numpy(),
    }
    return Versions(np.array(entity, np.int32), rows["since_us"].to_numpy(), columns)


def read_items(connection: duckdb.DuckDBPyConnection, ids: dict[str, int], vocabulary: Vocabulary) -> Versions:
    """Versions of items by `ids`, which is extended with items that have no events.

    Columns: `year`, `duration_s` and `maturity` as floats with NaN where unknown; `licence_start_us`,
    `licence_end_us`, `available_us`; `genres` float32[v, G] one-hot; `genre_mask`, `country_mask`; `cast`
    int32[v, 6] hashes of names, -1 padded; `franchise`, `edition` and `provider` int32[v] hashes, -1 for none.
    """
    rows: pa.Table = connection.sql(
        """SELECT item_id, epoch_us(ingested_at) AS since_us, year::DOUBLE AS year, duration_s::DOUBLE AS duration_s,
                  maturity::DOUBLE AS maturity, epoch_us(available_at) AS available_us,
                  epoch_us(licence_start) AS licence_start_us, epoch_us(licence_end) AS licence_end_us,
                  genres, "cast", countries, franchise, edition, provider
           FROM items_log ORDER BY since_us, item_id"""
    ).to_arrow_table()
    entity = [ids.setdefault(item, len(ids)) for item in rows["item_id"].to_pylist()]
    genre_mask = _masks(rows["genres"].to_pylist(), vocabulary.genres)
    bits = np.arange(len(vocabulary.genres), dtype=np.uint64)
    columns: dict[str, npt.NDArray[Any]] = {
        **{name: rows[name].to_numpy() for name in ("year", "duration_s", "maturity")},
        "available_us": rows["available_us"].to_numpy(),
        "licence_start_us": rows["licence_start_us"].fill_null(int(NEVER_US)).to_numpy(),
        "licence_end_us": rows["licence_end_us"].fill_null(int(ALWAYS_US)).to_numpy(),
        "genres": (genre_mask[:, None] >> bits & np.uint64(1)).astype(np.float32),
        "genre_mask": genre_mask,
        "country_mask": _country_masks(rows["countries"].to_pylist(), vocabulary.countries),
        "cast": _cast(rows["cast"].to_pylist()),
        **{name: _codes(rows[name]) for name in ("franchise", "edition", "provider")},
    }
    return Versions(np.array(entity, np.int32), rows["since_us"].to_numpy(), columns)


def name_code(name: str) -> int:
    """The stable 31-bit code of a person, franchise, edition or provider."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little") & 0x7FFFFFFF


def maturity_years(maturity: Floats) -> npt.NDArray[np.int16]:
    """int16 ages from float64 maturities; unknown is for adults only."""
    return np.where(np.isnan(maturity), ADULT, maturity).astype(np.int16)


def _masks(lists: Sequence[Sequence[str] | None], vocabulary: Sequence[str]) -> npt.NDArray[np.uint64]:
    bit = {name: 1 << i for i, name in enumerate(vocabulary)}
    return np.array([sum({bit.get(name, 0) for name in names or ()}) for names in lists], np.uint64)


def _country_masks(lists: Sequence[Sequence[str] | None], countries: Sequence[str]) -> npt.NDArray[np.uint64]:
    masks = _masks(lists, countries)
    known = set(countries)
    for row, names in enumerate(lists):
        if not names:
            masks[row] = EVERYWHERE
        elif not known.issuperset(names):
            masks[row] |= np.uint64(1 << OTHER_COUNTRY)
    return masks


def _codes(names: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    """int32[v] codes of names; -1 for null and for the empty name."""
    encoded = names.combine_chunks().dictionary_encode()
    codes = [name_code(name) if name else -1 for name in encoded.dictionary.to_pylist()]
    rows = encoded.indices.fill_null(len(codes)).to_numpy()
    found: npt.NDArray[np.int32] = np.array([*codes, -1], np.int32)[rows]
    return found


def _cast(lists: Sequence[Sequence[str] | None]) -> npt.NDArray[np.int32]:
    codes = {name: name_code(name) for names in lists for name in (names or ())[:CAST_WIDTH]}
    out = np.full((len(lists), CAST_WIDTH), -1, np.int32)
    for row, names in enumerate(lists):
        if names:
            cast = list(dict.fromkeys(names))[:CAST_WIDTH]
            out[row, : len(cast)] = [codes.get(name, 0) or name_code(name) for name in cast]
    return out
