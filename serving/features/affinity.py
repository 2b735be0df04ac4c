"""Features of a user's history and a candidate that depend on a trained bundle: similarity, co-watch, cast.

`Affinity` holds the bundle's arrays and answers for one request at a time; training calls it once per request
group, so that both sides run the same additions in the same order.

Legend: C candidates, L history films, E of them in the neighbour table, N bundle rows, K neighbours, H hits (a
candidate among the neighbours of a history film), M rows of the cast table (M >= N), P people.
"""

import copy

import numpy as np
import numpy.typing as npt

from serving.features.scratch import Scratch

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]

LAST_FILMS = 5
WIDTH = 11
MAX_HISTORY = 10_000
MAX_CANDIDATES = 32_767

_COWATCH, _CAST = slice(1, 7), slice(7, 11)
_PLACES = np.arange(MAX_CANDIDATES, dtype=np.int16)
_RECENT_BITS = 16
_ALL_FILMS = (1 << _RECENT_BITS) - 1


class Affinity:
    """The bundle's neighbour and cast tables, ready to score a request's candidates; threads may share it.

    `neighbour_rows` is int32[N, K], -1 padded, one row per item, each neighbour at most once in a row;
    `neighbour_scores` is float32[N, K]; `cast` is int32[M, 6] of hashed names, -1 padded.
    """

    def __init__(self, neighbour_rows: Rows, neighbour_scores: Matrix, cast: Rows) -> None:
        self._neighbour_rows = np.ascontiguousarray(neighbour_rows)
        self._neighbour_scores = np.ascontiguousarray(neighbour_scores)
        self._people = _People(np.empty(0, np.int32), np.empty(0, np.int32))
        self._people, self._cast = self._people.with_codes(cast)
        self._scratch = Scratch()

    @property
    def items(self) -> int:
        """M, how many items' cast is known."""
        return len(self._cast)

    def extended(self, cast: Rows) -> "Affinity":
        """The same for a catalogue that has grown to int32[M, 6], of which only the rows that are new are read."""
        other = copy.copy(self)
        other._people, codes = self._people.with_codes(cast[len(self._cast) :])
        other._cast = np.concatenate([self._cast, codes])
        other._scratch = Scratch()
        return other

    def features(
        self,
        user_embedding: Matrix | None,
        item_embeddings: Matrix,
        history: Rows,
        candidates: Rows,
        out: Matrix | None = None,
    ) -> Matrix:
        """float32[C, Da]: the affinity view of one request.

        `user_embedding` is float32[d], L2-normalised, or None (the similarity is then 0); `item_embeddings` is
        float32[C, d] of the candidates; `history` is int32[L], oldest first, where -1 is padding, at most 10,000;
        `candidates` is int32[C], repeats allowed, at most 32,767. An empty history gives zeros but for the
        similarity. `out`, float32[C, Da] of any strides, is filled where it is given.

        Raises:
            ValueError: too many candidates, or too long a history.
        """
        if len(history) > MAX_HISTORY or len(candidates) > MAX_CANDIDATES:
            raise ValueError(f"{len(candidates)} candidates and a history of {len(history)}: too many for one request")
        if out is None:
            out = np.empty((len(candidates), WIDTH), np.float32)
        out[:, 0] = 0 if user_embedding is None else similarity(user_embedding, item_embeddings)
        known = history[history >= 0]
        if len(known) and len(candidates):
            out[:, _COWATCH] = self._cowatch(known, candidates).T
            out[:, _CAST] = self._shared_cast(known, candidates).T
        else:
            out[:, 1:] = 0
        return out

    def _cowatch(self, history: Rows, candidates: Rows) -> npt.NDArray[np.float64]:
        """[6, C]: highest, mean and sum of the scores, those of the last film and the last five, share of films."""
        count, width = len(candidates), self._neighbour_rows.shape[1]
        embedded = history < len(self._neighbour_rows)
        films = history if embedded.all() else history[embedded]
        near = self._scratch.take("near", (len(films), width), np.int32)
        self._neighbour_rows.take(films, axis=0, out=near, mode="clip")
        scores = self._scratch.take("scores", (len(films), width), np.float32)
        self._neighbour_scores.take(films, axis=0, out=scores, mode="clip")
        slot, own = self._slots(near, candidates)
        hits = np.flatnonzero(slot >= 0)  # the oldest film's first
        index, score = slot.take(hits).astype(np.intp), scores.take(hits).astype(np.float64)
        last = hits.searchsorted((len(films) - embedded[-1:].sum()) * width)
        recent = hits.searchsorted((len(films) - embedded[-LAST_FILMS:].sum()) * width)
        block = self._scratch.take("cowatch", (6, count), np.float64)
        block[0] = 0
        np.maximum.at(block[0], index, score)
        # in float64, hit after hit in the order of the history, whatever other candidates there are
        block[2] = np.bincount(index, score, count)
        block[3] = np.bincount(index[last:], score[last:], count)
        block[4] = np.bincount(index[recent:], score[recent:], count)
        block[5] = np.bincount(index, minlength=count)
        np.divide(block[2::3], len(history), out=block[1::4])
        return block if own is None else block[:, own]

    def _slots(self, near: Rows, candidates: Rows) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16] | None]:
        """int16[E * K]: which candidate each neighbour is, -1 for none; and, where candidates repeat, the place that
        each shares with its last copy."""
        places = _PLACES[: len(candidates)]
        table = self._scratch.table("slots", max(len(self._neighbour_rows), len(self._cast)) + 1, -1, np.int16)
        table[candidates] = places
        # the last place is never a candidate: the padding -1 finds -1
        slot = table.take(near, out=self._scratch.take("slot", near.shape, np.int16), mode="wrap")
        own = table.take(candidates)
        table[candidates] = -1
        return slot.ravel(), None if (own == places).all() else own

    def _shared_cast(self, history: Rows, candidates: Rows) -> npt.NDArray[np.int32]:
        """[4, C]: cast shared with the history by film, films of the best-known member, members known, and the first
        for the last five films."""
        films = self._scratch.table("films", len(self._people) + 1, 0, np.int32)
        watched = self._cast.take(history, axis=0, mode="clip").astype(np.intp)
        # one number counts all films in its lower bits and the last five in its upper ones
        weights = np.ones(watched.shape, np.int32)
        weights[-LAST_FILMS:] += 1 << _RECENT_BITS
        people = watched.ravel()
        np.add.at(films, people, weights.ravel())
        films[0] = 0
        cast = np.ascontiguousarray(self._cast.take(candidates, axis=0, mode="clip").T)
        counts = films.take(cast, mode="clip")
        films[people] = 0
        total = np.add.reduce(counts, axis=0)
        counts &= _ALL_FILMS
        block = self._scratch.take("cast", (4, len(candidates)), np.int32)
        np.bitwise_and(total, _ALL_FILMS, out=block[0])
        np.maximum.reduce(counts, axis=0, out=block[1])
        np.add.reduce(np.minimum(counts, 1), axis=0, out=block[2])
        np.right_shift(total, _RECENT_BITS, out=block[3])
        return block


