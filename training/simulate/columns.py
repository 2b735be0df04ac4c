"""Arrow columns from numpy arrays, without a Python object for each value."""

from functools import lru_cache

import numpy as np
import pyarrow as pa

from training.data.schemas import TIMESTAMP


def digits(numbers: np.ndarray, width: int) -> np.ndarray:
    """Decimal digits with leading zeros: uint8[n, width] of ASCII; higher digits than `width` are lost."""
    quads = -(-width // 4)
    out = np.empty((len(numbers), quads), dtype=np.uint32)
    rest = np.asarray(numbers, dtype=np.int64)
    for column in range(quads - 1, -1, -1):
        rest, low = np.divmod(rest, 10_000)
        out[:, column] = _FOUR_DIGITS[low]
    return out.view(np.uint8)[:, 4 * quads - width :]


def fixed_strings(text: np.ndarray) -> pa.Array:
    """Strings of one length: uint8[n, width] of ASCII, C-contiguous, becomes a `string` array without a copy."""
    rows, width = text.shape
    data = pa.py_buffer(np.ascontiguousarray(text))
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(_offsets(rows, width)), data])


def words(vocabulary: tuple[str, ...], codes: np.ndarray) -> pa.Array:
    """The word of each code; a negative code is null."""
    indices = pa.array(codes) if not len(codes) or codes.min() >= 0 else pa.array(codes, mask=codes < 0)
    return pa.array(vocabulary, pa.string()).take(indices)


def timestamps(time_us: np.ndarray, mask: np.ndarray | None = None) -> pa.Array:
    """Microseconds since the epoch (int64[n]) as UTC timestamps; null where `mask` is true."""
    if mask is None:
        return pa.Array.from_buffers(TIMESTAMP, len(time_us), [None, pa.py_buffer(np.ascontiguousarray(time_us))])
    return pa.array(np.where(mask, 0, time_us), mask=mask).cast(TIMESTAMP)


def ragged(padded: np.ndarray, values: pa.Array) -> pa.Array:
    """Lists of `values` from codes int[n, most], -1 padded at the end; a row without any is an empty list."""
    present = padded >= 0
    offsets = np.zeros(len(padded) + 1, dtype=np.int32)
    np.cumsum(present.sum(axis=1), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), values.take(pa.array(padded[present])))


def _offsets(rows: int, width: int) -> np.ndarray:
    """int32[rows + 1] multiples of `width`, a view of a shared array while rows are few."""
    if rows * width >= 2**31:
        raise ValueError(f"{rows} strings of {width} bytes do not fit into one Arrow array")
    size = 1 << max(rows, 1).bit_length()
    return _multiples(size, width)[: rows + 1] if size * width < 2**31 else np.arange(rows + 1, dtype=np.int32) * width


@lru_cache(maxsize=32)
def _multiples(size: int, width: int) -> np.ndarray:
    return np.arange(size + 1, dtype=np.int32) * np.int32(width)


_FOUR_DIGITS = np.frombuffer("".join(f"{number:04d}" for number in range(10_000)).encode(), dtype=np.uint32)
