"""The page for people says what the code does."""

import re
from pathlib import Path

import pytest
import yaml

from serving.observability.metrics import ALL, Kind
from serving.observability.settings import LogSettings, MetricsSettings, TracingSettings

PAGE = (Path(__file__).parents[4] / "docs" / "observability.md").read_text(encoding="utf-8")


def test_the_table_holds_every_metric_and_nothing_else():
    table = re.findall(r"^\| `(sieve_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    declared = [(m.name, m.kind.value, ", ".join(f"`{label}`" for label in m.labels), m.help) for m in ALL]
    assert table == declared


def test_every_query_asks_for_a_series_that_exists_with_labels_that_it_has():
    suffixes = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count")}
    labels = {m.name + s: {*m.labels, "le"} for m in ALL for s in suffixes.get(m.kind, ("",))}
    for block in re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL):
        for name, selected in re.findall(r"(sieve_\w+)(?:\{(.*?)\})?", block):
            assert name in labels
            assert set(re.findall(r"(\w+)(?:=|!)", re.sub(r'"[^"]*"', "", selected))) <= labels[name]


@pytest.mark.parametrize(
    ("section", "settings"), [("metrics", MetricsSettings), ("logging", LogSettings), ("tracing", TracingSettings)]
)
def test_the_configuration_shown_is_valid(section, settings):
    (block,) = [block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if block.startswith(section)]
    settings.model_validate(yaml.safe_load(block)[section])
