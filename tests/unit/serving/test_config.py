"""One closed configuration: every mistake is reported at once, by its path."""

from pathlib import Path

import pytest

from serving.config import RedisOnlineStore, SieveConfig, load_config
from serving.errors import ConfigError
from training.config import training_config


def _load(folder: Path, text: str) -> SieveConfig:
    path = folder / "sieve.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_three_mistakes_are_all_reported_by_their_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, "rot: var\nserver: {http_port: 99999}\nfeatures: {history_length: many}\n")
    assert len(caught.value.problems) == 3
    for path in ("rot", "server.http_port", "features.history_length"):
        assert any(problem.startswith(f"{path}:") for problem in caught.value.problems)


def test_mistakes_of_the_training_section_are_all_reported(tmp_path: Path) -> None:
    config = _load(tmp_path, "training:\n  sed: 7\n  two_tower: {epochs: 0}\n  ranker: {model: forest}\n")
    with pytest.raises(ConfigError) as caught:
        training_config(config)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["two_tower.epochs", "ranker", "sed"]


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert _load(tmp_path, "").recommend.candidates == 500


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = _load(tmp_path, "root: state\nonline_store: {type: sqlite, path: online.db}\n")
    assert config.lake == tmp_path / "state" / "lake"
    assert config.online_store.path == tmp_path / "online.db"  # type: ignore[union-attr]


def test_redis_is_chosen_by_its_type(tmp_path: Path) -> None:
    config = _load(tmp_path, "online_store: {type: redis, url: 'redis://127.0.0.1:6379/1'}\n")
    assert isinstance(config.online_store, RedisOnlineStore)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "is not YAML"), (b"- a\n", "must hold a mapping"), (b"a: \xff\n", "is not YAML")],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "sieve.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration at .*absent\.yaml"):
        load_config(tmp_path / "absent.yaml")
