"""The item table: every item's features and what the rules need, columnar and memory-mapped.

On disk it is a folder of `.npy` files and a `manifest.json` with each file's shape, dtype and sha256; replicas on
one machine share its pages. It is built beside the old one and takes over when the pointer file moves.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.durable import flush, write_bytes
from serving.errors import BundleError
from serving.features.id_index import IdIndex

ADULT = 18
CAST_WIDTH = 6
NEVER_US = np.iinfo(np.int64).min
ALWAYS_US = np.iinfo(np.int64).max
EVERYWHERE = np.uint64(2**64 - 1)
NO_INDEX = IdIndex.of(np.empty(0, "S1"))
OTHER_COUNTRY = 63

_MANIFEST = "manifest.json"
_DTYPES = {
    "features": "<f4", "maturity": "<i2", "licence_start_us": "<i8", "licence_end_us": "<i8",
    "country_mask": "<u8", "available_at_us": "<i8", "genre_mask": "<u8", "cast": "<i4", "year": "<i2",
    "franchise": "<i4", "edition": "<i4", "provider": "<i4",
}  # fmt: skip
_INDEX_DTYPES = {"id_hashes": "<u8", "id_rows": "<i4", "id_starts": "<i4"}
_GROUPS = ("franchise", "edition", "provider")


@dataclass(frozen=True)
class ItemTable:
    """N items by row.

    `ids` is 'S'[N], unique UTF-8; `features` float32[N, Di] in the order of `feature_names`, NaN where missing;
    `maturity` int16[N] in years, 18 where unknown; `licence_start_us` and `licence_end_us` int64[N] (the extreme
    int64 where open); `country_mask` uint64[N], bit i the vocabulary's country i, bit 63 any other country;
    `available_at_us` int64[N]; `genre_mask` uint64[N], bit i the vocabulary's genre i; `cast` int32[N, 6] stable
    hashes of names, -1 padded; `year` int16[N], 0 where unknown; `franchise`, `edition` (versions of one film share
    it) and `provider` int32[N] stable hashes of names, -1 for none, and where they are not given. `watermark_us`
    stamps the snapshot that the features come from.
    """

    ids: npt.NDArray[np.bytes_]
    features: npt.NDArray[np.float32]
    feature_names: tuple[str, ...]
    maturity: npt.NDArray[np.int16]
    licence_start_us: npt.NDArray[np.int64]
    licence_end_us: npt.NDArray[np.int64]
    country_mask: npt.NDArray[np.uint64]
    available_at_us: npt.NDArray[np.int64]
    genre_mask: npt.NDArray[np.uint64]
    cast: npt.NDArray[np.int32]
    year: npt.NDArray[np.int16]
    watermark_us: int
    franchise: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    edition: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    provider: npt.NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    index: IdIndex = NO_INDEX
    """For look-ups by id; made where it is not given."""

    def __post_init__(self) -> None:
        if len(self.index) != len(self.ids):
            object.__setattr__(self, "index", IdIndex.of(self.ids))
        for name in _GROUPS:
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.full(len(self.ids), -1, np.int32))

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def load(cls, directory: Path) -> "ItemTable":
        """Maps a written table into memory; sizes, shapes and dtypes are checked, hashes are not.

        Raises:
            BundleError: with every file that is missing, or is not what the manifest says.
        """
        manifest = _read_manifest(directory)
        problems: list[str] = []
        arrays = {name: _map(directory, name, entry, problems) for name, entry in manifest["arrays"].items()}
        missing = sorted({"ids", *_DTYPES} - set(_GROUPS) - set(arrays))
        problems += [f"{name}.npy is not in the manifest" for name in missing]
        if problems:
            raise BundleError(f"item table {directory} is damaged", problems)
        names = tuple(manifest["feature_names"])
        width = arrays["ids"].dtype.itemsize
        index = NO_INDEX
        if set(_INDEX_DTYPES) <= set(arrays):
            hashes, rows, starts = (np.asarray(arrays[name]) for name in _INDEX_DTYPES)
            index = IdIndex(hashes, rows, starts, width)
        arrays = {name: arrays[name] for name in ("ids", *_DTYPES) if name in arrays}
        return cls(feature_names=names, watermark_us=int(manifest["watermark_us"]), index=index, **arrays)

    def rows_of(self, ids: Sequence[str] | npt.NDArray[np.bytes_]) -> npt.NDArray[np.int32]:
        """int32[n]: the row of each id, -1 where it is not in the table."""
        return self.index.find(ids)

    def id_of(self, row: int) -> str:
        """The id of one row."""
        identifier: str = bytes(self.ids[row]).decode()
        return identifier

    def ids_of(self, rows: npt.NDArray[np.integer]) -> list[str]:
        """The ids of rows, in their order."""
        return [item.decode() for item in self.ids[rows].tolist()]

    def take(self, rows: npt.NDArray[np.integer]) -> "ItemTable":
        """The table of these rows, in their order."""
        columns = {name: getattr(self, name)[rows] for name in _columns()}
        return replace(self, **columns, index=NO_INDEX)

    def first(self, count: int) -> "ItemTable":
        """The table of the first rows, without a copy of anything but its index."""
        columns = {name: getattr(self, name)[:count] for name in _columns()}
        return replace(self, **columns, index=NO_INDEX)

    def reindex(self, ids: Sequence[str] | npt.NDArray[np.bytes_]) -> "ItemTable":
        """The table in the order of `ids` (a bundle's rows).

        An id that the table does not hold becomes a row without features that is never eligible.
        """
        rows = self.rows_of(ids)
        if len(self):
            columns = {name: getattr(self, name)[np.maximum(rows, 0)] for name in _columns()}
        else:
            columns = {name: np.zeros((len(ids), *getattr(self, name).shape[1:]), getattr(self, name).dtype)
                       for name in _columns()}  # fmt: skip
        columns["ids"] = np.asarray(ids if isinstance(ids, np.ndarray) else [item.encode() for item in ids], dtype="S")
        gone = rows < 0
        absent = {"features": np.nan, "maturity": ADULT, "licence_start_us": ALWAYS_US, "licence_end_us": NEVER_US,
                  "country_mask": 0, "available_at_us": ALWAYS_US, "genre_mask": 0, "cast": -1, "year": 0,
                  **dict.fromkeys(_GROUPS, -1)}  # fmt: skip
        for name, value in absent.items():
            columns[name][gone] = value
        return replace(self, **columns, index=NO_INDEX)


def write_item_table(directory: Path, table: ItemTable) -> None:
    """Writes a table to a folder that must not exist yet; it appears whole or not at all.

    Raises:
        BundleError: an array has the wrong shape or dtype, or an id is there twice; every problem is listed.
        FileExistsError: the folder exists.
    """
    problems = _check(table)
    if problems:
        raise BundleError("the item table cannot be written", problems)
    if directory.exists():
        raise FileExistsError(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    draft = directory.with_name(f".{directory.name}.draft-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    entries = {}
    for name, values in _arrays(table).items():
        array = np.ascontiguousarray(values)
        path = draft / f"{name}.npy"
        with path.open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        entries[name] = {"shape": list(array.shape), "dtype": array.dtype.str, "bytes": path.stat().st_size,
                         "sha256": _sha256(path)}  # fmt: skip
    manifest = {"format": 1, "watermark_us": table.watermark_us, "feature_names": list(table.feature_names),
                "arrays": entries}  # fmt: skip
    write_bytes(draft / _MANIFEST, json.dumps(manifest, indent=1).encode())
    os.rename(draft, directory)
    flush(directory.parent)


def verify_item_table(directory: Path) -> list[str]:
    """Every problem of a written table, its files' hashes included; empty where it is sound."""
    try:
        manifest = _read_manifest(directory)
        ItemTable.load(directory)
    except BundleError as error:
        return list(error.problems) or [error.what]
    entries = manifest["arrays"].items()
    return [f"{name}.npy does not have its sha256" for name, entry in entries
            if _sha256(directory / f"{name}.npy") != entry["sha256"]]  # fmt: skip


class ItemTablePointer:
    """The file `current` beside the item tables: it names the one in force and is moved last."""

    FILE = "current"

    @classmethod
    def current(cls, root: Path) -> Path | None:
        """The folder of the table in force, None where none was published."""
        try:
            name = (root / cls.FILE).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        return root / name

    @classmethod
    def publish(cls, root: Path, directory: Path) -> None:
        """Puts the table in `directory`, a folder directly under `root`, in force.

        Raises:
            BundleError: the folder is elsewhere, or its table cannot be loaded.
        """
        if directory.resolve().parent != root.resolve():
            raise BundleError(f"item table {directory} is not under {root}")
        ItemTable.load(directory)
        write_bytes(root / cls.FILE, directory.name.encode())


def _columns() -> list[str]:
    return [f.name for f in fields(ItemTable) if f.name not in ("feature_names", "watermark_us", "index")]


def _arrays(table: ItemTable) -> dict[str, npt.NDArray[Any]]:
    index = dict(zip(_INDEX_DTYPES, (table.index.hashes, table.index.rows, table.index.starts), strict=True))
    return {**{name: getattr(table, name) for name in _columns()}, **index}


def _check(table: ItemTable) -> list[str]:
    n = len(table.ids)
    shapes = {"features": (n, len(table.feature_names)), "cast": (n, CAST_WIDTH)}
    problems = [] if table.ids.dtype.kind == "S" else [f"ids must be bytes, not {table.ids.dtype}"]
    for name, dtype in _DTYPES.items():
        array, shape = getattr(table, name), shapes.get(name, (n,))
        if array.dtype != np.dtype(dtype) or array.shape != shape:
            problems.append(f"{name} must be {dtype}{shape}, it is {array.dtype.str}{array.shape}")
    problem = table.index.problem(table.ids)
    return problems if problem is None else [*problems, problem]


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / _MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(f"no item table at {directory}", [f"{_MANIFEST} is missing"]) from None
    except ValueError as error:
        raise BundleError(f"item table {directory} is damaged", [f"{_MANIFEST}: {error}"]) from None
    lacking = [key for key in ("watermark_us", "feature_names", "arrays") if key not in manifest]
    if manifest.get("format") != 1 or lacking:
        raise BundleError(f"item table {directory} is damaged", [f"{_MANIFEST} lacks format 1 or {lacking}"])
    return manifest


def _map(directory: Path, name: str, entry: dict[str, Any], problems: list[str]) -> npt.NDArray[Any]:
    path = directory / f"{name}.npy"
    try:
        if path.stat().st_size != entry["bytes"]:
            problems.append(f"{name}.npy has {path.stat().st_size} bytes, not {entry['bytes']}")
            return np.empty(0)
        # an empty array cannot be mapped
        mode = None if 0 in entry["shape"] else "r"
        array: npt.NDArray[Any] = np.load(path, mmap_mode=mode, allow_pickle=False)  # type: ignore[arg-type]
    except FileNotFoundError:
        problems.append(f"{name}.npy is missing")
        return np.empty(0)
    except ValueError as error:
        problems.append(f"{name}.npy: {error}")
        return np.empty(0)
    if list(array.shape) != entry["shape"] or array.dtype.str != entry["dtype"]:
        problems.append(f"{name}.npy is {array.dtype.str}{array.shape}, not {entry['dtype']}{entry['shape']}")
    return array


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
