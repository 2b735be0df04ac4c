"""Golden examples: inputs frozen in the bundle with what the models made of them when it was written.

Recomputed scores must lie within 1e-4 relative, and in the same order where gaps exceed 1e-3. An error is
relative to the largest magnitude of its request: a score near zero that is the sum of large terms has no
meaningful relative error of its own.

Legend: G golden requests, Du user features, d embedding length, C candidates, F features, Dq and Dc features of a
request and of a candidate, K best candidates.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundles.files import open_array
from serving.bundles.layout import CANDIDATE, FEATURES, ITEM_EMBEDDINGS, MODEL_FILES, RANKER, REQUEST, USER_TOWER
from serving.bundles.onnx_models import open_session, predict
from serving.bundles.writer import BundleWriter
from serving.errors import BundleError

RELATIVE_TOLERANCE = 1e-4
ORDER_GAP = 1e-3
TOP_CANDIDATES = 100

USER = "golden/user.npy"
HISTORY = "golden/history.npy"
EMBEDDING = "golden/embedding.npy"
SCORES = "golden/scores.npy"
CANDIDATES = "golden/candidates.npy"
CANDIDATE_SCORES = "golden/candidate_scores.npy"
FILES = (USER, HISTORY, EMBEDDING, SCORES, CANDIDATES, CANDIDATE_SCORES)
"""Beside them stands what the ranker is fed, a file for each of its inputs: `golden/INPUT.npy`."""


def freeze_golden(
    writer: BundleWriter,
    user: np.ndarray,
    history: np.ndarray,
    features: np.ndarray,
    request: np.ndarray | None = None,
) -> None:
    """Runs the draft's user tower and ranker on examples and writes inputs, outputs and best candidates.

    Args:
        writer: a draft that holds both models and the item embeddings already.
        user: float32[G, Du], defaults filled in.
        history: float32[G, d], pooled history embeddings.
        features: float32[G, C, F], the ranker's matrix of each request; beside `request`, float32[G, C, Dc].
        request: float32[G, Dq], for a ranker that takes what candidates share apart.

    Raises:
        BundleError: inputs that are empty or not finite, or a model that cannot be run on them.
    """
    ranked = {FEATURES: features} if request is None else {REQUEST: request[:, None], CANDIDATE: features}
    inputs = {USER: user, HISTORY: history, **{input_file(name): array for name, array in ranked.items()}}
    wrong = [path for path, array in inputs.items() if array.size == 0 or not np.isfinite(array).all()]
    if wrong:
        raise BundleError("golden inputs must be finite and not empty", wrong)
    for path, array in inputs.items():
        writer.write_array(path, array.astype(np.float32))
    embedding = _embed(writer.directory, user, history)
    writer.write_array(EMBEDDING, embedding)
    writer.write_array(SCORES, _rank(writer.directory, ranked))
    items = np.asarray(open_array(writer.directory / ITEM_EMBEDDINGS))
    similarity = embedding @ items.T
    best = np.argsort(-similarity, axis=1, kind="stable")[:, :TOP_CANDIDATES].astype(np.int32)
    writer.write_array(CANDIDATES, best)
    writer.write_array(CANDIDATE_SCORES, np.take_along_axis(similarity, best, axis=1))


def input_file(name: str) -> str:
    """Where the golden values of one of the ranker's inputs stand."""
    return f"golden/{name}.npy"


def golden_problems(directory: Path, dimension: int, ranker_inputs: Sequence[str]) -> dict[str, str]:
    """What the models and embeddings make of the golden inputs on this machine, where it differs; by path.

    `ranker_inputs` names what the ranker is fed, as the manifest does.
    """
    files = (*FILES, *map(input_file, ranker_inputs))
    missing = {path: "the bundle lacks this file" for path in files if not (directory / path).is_file()}
    if missing:
        return missing
    frozen = {path: np.asarray(open_array(directory / path)) for path in files}
    problems: dict[str, str] = {}
    try:
        embedding = _embed(directory, frozen[USER], frozen[HISTORY])
        _note(problems, EMBEDDING, value_problem(frozen[EMBEDDING], embedding))
        if EMBEDDING not in problems and embedding.shape[1:] == (dimension,):
            problems |= _candidate_problems(directory, embedding, frozen)
    except BundleError as error:
        problems[MODEL_FILES[USER_TOWER]] = _reason(error)
    try:
        scores = _rank(directory, {name: frozen[input_file(name)] for name in ranker_inputs})
        problem = value_problem(frozen[SCORES], scores) or order_problem(frozen[SCORES], scores)
        _note(problems, SCORES, problem)
    except BundleError as error:
        problems[MODEL_FILES[RANKER]] = _reason(error)
    return problems


