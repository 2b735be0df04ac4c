"""Features of a user's history and a candidate that depend on a trained bundle: similarity, co-watch, cast.

`Affinity` holds the bundle's arrays and answers for one request at a time; training calls it once per request
group, so that both sides run the same additions in the same order.

Legend: C candidates, L history films, N bundle rows, K neighbours, M rows of the cast table (M >= N).
"""

import threading

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]

LAST_FILMS = 5
WIDTH = 11


class Affinity:
    """The bundle's neighbour and cast tables, ready to score a request's candidates.

    `neighbour_rows` is int32[N, K], -1 padded, one row per item, each neighbour at most once in a row;
    `neighbour_scores` is float32[N, K]; `cast` is int32[M, 6] of hashed names, -1 padded.
    """

    def __init__(self, neighbour_rows: Rows, neighbour_scores: Matrix, cast: Rows) -> None:
        self._neighbour_rows = neighbour_rows
        self._neighbour_scores = neighbour_scores
        self._cast, self._people = _person_codes(cast)
        self._scratch = threading.local()

    def features(
        self, user_embedding: Matrix | None, item_embeddings: Matrix, history: Rows, candidates: Rows
    ) -> Matrix:
        """float32[C, Da]: the affinity view of one request.

        `user_embedding` is float32[d], L2-normalised, or None (the similarity is then 0); `item_embeddings` is
        float32[C, d] of the candidates; `history` is int32[L], oldest first, where -1 is padding; `candidates`
        is int32[C], repeats allowed. An empty history gives zeros but for the similarity.
        """
        out = np.zeros((len(candidates), WIDTH), np.float32)
        if user_embedding is not None:
            out[:, 0] = similarity(user_embedding, item_embeddings)
        known = history[history >= 0]
        if len(known) and len(candidates):
            self._add_cowatch(out, known, candidates)
            self._add_cast(out, known, candidates)
        return out

    def _add_cowatch(self, out: Matrix, history: Rows, candidates: Rows) -> None:
        embedded = np.flatnonzero(history < len(self._neighbour_rows))
        rows = history[embedded]
        slot = self._buffer("slot", max(len(self._neighbour_rows), len(self._cast)) + 1, -1)
        slot[candidates] = np.arange(len(candidates), dtype=np.int32)
        own = slot[candidates]  # a repeated candidate shares the slot of its last copy
        hit = slot[self._neighbour_rows[rows]]  # the last place is never a candidate: -1 stays -1
        slot[candidates] = -1
        film, place = np.nonzero(hit >= 0)
        index = hit[film, place]
        score = self._neighbour_scores[rows[film], place]
        age = len(history) - 1 - embedded[film]  # 0 is the very last film
        best = np.zeros(len(candidates), np.float32)
        np.maximum.at(best, index, score)
        total = _sum_by(index, score, len(candidates))
        last, recent = age == 0, age < LAST_FILMS
        count = np.bincount(index, minlength=len(candidates))
        out[:, 1] = best[own]
        out[:, 2] = (total / len(history))[own]
        out[:, 3] = total[own]
        out[:, 4] = _sum_by(index[last], score[last], len(candidates))[own]
        out[:, 5] = _sum_by(index[recent], score[recent], len(candidates))[own]
        out[:, 6] = (count / len(history))[own]

    def _add_cast(self, out: Matrix, history: Rows, candidates: Rows) -> None:
        films = self._buffer("films", self._people + 1, 0)
        candidate_cast = self._cast[candidates]
        known = candidate_cast < self._people
        for column, rows in ((10, history[-LAST_FILMS:]), (7, history)):
            people = self._cast[rows].ravel()
            np.add.at(films, people, 1)
            films[self._people] = 0
            shared = films[candidate_cast]
            films[people] = 0
            out[:, column] = shared.sum(axis=1)
        out[:, 8] = shared.max(axis=1)
        out[:, 9] = np.count_nonzero((shared > 0) & known, axis=1)

    def _buffer(self, name: str, length: int, fill: int) -> npt.NDArray[np.int32]:
        # kept per thread and left as it was found: a dense table without clearing N rows per request
        buffer: npt.NDArray[np.int32] | None = getattr(self._scratch, name, None)
        if buffer is None:
            buffer = np.full(length, fill, np.int32)
            setattr(self._scratch, name, buffer)
        return buffer


def affinity_features(
    user_embeddings: Matrix | None,
    item_embeddings: Matrix,
    history_rows: Rows,
    neighbour_rows: Rows,
    neighbour_scores: Matrix,
    candidates: Rows,
    cast: Rows,
) -> Matrix:
    """float32[R, Da]: the affinity view where every row may have its own user.

    `user_embeddings` is float32[R or 1, d] or None, `history_rows` int32[R or 1, L] (-1 padded, newest last); the
    rest as in `Affinity`. One row of user and history stands for every candidate.
    """
    affinity = Affinity(neighbour_rows, neighbour_scores, cast)
    if len(history_rows) == 1 and (user_embeddings is None or len(user_embeddings) == 1):
        user = None if user_embeddings is None else user_embeddings[0]
        return affinity.features(user, item_embeddings, history_rows[0], candidates)
    out = np.empty((len(candidates), WIDTH), np.float32)
    for r in range(len(candidates)):
        user = None if user_embeddings is None else user_embeddings[r % len(user_embeddings)]
        history = history_rows[r % len(history_rows)]
        out[r] = affinity.features(user, item_embeddings[r : r + 1], history, candidates[r : r + 1])[0]
    return out


def similarity(user_embedding: Matrix, item_embeddings: Matrix) -> Matrix:
    """float32[C]: the dot product of float32[d] (or float32[C, d]) with each row of float32[C, d]."""
    product = np.multiply(user_embedding, item_embeddings, order="C", dtype=np.float32)
    result: Matrix = np.sum(product, axis=-1, dtype=np.float32)
    return result


def _sum_by(index: npt.NDArray[np.int32], score: Matrix, length: int) -> npt.NDArray[np.float64]:
    # adds in float64 in the order of the history, whatever other candidates there are
    return np.bincount(index, weights=score, minlength=length).astype(np.float64, copy=False)


def _person_codes(cast: Rows) -> tuple[Rows, int]:
    people, codes = np.unique(cast, return_inverse=True)
    padded = int(len(people) > 0 and people[0] == -1)
    count = len(people) - padded
    codes = codes.reshape(cast.shape) - padded
    return np.where(codes < 0, count, codes).astype(np.int32), count  # padding is the last code
