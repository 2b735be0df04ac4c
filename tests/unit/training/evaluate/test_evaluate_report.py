import json
import math
from io import StringIO
from pathlib import Path

import numpy as np
from rich.console import Console

from training.evaluate.report import Row, at_least, at_most, report_table, write_report


def test_a_report_is_a_list_of_rows_with_the_agreed_keys(tmp_path: Path) -> None:
    rows = [at_least("NDCG@20", 0.31, 0.25, how="make quality"), at_most("train", 320.0, 300.0, "s"), Row("users", 12)]
    path = write_report("quality", rows, tmp_path / "reports")
    assert path == tmp_path / "reports" / "quality.json"
    first, second, third = json.loads(path.read_text())
    assert first == {
        "name": "NDCG@20",
        "value": 0.31,
        "unit": "",
        "target": "≥ 0.25",
        "met": True,
        "how": "make quality",
    }
    assert (second["target"], second["met"]) == ("≤ 300", False)
    assert (third["target"], third["met"]) == (None, None)
    assert [p.name for p in path.parent.iterdir()] == ["quality.json"]


def test_nan_never_meets_a_target_and_is_null_in_json(tmp_path: Path) -> None:
    rows = [at_least("a", math.nan, 0.1), at_most("b", math.nan, 0.1), Row("c", math.nan, target="high", met=True)]
    documents = json.loads(write_report("r", rows, tmp_path).read_text())
    assert [(d["value"], d["met"]) for d in documents] == [(None, False)] * 3


def test_the_table_shows_every_row() -> None:
    console = Console(file=StringIO(), width=120)
    console.print(report_table("Quality", [at_least("NDCG@20", 0.31, 0.25), at_most("train", 320.0, 300.0, "s")]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "NDCG@20" in text
    assert "yes" in text
    assert "no" in text


def test_numbers_of_numpy_are_written_like_any_other(tmp_path: Path) -> None:
    path = write_report("speed", [at_least("rows", np.float64(2.0), 1.0)], tmp_path)
    assert json.loads(path.read_text())[0]["met"] is True
