"""Who has watched what, in bounded memory."""

import numpy as np

MOST_BITS = 1 << 30
_MIX = np.uint64(0x9E3779B97F4A7C15)


class WatchedFilms:
    """One bit per user and film while that fits into 128 MiB.

    Beyond, the pairs share the bits by a multiplicative hash (Knuth, TAOCP 6.4): a pair that was added is
    always found, and another is taken for watched with the share of bits set, some thousandths at most.
    """

    def __init__(self, users: int, items: int) -> None:
        self._items = items
        self._exact = users * items <= MOST_BITS
        bits = users * items if self._exact else MOST_BITS
        self._shift = np.uint64(64 - (MOST_BITS.bit_length() - 1))
        self._bytes = np.zeros(bits // 8 + 1, dtype=np.uint8)

    def add(self, user: np.ndarray, item: np.ndarray) -> None:
        """Remembers pairs; repeats are fine."""
        byte, bit = self._place(user, item)
        np.bitwise_or.at(self._bytes, byte, bit)

    def contains(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """Which of the pairs (broadcast together) were added: bool of the broadcast shape."""
        byte, bit = self._place(user, item)
        found: np.ndarray = (self._bytes[byte] & bit) != 0
        return found

    def _place(self, user: np.ndarray, item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        key = np.asarray(user, dtype=np.int64) * self._items + item
        if not self._exact:
            key = ((key.astype(np.uint64) * _MIX) >> self._shift).astype(np.int64)
        return key >> 3, np.left_shift(np.uint8(1), (key & 7).astype(np.uint8))
