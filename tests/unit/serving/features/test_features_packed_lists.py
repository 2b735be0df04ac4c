"""The quick way of reading a list gives what the thorough one gives."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.features.feast_format import decode_int64s, decode_strings
from serving.features.packed_lists import read_int64s, read_strings


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def strings_value(strings: Sequence[str]) -> bytes:
    encoded = [each.encode() for each in strings]
    body = b"".join(b"\x0a" + varint(len(each)) + each for each in encoded)
    return b"\x62" + varint(len(body)) + body


def int64s_value(numbers: Sequence[int]) -> bytes:
    packed = b"".join(map(varint, numbers))
    body = b"\x0a" + varint(len(packed)) + packed if numbers else b""
    return b"\x72" + varint(len(body)) + body


@given(st.lists(st.text(max_size=9), max_size=40))
@example([f"i{i:07}" for i in range(300)])
@example(["ab\n\x08cde", "abcdefgh", "\n\x08abcdef", "\n\x08\n\x08\n\x08\n\x08"])
@example(["\n\x02", "\n\x02", "aa"])
@example(["x" * 127, "y" * 127])
@example(["x" * 128, "y" * 128])
@example(["", ""])
def test_strings_are_read_whatever_they_hold(strings: list[str]) -> None:
    value = strings_value(strings)

    assert read_strings(value) == strings == decode_strings(value)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40))
@example([1_767_225_600_000_000 + 977 * i for i in range(300)])
@example([2**49, 2**56 - 1])
@example([2**56, 2**49 - 1])
@example([0] * 8)
@example([2**55, -1])
def test_integers_are_read_whatever_they_are(numbers: list[int]) -> None:
    value = int64s_value(numbers)
    found, thorough = read_int64s(value), decode_int64s(value)

    assert found is not None
    assert thorough is not None
    assert found.dtype == np.int64
    assert found.tolist() == numbers == thorough.tolist()


@pytest.mark.parametrize("value", [b"", b"\x08\x00"])
def test_a_null_is_none(value: bytes) -> None:
    assert read_strings(value) is None
    assert read_int64s(value) is None


def test_what_is_cut_short_or_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="truncated"):
        read_strings(strings_value(["abcd", "efgh"])[:-1])
    with pytest.raises(ValueError, match="field 14"):
        read_strings(int64s_value([2**50]))
    with pytest.raises(ValueError, match="field 12"):
        read_int64s(strings_value(["abcd"]))
