"""What each rule costs a request: `python -m tests.bench.rules`.

500 candidates from a catalogue of a million rows, 64 dimensions; another request's candidates each time, so that the
columns are as cold as they are in serving. A rule is run on 400 requests, nine times in turn with the others; the
figure is the smallest of the nine medians. Writes `build/reports/rules.json`.
"""

import gc
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console

from serving.apps.build import build_stage
from serving.config import Vocabulary
from serving.core.candidates import Candidates
from serving.features.item_table import EVERYWHERE, ItemTable
from serving.rules.eligibility import EligibleRule, ExcludedRule, SeenRule
from serving.rules.filters import FilterRule
from training.evaluate.report import Row, at_most, report_table, write_report

ITEMS, DIMENSION, CANDIDATES, REQUESTS, ROUNDS = 1_000_000, 64, 500, 400, 9
DAY_US = 86_400_000_000
NOW_US = 20_600 * DAY_US
GENERATOR = np.random.default_rng(7)
TARGET_US = {"diversity": 60.0}


def main() -> None:
    """Measures every rule, prints the table and writes the report."""
    parts, requests = world(), list(made_requests())
    pools = [made_pool() for _ in range(REQUESTS)]
    with tempfile.TemporaryDirectory() as folder:
        rules = every_rule(parts, editorial_file(Path(folder)))
        best = dict.fromkeys(rules, float("inf"))
        for _ in range(ROUNDS):
            for name, rule in rules.items():
                best[name] = min(best[name], median_us(rule, requests, pools))
    how = f"python -m tests.bench.rules, {CANDIDATES} candidates of {ITEMS:,} items"
    rows = [
        at_most(name, us, TARGET_US[name], "us", how) if name in TARGET_US else Row(name, us, "us", how=how)
        for name, us in best.items()
    ]
    Console(width=140).print(report_table("rules", rows))
    print(f"written to {write_report('rules', rows)}")


def every_rule(parts: Any, file: Path) -> dict[str, Any]:
    """The rules that are always there, and the built-in ones with their defaults."""
    always = {"seen": SeenRule, "excluded": ExcludedRule, "eligible": EligibleRule, "filters": FilterRule}
    settings: dict[str, dict[str, Any]] = {
        "ignored": {}, "freshness": {}, "near_duplicates": {}, "provider_cap": {}, "diversity": {},
        "editorial": {"file": str(file)}, "exploration": {},
    }  # fmt: skip
    built = {name: build_stage(name, values, parts) for name, values in settings.items()}
    return {name: rule(parts) for name, rule in always.items()} | built | {
        "diversity, depth 50": build_stage("diversity", {"depth": 50}, parts),
        "exploration, softmax": build_stage("exploration", {"draw": "softmax"}, parts),
    }  # fmt: skip


def median_us(rule: Any, requests: list[Any], pools: list[Candidates]) -> float:
    """The median over the requests of one call, microseconds."""
    times = []
    gc.disable()
    for request, pool in zip(requests, pools, strict=True):
        started = time.perf_counter_ns()
        rule.apply(request, pool)
        times.append(time.perf_counter_ns() - started)
    gc.enable()
    return float(np.median(times)) / 1000


def world() -> SimpleNamespace:
    """Stand-in parts: a tenth for adults, a third of a percent new, franchises of 8, editions of 2, 300 providers."""
    rows = np.arange(ITEMS)
    table = ItemTable(
        ids=np.char.add("i", rows.astype("U7")).astype("S8"),
        features=np.empty((ITEMS, 0), np.float32),
        feature_names=(),
        maturity=np.where(rows % 10, 0, 18).astype(np.int16),
        licence_start_us=np.zeros(ITEMS, np.int64),
        licence_end_us=np.full(ITEMS, np.iinfo(np.int64).max),
        country_mask=np.where(rows % 20, EVERYWHERE, 0).astype(np.uint64),
        available_at_us=NOW_US - GENERATOR.integers(0, 9000, ITEMS) * DAY_US,
        genre_mask=(GENERATOR.integers(0, 1 << 18, ITEMS) & GENERATOR.integers(0, 1 << 18, ITEMS)).astype(np.uint64),
        cast=np.full((ITEMS, 6), -1, np.int32),
        year=GENERATOR.integers(1950, 2026, ITEMS).astype(np.int16),
        watermark_us=NOW_US,
        franchise=np.where(rows % 5, -1, rows // 8 % 5000).astype(np.int32),
        edition=np.where(rows % 50, -1, rows // 100 % 2000).astype(np.int32),
        provider=GENERATOR.integers(0, 300, ITEMS).astype(np.int32),
    )
    vectors = GENERATOR.normal(size=(ITEMS, DIMENSION)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return SimpleNamespace(
        table=lambda: table, vocabulary=Vocabulary(), item_vectors=lambda chosen: vectors.take(chosen, axis=0)
    )


def made_requests() -> Iterator[SimpleNamespace]:
    """Grown-ups in Germany who have seen 200 items, ignored 50 and exclude 10, and want dramas."""
    for i in range(REQUESTS):
        yield SimpleNamespace(
            now_us=NOW_US,
            age_years=40.0,
            seen=_rows(200),
            excluded=_rows(10),
            ignored=_rows(50),
            prediction_id=f"{i:032x}",
            query=SimpleNamespace(
                context=SimpleNamespace(country="DE"),
                cursor=None,
                filters=SimpleNamespace(genres=("Drama",), year_from=1960, year_to=None),
            ),
        )


def made_pool() -> Candidates:
    """Candidates with a ranker's scores, best first; features come with them only where a trace was asked for."""
    return Candidates(
        row=GENERATOR.permutation(_rows(CANDIDATES)),
        score=np.sort(GENERATOR.normal(size=CANDIDATES).astype(np.float32))[::-1].copy(),
        source=np.ones(CANDIDATES, np.uint32),
        source_scores=np.zeros((CANDIDATES, 5), np.float32),
    )


def editorial_file(folder: Path) -> Path:
    """Twenty entries, five of them in force in Germany; few of their items are among the candidates."""
    times = {"from": "2020-01-01T00:00:00Z", "until": "2100-01-01T00:00:00Z", "reason": "bench"}
    entries = [
        {"item": f"i{i}", "action": "pin", "position": i, "countries": ["FR" if i % 4 else "DE"], **times}
        for i in range(20)
    ]
    path = folder / "editorial.json"
    path.write_text(json.dumps(entries))
    return path


def _rows(count: int) -> np.ndarray:
    return np.sort(GENERATOR.permutation(np.unique(GENERATOR.integers(0, ITEMS, 2 * count)))[:count]).astype(np.int32)


if __name__ == "__main__":
    main()
