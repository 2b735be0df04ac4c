"""Settings of a world: checked at once, kept beside the lake, read back whole."""

import json

import pytest

from serving.errors import ConfigError
from training.simulate.settings import DEMO_WORLD, WorldSettings


def test_every_impossible_setting_is_reported():
    with pytest.raises(ConfigError) as caught:
        WorldSettings(users=0, items=3, days="ten", start="first of May", sessions_per_day=-1, seed=True)
    problems = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 6
    for name in ("users", "items", "days", "start", "sessions_per_day", "seed"):
        assert name in problems


def test_settings_come_back_as_they_were_saved(tmp_path):
    path = tmp_path / "var" / "world.json"
    DEMO_WORLD.save(path)
    assert WorldSettings.load(path) == DEMO_WORLD
    assert [file.name for file in path.parent.iterdir()] == ["world.json"]


def test_a_missing_damaged_or_foreign_world_is_named(tmp_path):
    path = tmp_path / "world.json"
    with pytest.raises(ConfigError, match=r"no world at .*world\.json"):
        WorldSettings.load(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        WorldSettings.load(path)
    path.write_text("[1]")
    with pytest.raises(ConfigError, match="mapping"):
        WorldSettings.load(path)
    path.write_text(json.dumps({"format": 2}))
    with pytest.raises(ConfigError, match="format 1"):
        WorldSettings.load(path)
    path.write_text(json.dumps({"format": 1, "gravity": 9.8}))
    with pytest.raises(ConfigError) as caught:
        WorldSettings.load(path)
    assert caught.value.problems == ("gravity",)


def test_the_history_covers_whole_days_from_the_start():
    settings = WorldSettings(start="2026-03-01", days=2)
    assert settings.start_us == 1_772_323_200_000_000
    assert settings.end_us - settings.start_us == 2 * 86_400_000_000
