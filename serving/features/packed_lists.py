"""Feast's list values in the shape that they nearly always have, read in a few calls; any other by `feast_format`.

Ids of one length are cut in one go, and times of eight varint bytes (every moment from 1987 to 4253, in
microseconds) are one product.
"""

import numpy as np
import numpy.typing as npt

from serving.features.feast_format import decode_int64s, decode_strings

_STRING_LIST, _INT64_LIST = 0x62, 0x72  # tags of feast.types.Value: fields 12 and 14, length-delimited
_LIST_TAG = 0x0A
_ONE_BYTE = 0x80
_LAST_OF_EIGHT = np.uint64(0x0080808080808080)
_MARKS = np.uint64(0x8080808080808080)
_WORTH = 128 ** np.arange(8)
"""int64[8]: of each of a varint's groups of seven bits."""


def read_strings(value: bytes) -> list[str] | None:
    """The strings of a `string_list_val`; None where the value is null.

    Raises:
        ValueError: the bytes are no such value.
    """
    body = _body(value, _STRING_LIST)
    if body is not None and len(body) > 1 and body[0] == _LIST_TAG and 0 < body[1] < _ONE_BYTE and body.isascii():
        length = body[1]
        # with all parts of this length, every cut was where a string's tag and length stand
        parts = body.decode("ascii").split("\n" + chr(length))[1:]
        if len(parts) * (length + 2) == len(body) and set(map(len, parts)) == {length}:
            return parts
    return decode_strings(value)


def read_int64s(value: bytes) -> npt.NDArray[np.int64] | None:
    """int64[n] of an `int64_list_val`; None where the value is null.

    Raises:
        ValueError: the bytes are no such value.
    """
    body = _body(value, _INT64_LIST)
    packed = None if body is None else _body(body, _LIST_TAG)
    if packed and len(packed) % 8 == 0:
        words = np.frombuffer(packed, "<u8")
        if ((words & _MARKS) == _LAST_OF_EIGHT).all():
            digits = np.frombuffer(packed, np.uint8).reshape(-1, 8) & 0x7F
            return digits.astype(np.int64) @ _WORTH
    return decode_int64s(value)


def _body(value: bytes, tag: int) -> bytes | None:
    """What follows one tag and a length that fits; None for anything else."""
    if len(value) < 2 or value[0] != tag:
        return None
    length, at = value[1], 2
    if length >= _ONE_BYTE:
        if len(value) < 3 or value[2] >= _ONE_BYTE:
            return None
        length, at = length & 0x7F | value[2] << 7, 3
    return value[at:] if at + length == len(value) else None
