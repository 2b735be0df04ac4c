"""Bulk building of columns, and the memory of who watched what."""

import numpy as np
import pyarrow as pa
import pytest

from training.simulate import watched
from training.simulate.columns import digits, fixed_strings, ragged, timestamps, words
from training.simulate.watched import WatchedFilms


def test_digits_have_leading_zeros_and_keep_the_lowest_places():
    text = fixed_strings(digits(np.array([0, 7, 1234567, 98765432]), 7))
    assert text.to_pylist() == ["0000000", "0000007", "1234567", "8765432"]


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 1025])
def test_fixed_strings_are_valid_arrow_of_any_length(rows):
    column = fixed_strings(np.full((rows, 5), ord("x"), dtype=np.uint8))
    column.validate(full=True)
    assert column.to_pylist() == ["xxxxx"] * rows


def test_words_of_negative_codes_are_null():
    assert words(("a", "bc"), np.array([1, -1, 0])).to_pylist() == ["bc", None, "a"]


def test_padding_is_left_out_of_lists():
    lists = ragged(np.array([[0, 2, -1], [-1, -1, -1], [1, -1, -1]]), pa.array(["x", "y", "z"]))
    assert lists.to_pylist() == [["x", "z"], [], ["y"]]


def test_masked_times_are_null():
    column = timestamps(np.array([5, 6]), np.array([False, True]))
    assert column.type == pa.timestamp("us", tz="UTC")
    assert column.cast(pa.int64()).to_pylist() == [5, None]


def test_watched_films_are_remembered_exactly_while_they_fit():
    memory = WatchedFilms(50, 70)
    pairs = np.random.default_rng(1).choice(50 * 70, size=400, replace=False)
    memory.add(pairs // 70, pairs % 70)
    users, items = np.divmod(np.arange(50 * 70), 70)
    assert np.flatnonzero(memory.contains(users, items)).tolist() == sorted(pairs.tolist())


def test_beyond_that_no_watched_film_is_forgotten_and_few_are_made_up(monkeypatch):
    monkeypatch.setattr(watched, "MOST_BITS", 1 << 16)
    memory = WatchedFilms(100_000, 100_000)
    rng = np.random.default_rng(2)
    users, items = rng.integers(100_000, size=(2, 500))
    memory.add(users, items)
    assert memory.contains(users, items).all()
    others = rng.integers(100_000, size=(2, 20_000))
    assert memory.contains(others[0], others[1]).mean() < 0.02
