"""Feast's storage format, read by hand: entity keys, protobuf values and Redis field names.

A replica that only reads two rows per request need not import Feast's SDK. The formats are those of entity key
serialisation version 3 and of `feast.types.Value`, held to the installed Feast by a contract test:
https://github.com/feast-dev/feast/blob/master/docs/specs/online_store_format.md
"""

import struct

import numpy as np
import numpy.typing as npt

_STRING_TYPE = 2  # feast.types.ValueType.STRING
_STRING_LIST, _INT64_LIST, _FLOAT_LIST = 12, 14, 16  # field numbers of feast.types.Value
_LENGTH_DELIMITED = 2
_LIST_TAG = 0x0A  # field 1, length-delimited: the `val` of every list message


def entity_key(join_key: str, entity_id: str) -> bytes:
    """One string entity as Feast serialises it (version 3)."""
    name, value = join_key.encode(), entity_id.encode()
    head = struct.pack(f"<III{len(name)}s", 1, _STRING_TYPE, len(name), name)
    return head + struct.pack(f"<II{len(value)}s", _STRING_TYPE, len(value), value)


def redis_field(view: str, feature: str) -> bytes:
    """The field of a Redis hash that holds one feature: murmur3 of `view:feature`, little endian."""
    return struct.pack("<I", murmur3_32(f"{view}:{feature}".encode()))


def decode_floats(value: bytes) -> npt.NDArray[np.float32] | None:
    """float32[n] of a `float_list_val`; None where the value is null.

    Raises:
        ValueError: the bytes are no such value.
    """
    body = _list_body(value, _FLOAT_LIST)
    if body is None:
        return None
    return np.frombuffer(_packed(body), "<f4")


def decode_int64s(value: bytes) -> npt.NDArray[np.int64] | None:
    """int64[n] of an `int64_list_val`; None where the value is null.

    Raises:
        ValueError: the bytes are no such value.
    """
    body = _list_body(value, _INT64_LIST)
    if body is None:
        return None
    return _varints(np.frombuffer(_packed(body), np.uint8))


def decode_strings(value: bytes) -> list[str] | None:
    """The strings of a `string_list_val`; None where the value is null.

    Raises:
        ValueError: the bytes are no such value.
    """
    body = _list_body(value, _STRING_LIST)
    if body is None:
        return None
    if body and body[0] == _LIST_TAG and body[1] < 0x80:
        same = _equally_long_strings(body, body[1])
        if same is not None:
            return same
    strings, at = [], 0
    while at < len(body):
        if body[at] != _LIST_TAG:
            raise ValueError("not a list of strings")
        length, at = _varint(body, at + 1)
        strings.append(body[at : at + length].decode())
        at += length
    return strings


def decode_seconds(timestamp: bytes) -> int:
    """Whole seconds of a `google.protobuf.Timestamp`."""
    if not timestamp or timestamp[0] != 0x08:
        return 0
    return _varint(timestamp, 1)[0]


def murmur3_32(data: bytes) -> int:
    """MurmurHash3 (x86, 32 bit, seed 0) by Austin Appleby, as an unsigned integer."""
    mask, state = 0xFFFFFFFF, 0
    whole = len(data) // 4 * 4
    for (block,) in struct.iter_unpack("<I", data[:whole]):
        state ^= _murmur_mix(block)
        state = ((state << 13 | state >> 19) * 5 + 0xE6546B64) & mask
    if len(data) > whole:
        state ^= _murmur_mix(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & mask
    state = (state ^ state >> 13) * 0xC2B2AE35 & mask
    return state ^ state >> 16


def _murmur_mix(block: int) -> int:
    block = block * 0xCC9E2D51 & 0xFFFFFFFF
    return (block << 15 | block >> 17) * 0x1B873593 & 0xFFFFFFFF


def _list_body(value: bytes, field: int) -> bytes | None:
    if not value:
        return None
    tag, at = _varint(value, 0)
    if tag & 7 != _LENGTH_DELIMITED:
        return None  # null_val is an enum
    if tag >> 3 != field:
        raise ValueError(f"stored as field {tag >> 3} of feast.types.Value, not {field}")
    length, at = _varint(value, at)
    if at + length != len(value):
        raise ValueError("truncated value")
    return value[at:]


def _packed(body: bytes) -> bytes:
    if not body:
        return b""
    length, at = _varint(body, 1)
    if body[0] != _LIST_TAG or at + length != len(body):
        raise ValueError("not one packed list")
    return body[at:]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("truncated value")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _varints(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    if not len(data):
        return np.empty(0, np.int64)
    ends = np.flatnonzero(data < 0x80)
    if not len(ends) or ends[-1] != len(data) - 1:
        raise ValueError("truncated value")
    starts = np.concatenate(([0], ends[:-1] + 1))
    digit = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    parts = (data & 0x7F).astype(np.uint64) << (7 * digit).astype(np.uint64)
    # 64 bits hold the ten groups of a negative number only by dropping its highest bits, as protobuf does
    return np.add.reduceat(parts, starts).view(np.int64)


def _equally_long_strings(body: bytes, length: int) -> list[str] | None:
    step = length + 2
    if not length or len(body) % step:
        return None
    table = np.frombuffer(body, np.uint8).reshape(-1, step)
    if not (np.all(table[:, 0] == _LIST_TAG) and np.all(table[:, 1] == length)):
        return None
    text = table[:, 2:].tobytes()
    if not text.isascii():
        return None
    joined = text.decode("ascii")
    return [joined[at : at + length] for at in range(0, len(joined), length)]
