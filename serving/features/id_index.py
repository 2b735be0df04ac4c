"""Rows of ids without a search: a hash table of three arrays that is made once and then mapped from disk.

Looking 200 ids up among a million costs some 30 us; a binary search over the ids themselves costs 500.

N ids, B buckets, n ids looked up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.bytes_]
Hashes = npt.NDArray[np.uint64]

_WORD = 8
_PROBES = np.arange(4)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 1 << 16


def _odd_numbers(count: int) -> Hashes:
    """uint64[count] from SplitMix64 (Steele et al., 2014): the same on every machine, as stored hashes must be."""
    numbers, mask = [], (1 << 64) - 1
    for place in range(1, count + 1):
        mixed = place * 0x9E3779B97F4A7C15 & mask
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & mask
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & mask
        numbers.append((mixed ^ mixed >> 31) | 1)
    return np.array(numbers, np.uint64)


_MULTIPLIERS = _odd_numbers(32)
"""One for each eight bytes of an id, of which there are at most 128."""


@dataclass(frozen=True)
class IdIndex:
    """N ids ordered by their 64-bit hash.

    `hashes` uint64[N] rising; `rows` int32[N], the row of each; `starts` int32[B + 1], B a power of two: the
    entries whose hash begins with the bits of b are `starts[b]:starts[b + 1]`. Two ids of one hash, one chance in
    thirty million for a million ids, are looked up as the one with the lower row. `id_bytes`: the longest id's.
    """

    hashes: Hashes
    rows: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int32]
    id_bytes: int

    @classmethod
    def of(cls, ids: Ids) -> "IdIndex":
        """The index of distinct ids 'S'[N], in rows of their order."""
        hashes = np.concatenate([_hash(_words(ids[at : at + _BLOCK])) for at in range(0, max(len(ids), 1), _BLOCK)])
        rows = np.argsort(hashes, kind="stable").astype(np.int32)
        hashes = hashes[rows]
        buckets = 1 << max(len(ids) - 1, 1).bit_length()
        starts = np.zeros(buckets + 1, np.int32)
        np.cumsum(np.bincount(_bucket(hashes, buckets), minlength=buckets), out=starts[1:])
        return cls(hashes, rows, starts, ids.dtype.itemsize)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, ids: Sequence[str] | Ids) -> npt.NDArray[np.int32]:
        """int32[n]: the row of each id, -1 where there is none."""
        if not len(ids) or not len(self):
            return np.full(len(ids), -1, np.int32)
        hashes = _hash(_words(ids if isinstance(ids, np.ndarray) else self._encoded(ids)))
        entry = self.starts.take(_bucket(hashes, len(self.starts) - 1))
        entry += (self.hashes.take(entry[:, None] + _PROBES, mode="clip") == hashes[:, None]).argmax(axis=1)
        rows = self.rows.take(entry, mode="clip")
        found = self.hashes.take(entry, mode="clip") == hashes
        if not found.all():
            rows[~found] = self._search(hashes[~found])
        return rows

    def _encoded(self, ids: Sequence[str]) -> Ids:
        """'S'[n], with room for a byte more than any id has, so that a longer one is cut to what is not there."""
        kind = f"S{(self.id_bytes // _WORD + 1) * _WORD}"
        try:
            return np.array(ids, dtype=kind)
        except UnicodeEncodeError:  # NumPy itself encodes ASCII only
            return np.array([identifier.encode() for identifier in ids], dtype=kind)

    def _search(self, hashes: Hashes) -> npt.NDArray[np.int32]:
        # the few whose bucket holds more than is probed, and ids that are not there
        entry = np.minimum(np.searchsorted(self.hashes, hashes), len(self) - 1)
        return np.where(self.hashes[entry] == hashes, self.rows[entry], np.int32(-1))

    def problem(self, ids: Ids) -> str | None:
        """Why this is not the index of these ids, or why no index of them can be; None where all is well."""
        made = IdIndex.of(ids)
        if not all(np.array_equal(getattr(self, name), getattr(made, name)) for name in ("hashes", "rows", "starts")):
            return "the index of ids is not theirs"
        same = np.flatnonzero(made.hashes[1:] == made.hashes[:-1])
        twice = [bytes(ids[made.rows[at]]).decode() for at in same if ids[made.rows[at]] == ids[made.rows[at + 1]]]
        return f"items are there twice: {', '.join(sorted(set(twice))[:20])}" if twice else None


def _words(ids: Ids) -> Hashes:
    """uint64[n, w]: the bytes of ids, zeros behind their end."""
    words = max(1, -(-ids.dtype.itemsize // _WORD))
    padded = np.ascontiguousarray(ids.astype(f"S{words * _WORD}", copy=False))
    as_words: Hashes = padded.view("<u8").reshape(len(ids), words)
    return as_words


def _hash(words: Hashes) -> Hashes:
    """uint64[n]: multilinear, so that zeros behind an id's end change nothing (Lemire & Kaser, 2014), then mixed."""
    sums: Hashes = words[:, 0] * _MULTIPLIERS[0]
    for place in range(1, words.shape[1]):
        sums += words[:, place] * _MULTIPLIERS[place]
    sums ^= sums >> np.uint64(32)
    sums *= _MIX
    sums ^= sums >> np.uint64(29)
    return sums


def _bucket(hashes: Hashes, buckets: int) -> npt.NDArray[np.intp]:
    return (hashes >> np.uint64(64 - (buckets - 1).bit_length())).astype(np.intp)
