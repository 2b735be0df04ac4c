"""A world's history written into a lake."""

import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from serving.errors import DataError
from training.data.schemas import EVENTS, IMPRESSIONS
from training.data.tables import Lake
from training.simulate.history import Block
from training.simulate.world import World, WorldSettings

ROWS_PER_COMMIT = 1_500_000
"""Rows gathered before a commit; two such lots are in memory, one being written while the other grows."""

Progress = Callable[[int, int, int], None]
"""Called after each day with (days done, days in all, rows so far)."""


@dataclass(frozen=True)
class SimulationReport:
    """What a simulation wrote, and how fast."""

    rows: dict[str, int]
    seconds: float
    versions: dict[str, int]
    world: Path

    @property
    def events_per_s(self) -> float:
        """Impressions and events simulated and written in a second."""
        return (self.rows["impressions"] + self.rows["events"]) / max(self.seconds, 1e-9)


def world_path(lake: Lake) -> Path:
    """Where the settings of the world behind a lake are kept: `world.json` beside it."""
    return lake.root.parent / "world.json"


def simulate(lake: Lake, settings: WorldSettings, progress: Progress | None = None) -> SimulationReport:
    """Simulates a world into an empty lake, and keeps its settings in `world.json` beside it.

    Tables are written to a folder beside the lake and moved into place when they are whole, so that a run
    which is killed leaves no lake; what it left is removed by the next run.

    Raises:
        DataError: the lake's folder holds something already, or the lake is not on this machine's disk.
    """
    if lake.objects is not None:
        raise DataError("a world is simulated on this machine's disk", [f"the lake is at {lake.objects.url}"])
    if lake.root.exists() and any(lake.root.iterdir()):
        raise DataError(
            f"{lake.root} is not empty, and a simulation is a lake of its own",
            ["choose another root in the configuration, or delete the folder first"],
        )
    started = time.perf_counter()
    draft = Lake(lake.root.with_name(lake.root.name + ".partial"))
    if draft.root.exists():
        shutil.rmtree(draft.root)
    rows = _write(draft, World(settings), progress)
    settings.save(world_path(lake))
    draft.root.rename(lake.root)
    return SimulationReport(rows, time.perf_counter() - started, lake.versions(), world_path(lake))


def _write(lake: Lake, world: World, progress: Progress | None) -> dict[str, int]:
    """Writes all tables; rows by table."""
    rows: Counter[str] = Counter()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="lake") as pool:
        commits = _Commits(lake, pool)
        commits.start({"users": world.users_table(), "items": world.items_table()}, rows)
        lot: list[Block] = []
        gathered = 0
        for block in world.blocks():
            lot.append(block)
            gathered += block.rows
            if block.last_of_day and progress is not None:
                progress(block.day + 1, world.settings.days, rows["impressions"] + rows["events"] + gathered)
            if gathered >= ROWS_PER_COMMIT:
                commits.start(_joined(lot), rows)
                lot, gathered = [], 0
        commits.start(_joined(lot), rows)
        commits.finish()
    return dict(rows)


def _joined(lot: list[Block]) -> dict[str, pa.Table]:
    """The log tables of some blocks; the declared ones without rows for none."""
    impressions, events = [IMPRESSIONS.arrow.empty_table()], [EVENTS.arrow.empty_table()]
    return {
        "impressions": pa.concat_tables(impressions + [block.impressions for block in lot]),
        "events": pa.concat_tables(events + [block.events for block in lot]),
    }


class _Commits:
    """Appends tables in the background, one lot at a time, so that simulating goes on meanwhile."""

    def __init__(self, lake: Lake, pool: ThreadPoolExecutor) -> None:
        self._lake, self._pool = lake, pool
        self._running: Future[None] | None = None

    def start(self, tables: dict[str, pa.Table], rows: Counter[str]) -> None:
        """Waits for the lot before, then starts on this one and counts its rows."""
        self.finish()
        rows.update({name: table.num_rows for name, table in tables.items()})
        self._running = self._pool.submit(self._append, tables)

    def finish(self) -> None:
        if self._running is not None:
            self._running.result()

    def _append(self, tables: dict[str, pa.Table]) -> None:
        for name, table in tables.items():
            self._lake.append(name, table)
