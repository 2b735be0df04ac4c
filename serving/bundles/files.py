"""File-level checks: what is listed is there to the byte, nothing else is, and nothing needs unpickling."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from serving.bundles.manifest import MANIFEST, Manifest
from serving.bundles.writer import file_entry, list_files
from serving.errors import BundleError

PICKLE_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".npz"})


def file_problems(directory: Path, manifest: Manifest) -> dict[str, str]:
    """What is wrong with each file of a bundle, by its relative path; empty when all is well."""
    try:
        present = list_files(directory)
    except BundleError as error:
        return dict(problem.split(": ", 1) for problem in error.problems)
    problems = dict.fromkeys(manifest.files.keys() - set(present), "listed in the manifest but missing")
    for path in present:
        problem = _content_problem(directory / path, path, manifest) or _pickle_problem(directory / path)
        if problem:
            problems[path] = problem
    return problems


def _content_problem(path: Path, relative: str, manifest: Manifest) -> str | None:
    listed = manifest.files.get(relative)
    if listed is None:
        return f"not listed in {MANIFEST}"
    found = file_entry(path)
    if found.bytes != listed.bytes:
        return f"{found.bytes} bytes where {listed.bytes} are listed"
    if found.sha256 != listed.sha256:
        return f"sha256 {found.sha256[:12]}... where {listed.sha256[:12]}... is listed"
    return None


def _pickle_problem(path: Path) -> str | None:
    if path.suffix in PICKLE_SUFFIXES or _looks_pickled(path):
        return "a pickle, or an archive that may hold one, has no place in a bundle"
    if path.suffix != ".npy":
        return None
    try:
        holds_objects = array_header(path)[1].hasobject
    except (ValueError, OSError) as error:
        return f"not a NumPy array: {error}"
    return "an array of pickled Python objects" if holds_objects else None


def _looks_pickled(path: Path) -> bool:
    """Protocols 2 to 5 begin with PROTO and their number, and end with STOP."""
    if path.stat().st_size < 3:
        return False
    with path.open("rb") as file:
        start = file.read(2)
        file.seek(-1, 2)
        return start[0] == 0x80 and 2 <= start[1] <= 5 and file.read(1) == b"."


def array_header(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of a `.npy` file, from its header alone.

    Raises:
        ValueError: it is not one.
    """
    with path.open("rb") as file:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype


def open_array(path: Path) -> np.ndarray:
    """Memory-maps a `.npy` file, read-only.

    Raises:
        ValueError: it is damaged, or holds Python objects.
    """
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def lines(problems: dict[str, str]) -> list[str]:
    """One `path: problem` line each, sorted by path."""
    return [f"{path}: {problems[path]}" for path in sorted(problems)]


def under(paths: Iterable[str], folder: str) -> bool:
    """Whether any of the paths lies in a folder."""
    return any(path.startswith(f"{folder}/") for path in paths)