def value_problem(frozen: np.ndarray, recomputed: np.ndarray) -> str | None:
    """Whether recomputed values differ from frozen ones, float32[G, n], by more than 1e-4 of a row's largest."""
    if frozen.shape != recomputed.shape:
        return f"shape {list(frozen.shape)} is frozen, {list(recomputed.shape)} is recomputed"
    if not (np.isfinite(frozen).all() and np.isfinite(recomputed).all()):
        return "values that are not finite"
    scale = np.maximum(np.abs(frozen).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    worst = float((np.abs(frozen.astype(np.float64) - recomputed) / scale).max())
    return f"recomputed values are off by {worst:.1e} relative" if worst > RELATIVE_TOLERANCE else None


def order_problem(frozen: np.ndarray, recomputed: np.ndarray) -> str | None:
    """Whether two candidates whose frozen scores, float32[G, C], are over 1e-3 apart have changed places."""
    for request, (before, after) in enumerate(zip(frozen, recomputed, strict=True)):
        apart = before[:, None] - before[None, :] > ORDER_GAP
        if (apart & (after[:, None] <= after[None, :])).any():
            return f"request {request} is ordered differently"
    return None


def _candidate_problems(directory: Path, embedding: np.ndarray, frozen: dict[str, np.ndarray]) -> dict[str, str]:
    items = np.asarray(open_array(directory / ITEM_EMBEDDINGS))
    rows, scores = frozen[CANDIDATES], frozen[CANDIDATE_SCORES]
    if rows.ndim != 2 or rows.shape[0] != len(embedding) or rows.min() < 0 or rows.max() >= len(items):
        return {CANDIDATES: f"shape {list(rows.shape)} or a row outside 0 to {len(items) - 1}"}
    similarity = embedding @ items.T
    recomputed = np.take_along_axis(similarity, rows, axis=1)
    problem = value_problem(scores, recomputed) or order_problem(scores, recomputed)
    np.put_along_axis(similarity, rows, -np.inf, axis=1)
    if problem is None and (similarity.max(axis=1) > scores.min(axis=1) + ORDER_GAP).any():
        problem = "a better candidate is left out"
    return {CANDIDATE_SCORES: problem} if problem else {}


def _embed(directory: Path, user: np.ndarray, history: np.ndarray) -> np.ndarray:
    inputs = {"user": user.astype(np.float32), "history": history.astype(np.float32)}
    return _run(directory / MODEL_FILES[USER_TOWER], [inputs])


def _rank(directory: Path, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    path = directory / MODEL_FILES[RANKER]
    typed = {name: array.astype(np.float32) for name, array in inputs.items()}
    requests = range(min(map(len, typed.values())))
    outputs = _run(path, [{name: array[i] for name, array in typed.items()} for i in requests])
    return outputs.reshape(len(requests), -1)


def _run(path: Path, batches: list[dict[str, np.ndarray]]) -> np.ndarray:
    session = open_session(path)
    try:
        return np.concatenate([predict(session, batch) for batch in batches])
    except Exception as error:  # the runtime's error classes have no base of their own
        raise BundleError(f"{path.name} fails on golden inputs", [" ".join(str(error).split())[:300]]) from error


def _note(problems: dict[str, str], path: str, problem: Any) -> None:
    if problem:
        problems[path] = problem


def _reason(error: BundleError) -> str:
    return error.problems[0] if error.problems else error.what
