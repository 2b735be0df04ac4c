"""What the README shows is true of this code."""

import re
from pathlib import Path

import yaml

from serving.apps.build import make_plan
from serving.config import SieveConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_pipeline_of_the_readme_can_be_built():
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    plan = make_plan(SieveConfig.model_validate(yaml.safe_load(block)).recommend)
    assert [planned.choice.label for planned in plan][-1] == "exploration"


def test_every_page_that_the_readme_names_is_there():
    pages = re.findall(r"\]\((docs/\w+\.md|CONTRIBUTING\.md)\)", README)
    assert len(pages) > 8
    assert [page for page in pages if not (ROOT / page).is_file()] == []
