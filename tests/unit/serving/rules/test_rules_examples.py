"""The page on the pipeline is true: its examples run, and every built-in stage is on it with its settings."""

import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from rule_world import candidates, outcome, parts, request

from serving.apps.build import BUILT_IN, SOURCE, build_stage, make_plan
from serving.config import RecommendSettings

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs/pipeline.md").read_text()
EXAMPLES = sorted((ROOT / "examples/stages").glob("*.py"))


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples/stages")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def section(name):
    found = re.search(rf"^### `{name}`.*?(?=^##)", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert found, f"docs/pipeline.md has no section ### `{name}`"
    return found.group()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_stands_in_the_page_word_for_word_and_has_less_than_twenty_lines(path):
    text = path.read_text()
    assert len(text.splitlines()) < 20
    assert text in blocks("python")


def test_a_rule_of_ones_own_is_built_from_its_name_and_settings():
    rule = build_stage("surfaces:SurfaceRule", {"up_to_years": 12}, parts(maturity={1: 16, 2: 12}))
    kids, pool = request(), candidates([1, 2, 3])
    kids.query.context = SimpleNamespace(surface="kids")
    assert outcome(rule, kids, pool)[:2] == ([2, 3], {"surface": [1]})
    assert outcome(rule, request(), pool)[:2] == ([1, 2, 3], {})


def test_a_source_of_ones_own_is_built_from_its_name():
    world = parts()
    world.catalogue, world.popular_rows = world.table(), np.array([[7, 6, 5, 4, -1, -1]], np.int32)
    asked = request()
    asked.fetch = 10
    # the films of rows 0 to 11 came out in 2000 to 2011, and it is 2026
    assert build_stage("anniversaries:AnniversarySource", {}, world, SOURCE).find(asked).row.tolist() == [6]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_configuration_in_the_page_is_sound(text, tmp_path):
    document = yaml.safe_load(text)
    if isinstance(document, dict):
        make_plan(RecommendSettings.model_validate(document["recommend"]))
    else:
        path = tmp_path / "editorial.yaml"
        path.write_text(text)
        build_stage("editorial", {"file": str(path)}, parts())


@pytest.mark.parametrize(("name", "target"), BUILT_IN.items())
def test_every_built_in_stage_is_in_the_page_with_each_setting_and_its_default(name, target):
    text = section(name)
    module, _, cls = target.partition(":")
    model = getattr(getattr(importlib.import_module(module), cls), "Settings", None)
    documented = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]*?)`? \|", text, flags=re.MULTILINE))
    fields = model.model_fields if model else {}
    expected = {
        key: "required" if field.is_required() else json.dumps(field.default).strip('"')
        for key, field in fields.items()
    }
    assert documented == expected
