"""A bundle is verified by another process as it would be by this one."""

import sys

import pytest
from bundle_fixture import build_tiny_bundle

from serving.bundles.check import check_elsewhere
from serving.errors import BundleError, DependencyError


def test_a_sound_bundle_passes(tmp_path):
    check_elsewhere(build_tiny_bundle(tmp_path))


def test_every_damaged_file_of_a_bundle_is_named(tmp_path):
    path = build_tiny_bundle(tmp_path)
    for name in ("lists/rows.npy", "popular/rows.npy"):
        (path / name).write_bytes((path / name).read_bytes()[:-1])
    with pytest.raises(BundleError) as caught:
        check_elsewhere(path)
    problems = "\n".join(caught.value.problems)
    assert "lists/rows.npy" in problems
    assert "popular/rows.npy" in problems


def test_a_check_that_could_not_be_made_says_nothing_against_the_bundle(tmp_path, monkeypatch):
    path = build_tiny_bundle(tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DependencyError, match="could not be verified"):
        check_elsewhere(path)
