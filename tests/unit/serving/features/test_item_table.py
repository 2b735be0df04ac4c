from pathlib import Path

import numpy as np
import pytest

from serving.errors import BundleError
from serving.features.item_table import (
    ADULT,
    ALWAYS_US,
    NEVER_US,
    ItemTable,
    ItemTablePointer,
    verify_item_table,
    write_item_table,
)


def make_table(ids: list[str], watermark_us: int = 5) -> ItemTable:
    n = len(ids)
    return ItemTable(
        ids=np.array([i.encode() for i in ids], dtype="S") if ids else np.empty(0, "S1"),
        features=np.arange(n * 2, dtype=np.float32).reshape(n, 2),
        feature_names=("a", "b"),
        maturity=np.full(n, 12, np.int16),
        licence_start_us=np.full(n, NEVER_US),
        licence_end_us=np.full(n, ALWAYS_US),
        country_mask=np.full(n, 3, np.uint64),
        available_at_us=np.zeros(n, np.int64),
        genre_mask=np.ones(n, np.uint64),
        cast=np.full((n, 6), -1, np.int32),
        year=np.full(n, 1999, np.int16),
        watermark_us=watermark_us,
    )


def test_a_written_table_comes_back_mapped_and_whole(tmp_path: Path) -> None:
    write_item_table(tmp_path / "t", make_table(["b", "film-ü", "a"]))

    table = ItemTable.load(tmp_path / "t")

    assert isinstance(table.features, np.memmap)
    assert table.rows_of(["a", "film-ü", "nobody", "b", "", "a-much-longer-id"]).tolist() == [2, 1, -1, 0, -1, -1]
    assert (table.id_of(1), table.watermark_us, table.feature_names) == ("film-ü", 5, ("a", "b"))
    assert verify_item_table(tmp_path / "t") == []


def test_an_empty_table_can_be_written_and_read(tmp_path: Path) -> None:
    write_item_table(tmp_path / "t", make_table([]))

    table = ItemTable.load(tmp_path / "t")

    assert len(table) == 0
    assert table.rows_of(["a"]).tolist() == [-1]
    assert len(table.reindex(["a"])) == 1


def test_reindexing_keeps_a_bundles_rows_and_bars_items_that_are_gone() -> None:
    table = make_table(["a", "b", "c"]).reindex(["c", "gone", "a"])

    assert [table.id_of(r) for r in range(3)] == ["c", "gone", "a"]
    assert table.features[0].tolist() == [4, 5]
    assert np.isnan(table.features[1]).all()
    assert (table.maturity[1], table.licence_end_us[1], table.country_mask[1]) == (ADULT, NEVER_US, 0)
    assert table.rows_of(["a", "gone"]).tolist() == [2, 1]


def test_taking_rows_keeps_their_order() -> None:
    table = make_table(["a", "b", "c"]).take(np.array([2, 0]))

    assert table.ids.tolist() == [b"c", b"a"]
    assert table.rows_of(["a"]).tolist() == [1]


@pytest.mark.parametrize("name", ["ids", "features", "maturity", "cast", "id_hashes", "franchise"])
def test_a_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    write_item_table(tmp_path / "t", make_table(["a", "b"]))
    path = tmp_path / "t" / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    assert verify_item_table(tmp_path / "t") == [f"{name}.npy does not have its sha256"]


def test_missing_and_cut_files_are_all_named_at_load(tmp_path: Path) -> None:
    write_item_table(tmp_path / "t", make_table(["a", "b"]))
    (tmp_path / "t" / "year.npy").unlink()
    (tmp_path / "t" / "cast.npy").write_bytes(b"x")

    with pytest.raises(BundleError) as caught:
        ItemTable.load(tmp_path / "t")

    assert sorted(p.split(".")[0] for p in caught.value.problems) == ["cast", "year"]


def test_a_table_with_repeated_ids_or_wrong_shapes_is_not_written(tmp_path: Path) -> None:
    table = make_table(["a", "a"])
    object.__setattr__(table, "year", np.zeros(3, np.int16))

    with pytest.raises(BundleError) as caught:
        write_item_table(tmp_path / "t", table)

    assert len(caught.value.problems) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_pointer_moves_to_a_newer_table_and_never_to_a_broken_one(tmp_path: Path) -> None:
    assert ItemTablePointer.current(tmp_path) is None
    write_item_table(tmp_path / "one", make_table(["a"], 1))
    write_item_table(tmp_path / "two", make_table(["a"], 2))
    ItemTablePointer.publish(tmp_path, tmp_path / "one")
    ItemTablePointer.publish(tmp_path, tmp_path / "two")
    (tmp_path / "three").mkdir()

    with pytest.raises(BundleError):
        ItemTablePointer.publish(tmp_path, tmp_path / "three")

    current = ItemTablePointer.current(tmp_path)
    assert current is not None
    assert ItemTable.load(current).watermark_us == 2
