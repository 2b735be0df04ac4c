"""Writes a bundle into a draft directory; the manifest comes last, so a draft without one is incomplete."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from serving.bundles.manifest import MANIFEST, FileEntry, Manifest, canonical_bytes, is_inside
from serving.durable import flush_tree, write_bytes
from serving.errors import BundleError

_CHUNK_BYTES = 1 << 20


class BundleWriter:
    """Fills one draft directory, which it creates where it is missing.

    Parts that others write (an item table, ANN assets, an exported model) go straight below `directory`; `seal`
    lists whatever it finds there.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def path(self, relative: str) -> Path:
        """The place of a file in the draft; its folder exists afterwards.

        Raises:
            BundleError: the path leaves the draft, or is the manifest's own.
        """
        if not is_inside(relative) or relative == MANIFEST:
            raise BundleError("a bundle's file must stay inside it", [relative])
        target = self.directory / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def write_array(self, relative: str, array: np.ndarray) -> None:
        """Writes a `.npy` file in C order, never with pickled objects.

        Raises:
            BundleError: the array holds Python objects, or the path is not one for an array.
        """
        if array.dtype.hasobject or not relative.endswith(".npy"):
            raise BundleError("not an array file", [f"{relative}: dtype {array.dtype}"])
        with self.path(relative).open("wb") as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)

    def write_bytes(self, relative: str, content: bytes) -> None:
        """Writes a file as it is."""
        self.path(relative).write_bytes(content)

    def seal(self, fields: Mapping[str, Any]) -> Manifest:
        """Hashes every file, flushes all to disk and writes the manifest last.

        Args:
            fields: the manifest's fields but `files`; `created_at` is the current second where it is left out.

        Raises:
            BundleError: the fields break the manifest's schema, or the draft holds something other than files.
        """
        (self.directory / MANIFEST).unlink(missing_ok=True)
        files = {path: file_entry(self.directory / path) for path in list_files(self.directory)}
        document = {"created_at": datetime.now(UTC).replace(microsecond=0), **fields, "files": files}
        try:
            manifest = Manifest.model_validate(document)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or '(root)'}: {e['msg']}" for e in error.errors()]
            raise BundleError("the manifest does not fit its schema", problems) from None
        flush_tree(self.directory)
        write_bytes(self.directory / MANIFEST, canonical_bytes(manifest))
        return manifest


def list_files(directory: Path) -> list[str]:
    """Relative POSIX paths of all files below a bundle but its manifest, sorted.

    Raises:
        BundleError: there is a symbolic link or something that is neither a file nor a folder.
    """
    found, strange = [], []
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            strange.append(f"{relative}: neither a file nor a folder")
        elif path.is_file() and relative != MANIFEST:
            found.append(relative)
    if strange:
        raise BundleError(f"{directory} holds what no bundle may hold", strange)
    return found


def file_entry(path: Path) -> FileEntry:
    """Size and sha256 of a file, read in pieces of 1 MiB."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_CHUNK_BYTES):
            digest.update(piece)
            size += len(piece)
    return FileEntry(sha256=digest.hexdigest(), bytes=size)
