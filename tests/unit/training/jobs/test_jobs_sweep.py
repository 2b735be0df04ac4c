"""A sweep says everything that is wrong with it before the first experiment starts."""

from pathlib import Path
from typing import Any

import pytest

from serving.config import SieveConfig
from serving.errors import ConfigError
from training.config import LambdaMartSettings, NeuralRankerSettings, TrainingConfig
from training.jobs.sweep import read_sweep

BASE: dict[str, Any] = {"two_tower": {"epochs": 9, "dimension": 32}, "ranker": {"model": "lambdamart", "trees": 20}}


def swept(folder: Path, text: str, training: dict[str, Any] = BASE) -> dict[str, TrainingConfig]:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return dict(read_sweep(path, SieveConfig(training=training)))


def test_an_entry_changes_its_own_keys_and_keeps_all_others(tmp_path: Path) -> None:
    found = swept(tmp_path, "- {name: short, two_tower: {epochs: 5}}\n- {seed: 3}\n- {name: same}\n")
    assert list(found) == ["short", "#2", "same"]
    assert (found["short"].two_tower.epochs, found["short"].two_tower.dimension) == (5, 32)
    assert (found["#2"].seed, found["#2"].two_tower.epochs) == (3, 9)
    assert found["same"] == TrainingConfig.model_validate(BASE)


def test_the_problems_of_all_entries_are_reported_at_once(tmp_path: Path) -> None:
    text = "- {name: good, seed: 1}\n- {name: long, two_tower: {epochs: 0, layers: 3}}\n- {sed: 4}\n"
    with pytest.raises(ConfigError) as caught:
        swept(tmp_path, text)
    named = [problem.split(": ")[:2] for problem in caught.value.problems]
    assert named == [["long", "two_tower.epochs"], ["long", "two_tower.layers"], ["#3", "sed"]]


@pytest.mark.parametrize("text", ["", "[]", "two_tower: {epochs: 5}", "- 5", "- {seed: 1}\n- [2]"])
def test_what_is_not_a_list_of_mappings_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="must be a list of mappings"):
        swept(tmp_path, text)


def test_a_file_that_is_missing_or_no_yaml_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.yaml cannot be read"):
        swept(tmp_path, "- {seed: [1}")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read"):
        read_sweep(tmp_path / "nowhere.yaml", SieveConfig())


def test_an_entry_may_name_the_ranker_that_the_configuration_uses(tmp_path: Path) -> None:
    found = swept(tmp_path, "- {name: deeper, ranker: {depth: 7}}")
    assert found["deeper"].ranker == LambdaMartSettings(trees=20, depth=7)


def test_an_entry_may_try_another_kind_of_ranker(tmp_path: Path) -> None:
    found = swept(tmp_path, "- {name: neural, ranker: {model: neural, epochs: 2}}")
    assert found["neural"].ranker == NeuralRankerSettings(model="neural", epochs=2)
