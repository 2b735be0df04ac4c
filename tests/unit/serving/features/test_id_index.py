import numpy as np
import pytest

from serving.features.id_index import IdIndex


def ids_of(*names: str) -> np.ndarray:
    return np.array([name.encode() for name in names], dtype="S")


@pytest.mark.parametrize("count", [1, 2, 3, 1000, 70_000])
def test_every_id_is_found_in_its_row_and_no_other_is(count: int) -> None:
    names = [f"item-{number * 7919}" for number in range(count)]
    index = IdIndex.of(ids_of(*names))

    assert index.find(names).tolist() == list(range(count))
    assert index.find(ids_of(*names)).tolist() == list(range(count))
    assert set(index.find([f"other-{number}" for number in range(300)]).tolist()) == {-1}


def test_ids_that_are_cut_short_or_longer_or_empty_are_others() -> None:
    index = IdIndex.of(ids_of("abcdefgh", "abcdefghi", "ü" * 64))

    asked = ["abcdefgh", "abcdefghi", "abcdefg", "abcdefghij", "", "ü" * 64, "ü" * 63, "x" * 300]
    assert index.find(asked).tolist() == [0, 1, -1, -1, -1, 2, -1, -1]


def test_hashes_do_not_depend_on_how_wide_the_ids_are_stored() -> None:
    narrow, wide = ids_of("a", "bc"), ids_of("a", "bc").astype("S100")

    np.testing.assert_array_equal(IdIndex.of(narrow).hashes, IdIndex.of(wide).hashes)


def test_stored_hashes_stay_what_they_are() -> None:
    assert IdIndex.of(ids_of("i0000001", "film-ü")).hashes.tolist() == [0x4DC7F72C4A372B68, 0xA573AB1206408FCA]


def test_nothing_is_found_among_nothing() -> None:
    assert IdIndex.of(np.empty(0, "S1")).find(["a"]).tolist() == [-1]
    assert IdIndex.of(ids_of("a")).find([]).tolist() == []


def test_an_index_of_other_ids_and_ids_that_are_there_twice_are_named() -> None:
    ids = ids_of("a", "b", "c")

    assert IdIndex.of(ids).problem(ids) is None
    assert IdIndex.of(ids).problem(ids_of("a", "c", "b")) == "the index of ids is not theirs"
    assert IdIndex.of(ids_of("a", "b", "a")).problem(ids_of("a", "b", "a")) == "items are there twice: a"
