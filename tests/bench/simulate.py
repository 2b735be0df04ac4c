"""How fast StreamFlix is simulated: `python -m tests.bench.simulate`.

Prints a table and writes `build/reports/simulate.json`; each figure is the median of three runs.
"""

import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from training.data.tables import Lake
from training.simulate.batch import simulate
from training.simulate.world import DEMO_WORLD, World, WorldSettings

REPORT = Path("build/reports/simulate.json")
RUNS = 3
TARGET_ROWS_PER_S = 500_000
TARGET_S = 60.0
LARGE_WORLD = WorldSettings(users=1_000_000, items=1_000_000, days=1, sessions_per_day=0.05)
LARGE_TARGET_MIB = 2_048

Row = dict[str, object]


def measure() -> list[Row]:
    """Rows of the report, the large world last because peak memory never falls."""
    default = WorldSettings()
    in_memory = [_simulate_in_memory(default) for _ in range(RUNS)]
    in_lake = [_simulate_into_lake(default) for _ in range(RUNS)]
    demo = [_simulate_into_lake(DEMO_WORLD) for _ in range(RUNS)]
    rows = [
        _row("rows of the default world", in_memory[0][0], "rows", "5M to 10M", 5e6 <= in_memory[0][0] <= 10e6),
        _rate("simulated as Arrow tables", in_memory),
        _rate("simulated and written as Delta tables", in_lake),
        _seconds("default world written", in_lake),
        _seconds("demo world written", demo),
        _peak("peak memory, default world", LARGE_TARGET_MIB),
    ]
    large = [_simulate_into_lake(LARGE_WORLD)]
    rows += [
        _seconds("1M users x 1M films, a day of few sessions, written", large, runs=1),
        _peak("peak memory, 1M users x 1M films", LARGE_TARGET_MIB),
    ]
    return rows


def _simulate_in_memory(settings: WorldSettings) -> tuple[int, float]:
    return _timed(lambda: sum(block.rows for block in World(settings).blocks()))


def _simulate_into_lake(settings: WorldSettings) -> tuple[int, float]:
    with tempfile.TemporaryDirectory(prefix="streamflix-") as folder:
        rows = simulate(Lake(Path(folder) / "lake"), settings)
        return rows.rows["impressions"] + rows.rows["events"], rows.seconds


def _timed(work: Callable[[], int]) -> tuple[int, float]:
    started = time.perf_counter()
    rows = work()
    return rows, time.perf_counter() - started


def _rate(name: str, runs: list[tuple[int, float]]) -> Row:
    value = statistics.median(rows / seconds for rows, seconds in runs)
    return _row(f"{name}, per second", round(value), "rows/s", f">= {TARGET_ROWS_PER_S}", value >= TARGET_ROWS_PER_S)


def _seconds(name: str, results: list[tuple[int, float]], runs: int = RUNS) -> Row:
    value = statistics.median(seconds for _, seconds in results)
    return _row(name, round(value, 2), "s", f"<= {TARGET_S:.0f}", value <= TARGET_S, runs)


def _peak(name: str, target_mib: int) -> Row:
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return _row(name, value, "MiB", f"<= {target_mib}", value <= target_mib, runs=1)


def _row(name: str, value: float, unit: str, target: str, met: bool, runs: int = RUNS) -> Row:
    how = f"python -m tests.bench.simulate; median of {runs} on {os.cpu_count()} cores"
    return {"name": name, "value": value, "unit": unit, "target": target, "met": met, "how": how}


def main() -> None:
    """Measures, prints and writes the report."""
    from rich.console import Console
    from rich.table import Table

    rows = measure()
    table = Table("what", "value", "unit", "target", "met")
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("name", "value", "unit", "target", "met")))
    Console().print(table)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    draft = REPORT.with_suffix(".partial")
    draft.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    draft.rename(REPORT)


if __name__ == "__main__":
    main()