class _People:
    """Who is known by which code: `names` sorted int32[P] of hashes, `codes` int32[P], from 1; 0 is nobody."""

    def __init__(self, names: Rows, codes: Rows) -> None:
        self._names = names
        self._codes = codes

    def __len__(self) -> int:
        return len(self._names)

    def with_codes(self, cast: Rows) -> tuple["_People", Rows]:
        """The people with those of int32[n, 6] added, and that cast as codes."""
        found = np.unique(cast)
        new = np.setdiff1d(found[found != -1], self._names, assume_unique=True)
        names = np.concatenate([self._names, new])
        codes = np.concatenate([self._codes, np.arange(len(self) + 1, len(names) + 1, dtype=np.int32)])
        order = np.argsort(names, kind="stable")
        people = _People(names[order], codes[order])
        return people, people._of(cast)

    def _of(self, cast: Rows) -> Rows:
        if not len(self):
            return np.zeros(cast.shape, np.int32)
        place = np.searchsorted(self._names, cast)
        return np.where(cast == -1, np.int32(0), self._codes.take(place, mode="clip"))


def similarity(user_embedding: Matrix, item_embeddings: Matrix) -> Matrix:
    """float32[C]: the dot product of float32[d] with each row of float32[C, d].

    Row after row along contiguous memory, so that a row's sum does not depend on the other rows.
    """
    result: Matrix = np.einsum("ij,j->i", np.ascontiguousarray(item_embeddings), np.ascontiguousarray(user_embedding))
    return result
