"""Checks of a bundle's arrays: shape and dtype, row ranges, padding, finite and normalised embeddings."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from serving.bundles.files import array_header, open_array
from serving.bundles.layout import HISTORY_EMBEDDINGS, ITEM_EMBEDDINGS, ArraySpec, array_specs
from serving.bundles.manifest import Manifest

NORM_TOLERANCE = 1e-3
_CHUNK_ROWS = 65_536


def array_problems(directory: Path, manifest: Manifest, damaged: set[str]) -> dict[str, str]:
    """What is wrong with each array, by path; files in `damaged` are not looked at again."""
    problems: dict[str, str] = {}
    specs = {spec.path: spec for spec in array_specs(manifest)}
    for spec in specs.values():
        if spec.path not in damaged and (problem := _header_problem(directory, spec, manifest)):
            problems[spec.path] = problem
    for spec in specs.values():
        doubtful = problems.keys() | damaged
        if spec.path in doubtful or spec.scores in doubtful:
            continue
        if problem := _content_problem(directory, spec, manifest.items):
            problems[spec.path] = problem
    return problems


def _header_problem(directory: Path, spec: ArraySpec, manifest: Manifest) -> str | None:
    if spec.path not in manifest.files:
        return "the bundle lacks this file"
    shape, dtype = array_header(directory / spec.path)
    fits = len(shape) == len(spec.shape) and all(
        want in (None, have) for want, have in zip(spec.shape, shape, strict=True)
    )
    if fits and dtype == np.dtype(spec.dtype) and 0 not in shape:
        return None
    want = ", ".join("any" if size is None else str(size) for size in spec.shape)
    return f"{dtype}{list(shape)} where {spec.dtype}[{want}] is expected"


def _content_problem(directory: Path, spec: ArraySpec, items: int) -> str | None:
    array = open_array(directory / spec.path)
    if spec.holds_rows:
        scores = open_array(directory / spec.scores) if spec.scores else None
        return _first(_row_problem(*chunk, items) for chunk in _chunks(array, scores))
    if spec.path == ITEM_EMBEDDINGS:
        return _first(_embedding_problem(part, True) for part, _ in _chunks(array, None))
    if spec.path == HISTORY_EMBEDDINGS:
        return _first(_embedding_problem(part, False) for part, _ in _chunks(array, None))
    return None


def _row_problem(rows: np.ndarray, scores: np.ndarray | None, items: int) -> str | None:
    if rows.min() < -1 or rows.max() >= items:
        return f"rows from {rows.min()} to {rows.max()} where -1 to {items - 1} are possible"
    padding = rows < 0
    if (padding[:, :-1] & ~padding[:, 1:]).any():
        return "padding (-1) before a row"
    ordered = np.sort(rows, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        return "an item twice in one list"
    if scores is None:
        return None
    if scores.shape != rows.shape:
        return f"shape {rows.shape} where its scores have {scores.shape}"
    return None if np.isfinite(scores[~padding]).all() else "an item without a finite score"


def _embedding_problem(embeddings: np.ndarray, normalised: bool) -> str | None:
    if not np.isfinite(embeddings).all():
        return "holds values that are not finite"
    if not normalised:
        return None
    off = np.abs(np.linalg.norm(embeddings, axis=1) - 1).max()
    return f"a row's length is {off:.2g} away from 1" if off > NORM_TOLERANCE else None


def _chunks(array: np.ndarray, partner: np.ndarray | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    for start in range(0, len(array), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        yield np.asarray(array[part]), None if partner is None else np.asarray(partner[part])


def _first(problems: Iterator[str | None]) -> str | None:
    return next((problem for problem in problems if problem), None)
